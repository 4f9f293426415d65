# SPDX-License-Identifier: BSD-2-Clause
"""Calls, slots and workers for the tests of the store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.instance_health import Health
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits, Traffic
from gateway.store import failover_store
from gateway.store.interface import Store
from gateway.store.worker_id import WorkerId
from tests.store.conformance import FACTORIES, PATIENT_S, StoreFactory


@pytest.fixture
def new_call() -> Callable[..., CallDetails]:
    """Make the details of an incoming call, of another call each time."""

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
def one_slot() -> SlotLimits:
    return SlotLimits((("http://127.0.0.1:8080", Health.READY),), per_instance=1, max_instances=1)


@pytest.fixture
def many_slots() -> SlotLimits:
    return SlotLimits((("http://127.0.0.1:8080", Health.READY),), per_instance=1000, max_instances=1)


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
def browser_options() -> SessionOptions:
    """The options of a pending session that waits for a browser's socket."""
    return SessionOptions(
        transport="websocket",
        start_type="warm",
        metadata='{"ticket": 4711}',
        idle_timeout=30,
        max_duration=900.5,
    )


@pytest.fixture(autouse=True)
def patient_failover(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers is never taken for one that fails, however slow the machine is."""
    monkeypatch.setattr(failover_store, "PATIENCE_S", PATIENT_S)


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> StoreFactory:
    """Every kind of store, one after the other."""
    return FACTORIES[request.param]


@pytest.fixture
async def open_worker(factory: StoreFactory, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Open the store as one more worker, "worker-0" first; all are closed in the end."""
    opened: list[Store] = []

    async def open_one(worker: WorkerId | None = None, **limits: int) -> Store:
        worker = worker or WorkerId.of_this_process(f"worker-{len(opened)}")
        store = factory(tmp_path, worker, **limits)
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_worker: Callable[..., Any]) -> Store:
    """The store as one worker has it."""
    opened: Store = await open_worker()
    return opened
