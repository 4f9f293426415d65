# SPDX-License-Identifier: BSD-2-Clause
"""Patchbay's own commands as processes: started, waited for until they are ready, ended by their id."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

LOOPBACK = "127.0.0.1"
READY_TIMEOUT_S = 60.0
READY_POLL_S = 0.1
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 15

PATCHBAY = (sys.executable, "-m", "gateway.cli")
"""The `patchbay` command of this very installation, whether or not its scripts are on the path."""


class StartError(Exception):
    """A process that did not become ready, and why, in words, with the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running(
    name: str, arguments: list[str], ready_url: str, log_path: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`patchbay ARGUMENTS` as a process, from its first 200 on `ready_url` to the end of the block.

    Its output goes to `log_path`. Raises StartError.
    """
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *PATCHBAY, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            await _until_ready(name, process, ready_url, log_path)
            yield process
        finally:
            await _stop(process)


async def _until_ready(
    name: str, process: asyncio.subprocess.Process, ready_url: str, log_path: Path
) -> None:
    reason = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(READY_TIMEOUT_S), aiohttp.ClientSession() as session:
            while not reason.done():
                try:
                    async with session.get(ready_url) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass  # it does not listen yet
                await asyncio.wait([reason], timeout=READY_POLL_S)
    except TimeoutError:
        raise StartError(f"{name} was not ready within {READY_TIMEOUT_S:g} s{_tail(log_path)}") from None
    finally:
        reason.cancel()
    raise StartError(f"{name} ended with status {process.returncode}{_tail(log_path)}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):  # it may end by itself at any moment
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _tail(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(["; its log ends:", *(f"  {line}" for line in lines)]) if lines else ""
