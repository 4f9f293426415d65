# SPDX-License-Identifier: BSD-2-Clause
"""Whether a session's start was cold or warm: by the instance that it got, not by those that others have."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.calls.call_queue import CallQueues
from gateway.calls.capacity import Capacity
from gateway.config import Settings
from gateway.model.session import CallDetails, SessionOptions
from gateway.store.interface import Store
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

READY, STARTING = "http://127.0.0.1:8081", "http://127.0.0.1:8082"
Admit = Callable[..., Any]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def admit(store: Store) -> Admit:
    """Admit one more session of an agent with one instance that is ready, and one that starts."""
    agent = {"name": "support", "organization": "acme", "instances": [READY, STARTING]}
    directory = AgentDirectory(Settings.model_validate({"agents": [agent]}))
    (support,) = directory.agents
    health = InstanceHealth(support.instances)
    health._health |= {READY: Health.READY, STARTING: Health.STARTING}  # no probe is made
    capacity = Capacity(store, directory, health, CallQueues(store.notifications), lambda: 1000.0)

    async def one(options: SessionOptions) -> tuple[str, str | None]:
        details = CallDetails(
            session_id=str(uuid.uuid4()),
            agent=support.service_host,
            organization=support.organization,
            region=support.region,
            carrier="twilio",
            call_id="CA1",
            stream_id="MZ1",
            from_number=None,
            to_number=None,
        )
        instance = await capacity.acquire(support, details, options)
        record = await store.session(details.session_id)
        assert record is not None
        return instance, record.start_type

    return one


async def test_a_call_starts_cold_on_an_instance_that_starts_though_another_is_ready(admit: Admit) -> None:
    """The one that is ready has a caller already."""
    assert await admit(SessionOptions()) == (READY, "warm")
    assert await admit(SessionOptions()) == (STARTING, "cold")


async def test_what_was_foreseen_at_the_request_is_corrected(admit: Admit) -> None:
    assert await admit(SessionOptions(start_type="cold")) == (READY, "warm")
    assert await admit(SessionOptions(start_type="warm")) == (STARTING, "cold")
