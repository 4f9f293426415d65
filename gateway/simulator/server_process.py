# SPDX-License-Identifier: BSD-2-Clause
"""A server as a process: started, awaited until it is ready, stopped by its id."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

PATCHBAY = (sys.executable, "-m", "gateway")
"""The `patchbay` command of this installation, whether or not its scripts are on the path."""

START_TIMEOUT_S = 300.0
"""Seconds that a process may take until it is ready. A gateway with several workers has taken
more than a minute on a machine that ran other tests at the same time.
"""

STOP_TIMEOUT_S = 60.0
"""Seconds that a process may take to end after SIGTERM before it is killed."""

READY_POLL_S = 0.02
PROBE_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 15


class RunningProcess(Protocol):
    """The part of subprocess.Popen that is used."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def returncode(self) -> int | None:
        """The exit status, None as long as nobody has asked for it since the end."""

    def poll(self) -> int | None:
        """Return the exit status, None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Block until the process ends; return its exit status. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None:
        """Send a signal."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


class StartError(Exception):
    """A process that did not become ready; the message says why, with the end of its log."""


def answers(url: str) -> bool:
    """Return True if `GET url` is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as response:  # noqa: S310 - a local URL
            return bool(response.status == 200)
    except OSError:  # refused, reset, timed out, or another status
        return False


class ServerProcess:
    """One server process whose output goes to a file.

    `with` stops it at the end of the block; `async with` does so without blocking the event loop.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log_path: Path,
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout: float = START_TIMEOUT_S,
        start: Callable[..., RunningProcess] = subprocess.Popen,
    ) -> None:
        """Start `command`. `name`: of the server in error messages. `environment`: None inherits ours.

        `start`: called as subprocess.Popen is, and starts the process in another way.
        """
        self.name = name
        self.log_path = log_path
        with log_path.open("wb") as log:
            self.process = start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=None if environment is None else dict(environment),
            )
        self._start_timeout = start_timeout
        self._deadline = time.monotonic() + start_timeout

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def wait_until_ready(self, is_ready: Callable[[], bool]) -> None:
        """Block until `is_ready` returns True.

        Raises StartError if the process ends, or is not ready `start_timeout` seconds after it was started.
        """
        while not self._ready(is_ready):
            time.sleep(READY_POLL_S)

    async def ready(self, is_ready: Callable[[], bool]) -> None:
        """Wait as `wait_until_ready` does, with `is_ready` in a thread. Raises StartError."""
        while not await asyncio.to_thread(self._ready, is_ready):  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(READY_POLL_S)

    def _ready(self, is_ready: Callable[[], bool]) -> bool:
        if not self.running:
            raise StartError(f"{self.name} ended with status {self.process.returncode}{self._log_tail()}")
        if is_ready():
            return True
        if time.monotonic() > self._deadline:
            raise StartError(f"{self.name} was not ready within {self._start_timeout:g} s{self._log_tail()}")
        return False

    def stop(self) -> int:
        """Send SIGTERM, after STOP_TIMEOUT_S SIGKILL, and return the exit status."""
        if self.running:
            self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def log_text(self) -> str:
        """Return the process's output so far."""
        return self.log_path.read_text(errors="replace")

    def _log_tail(self) -> str:
        lines = self.log_text().splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(["; its log ends:", *(f"  {line}" for line in lines)]) if lines else ""


def environment_without_settings(**added: str) -> dict[str, str]:
    """Return this process's environment without variables of Patchbay's, with `added` ones."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PATCHBAY_")}
    return inherited | added
