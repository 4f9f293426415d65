# SPDX-License-Identifier: BSD-2-Clause
"""Calls, places and workers for the tests of sessions."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits, Traffic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

WORKER = Path(__file__).with_name("worker_process.py")
ANSWER_S = 30.0
"""No answer takes so long: a test that waits longer hangs."""


@pytest.fixture
def ring() -> Callable[..., CallDetails]:
    """A call that comes in, another one each time."""

    def call(agent: str = "support.acme", **details: Any) -> CallDetails:
        described: dict[str, Any] = {
            "session_id": str(uuid.uuid4()),
            "agent": agent,
            "organization": agent.partition(".")[2],
            "region": "us-west",
            "carrier": "twilio",
            "call_id": "CA0123",
            "stream_id": "MZ0123",
            "from_number": "+15551230000",
            "to_number": "+15559876543",
        }
        return CallDetails(**described | details)

    return call


@pytest.fixture
def one_place() -> SlotLimits:
    return SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=1, max_instances=1)


@pytest.fixture
def many_places() -> SlotLimits:
    return SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=1000, max_instances=1)


@pytest.fixture
def hung_up() -> SessionResult:
    """The caller hung up at 1060.5, after the agent had spoken."""
    return SessionResult(
        state=SessionState.ENDED,
        ended_at=1060.5,
        reason="caller_hangup",
        side=Party.CALLER,
        detail="stop received",
        close_code=1000,
        traffic=Traffic(frames_in=3000, bytes_in=480_000, frames_out=1500, bytes_out=240_000),
        first_agent_sound_at=1001.25,
    )


@pytest.fixture
def browser() -> SessionOptions:
    """What a client said that was promised a session for its own socket."""
    return SessionOptions(
        transport="websocket",
        start_type="warm",
        metadata='{"ticket": 4711}',
        idle_timeout=30,
        max_duration=900.5,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "patchbay.db"


@pytest.fixture
async def work_at(file: Path) -> AsyncIterator[Callable[..., Any]]:
    """Opens the store as another worker; every one is closed in the end.

    However long another process has the file for itself, it is waited for, unless a test says otherwise.
    """
    opened: list[SqliteStore] = []

    async def open_one(owner: WorkerId | None = None, **limits: float) -> SqliteStore:
        limits = {"busy_s": ANSWER_S} | limits
        store = SqliteStore(file, owner or WorkerId.of_this_process(f"worker-{len(opened)}"), **limits)
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(work_at: Callable[..., Any]) -> SqliteStore:
    """The store, as one worker has it."""
    opened: SqliteStore = await work_at()
    return opened


@dataclass
class WorkerProcess:
    """A worker in a process of its own, which does as it is told (worker_process.py)."""

    process: asyncio.subprocess.Process

    async def does(self, **command: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        answer = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_S)
        assert answer, "the worker died"
        return json.loads(answer)

    async def dies_at_once(self) -> None:
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def hire() -> AsyncIterator[Callable[..., Any]]:
    """Starts a worker process; none outlives the test."""
    hired: list[WorkerProcess] = []

    async def one(owner_id: str, host: str = "") -> WorkerProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            owner_id,
            host,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        hired.append(WorkerProcess(process))
        return hired[-1]

    yield one
    for worker in hired:
        if worker.process.returncode is None:
            await worker.dies_at_once()
        worker.process._transport.close()  # type: ignore[attr-defined]  # its pipes; nothing public does
