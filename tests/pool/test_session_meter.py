# SPDX-License-Identifier: BSD-2-Clause
"""The pool's manager tells what an instance uses to the session that it has."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.config import Settings
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.pool import pool_manager
from gateway.pool.instance_pool import InstancePool
from gateway.pool.instance_provider import InstanceEnd, StartedInstance, StartRequest
from gateway.pool.pool_manager import ManagedNode, OwnInstance, PoolManager
from gateway.pool.process_table import Usage
from gateway.pool.session_resources import SessionMeter, stored_resources
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

URL = "http://127.0.0.1:20000"
MB = 1024 * 1024


class CountingProvider:
    """Runs nothing; each look finds that an instance has used half a second more of a core's time."""

    def __init__(self) -> None:
        self.looks = 0

    async def usage(self, instance: StartedInstance) -> Usage | None:
        self.looks += 1
        return Usage(cpu_s=self.looks / 2, memory_bytes=100 * MB)

    async def start(self, request: StartRequest) -> StartedInstance:
        raise AssertionError("nothing is started here")

    async def find(self) -> list[StartedInstance]:
        return []

    async def wait_ended(self, instance: StartedInstance) -> InstanceEnd:
        raise AssertionError("nothing ends here")

    async def stop(self, instance: StartedInstance, grace_s: float) -> None:
        """Stop nothing."""

    async def note_served(self, instance: StartedInstance, served: int) -> None:
        """Note nothing."""

    async def close(self) -> None:
        """Close nothing."""


class Node:
    """A manager with one instance, on a store of its own and a clock of the test's."""

    def __init__(self, store: SqliteStore, **agent: Any) -> None:
        bot = {"name": "bot", "organization": "acme", "command": ["bot", "{port}"], "max_agents": 1, **agent}
        settings = Settings.model_validate({"agents": [bot]})
        directory, health = AgentDirectory(settings), InstanceHealth(())
        self.store = store
        self.provider = CountingProvider()
        self.now = time.time()
        pool = InstancePool(store, directory, health, "worker", lambda: self.now)
        self.manager = PoolManager(
            ManagedNode("node", "127.0.0.1", store, pool, health, self.provider, lambda: self.now)
        )
        (settings_of,) = pool.agents()
        started = StartedInstance(
            "one", "bot.acme", 0, URL, pool.spec_of(settings_of), self.now, 0, 0.0, "", ""
        )
        self.manager._own["one"] = OwnInstance(started, None, ready_at=0.0)

    async def looks(self, times: int) -> None:
        """The manager looks, once a second."""
        for _ in range(times):
            self.now += 1.0
            await self.manager.look()

    async def begins(self) -> str:
        session_id = str(uuid.uuid4())
        details = CallDetails(session_id, "bot.acme", "acme", "us-west", "twilio", None, None, None, None)
        await self.store.admit(details, SlotLimits(((URL, 0),), 5, 5), self.now)
        return session_id

    async def ends(self, session_id: str) -> None:
        result = SessionResult(
            SessionState.ENDED,
            self.now,
            Reasons.caller_hangup.code,
            Reasons.caller_hangup.party,
            "",
            1000,
            Traffic(),
            None,
        )
        await self.store.end(session_id, result)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("worker"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def measures_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_manager, "USAGE_S", 0.0)


async def test_what_a_call_used_is_stored_when_it_is_over(store: SqliteStore) -> None:
    node = Node(store)
    await node.looks(3)
    assert node.provider.looks == 0, "an instance without a session is not looked at"
    session = await node.begins()
    await node.looks(6)
    assert await stored_resources(store.key_values, session, node.now) is None, "it goes on"
    await node.ends(session)
    await node.looks(2)
    used = await stored_resources(store.key_values, session, node.now)
    assert used is not None
    # The first look learns of the session, the second is where the first sample begins.
    assert used.samples == 5
    assert (used.cpu_millicores.least, used.cpu_millicores.most) == (500, 500)
    assert used.memory_bytes.mean == 100 * MB
    assert node.manager._meter._running == {}


async def test_of_calls_at_the_same_time_on_one_instance_nothing_is_told(store: SqliteStore) -> None:
    node = Node(store, sessions_per_instance=2)
    session = await node.begins()
    await node.looks(5)
    await node.ends(session)
    await node.looks(2)
    assert node.provider.looks == 0
    assert await stored_resources(store.key_values, session, node.now) is None


class StoreAway:
    """Key-values that do not answer until they are back."""

    def __init__(self, values: Any) -> None:
        self.is_away = True
        self._values = values

    async def put(self, *args: Any, **options: Any) -> None:
        if self.is_away:
            raise StoreFailed("away")
        await self._values.put(*args, **options)


async def test_figures_wait_for_a_store_that_is_away(store: SqliteStore) -> None:
    away: Any = StoreAway(store.key_values)
    meter, now = SessionMeter(away), time.time()
    for second in range(4):
        meter.add("a-session", now + second, float(second), MB)
    await meter.settle((), now + 4)
    assert await stored_resources(store.key_values, "a-session", now) is None
    away.is_away = False
    await meter.settle((), now + 5)
    used = await stored_resources(store.key_values, "a-session", now)
    assert used is not None
    assert (used.samples, used.ended_at) == (3, now + 4)
    assert meter._over == {}
