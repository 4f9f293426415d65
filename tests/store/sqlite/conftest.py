# SPDX-License-Identifier: BSD-2-Clause
"""The SQLite file, and workers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.store.conformance import PATIENT_S

WORKER = Path(__file__).with_name("worker_process.py")
ANSWER_S = 30.0
"""No answer takes so long: a test that waits longer hangs."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "patchbay.db"


@pytest.fixture
async def open_worker(file: Path) -> AsyncIterator[Callable[..., Any]]:
    """Open the SQLite store as one more worker, "worker-0" first; all are closed in the end."""
    opened: list[SqliteStore] = []

    async def open_one(worker: WorkerId | None = None, **limits: float) -> SqliteStore:
        limits = {"busy_s": PATIENT_S} | limits
        store = SqliteStore(file, worker or WorkerId.of_this_process(f"worker-{len(opened)}"), **limits)
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_worker: Callable[..., Any]) -> SqliteStore:
    """The store as one worker has it."""
    opened: SqliteStore = await open_worker()
    return opened


@dataclass
class WorkerProcess:
    """A worker in a process of its own (worker_process.py)."""

    process: asyncio.subprocess.Process

    async def run(self, command: str, **arguments: Any) -> Any:
        """Run a command in the worker and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        answer = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_S)
        assert answer, "the worker died"
        return json.loads(answer)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def start_worker() -> AsyncIterator[Callable[..., Any]]:
    """Start a worker process; none outlives the test."""
    started: list[WorkerProcess] = []

    async def start(worker_id: str, host: str = "") -> WorkerProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            worker_id,
            host,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(WorkerProcess(process))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.returncode is None:
            await worker.kill()
        worker.process._transport.close()  # type: ignore[attr-defined]  # its pipes; nothing public does
