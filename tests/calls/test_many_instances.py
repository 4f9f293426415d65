# SPDX-License-Identifier: BSD-2-Clause
"""Calls for an agent with many instances: a call's set-up looks at a few of them, and every slot is given."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.directory import AgentDirectory
from gateway.agents.health_check import health_checks
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.calls.capacity import FEW_INSTANCES, Capacity
from gateway.config import AgentSettings, Settings
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.wiring import wire

COUNT = 100
URLS = [f"http://10.0.0.{number}:8080" for number in range(1, COUNT + 1)]


class Work:
    """One worker's slots, and how many instances the store was offered each time."""

    def __init__(self, store: SqliteStore, health: InstanceHealth, agent: AgentSettings, parts: Any) -> None:
        self.health, self.agent = health, agent
        self.capacity: Capacity = parts[0].capacity
        self.offered: list[int] = []
        admit = store.admit

        async def counted(details: CallDetails, limits: Any, *rest: Any) -> str:
            self.offered.append(len(limits.instances))
            return await admit(details, limits, *rest)

        store.admit = counted  # type: ignore[method-assign]

    async def call(self) -> str:
        """Take a slot for a new call."""
        details = CallDetails(
            session_id=str(uuid.uuid4()),
            agent=self.agent.service_host,
            organization="acme",
            region="us-west",
            carrier="twilio",
            call_id=None,
            stream_id=None,
            from_number=None,
            to_number=None,
        )
        return await self.capacity.acquire(self.agent, details)


@pytest.fixture
async def work(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Make a worker with an agent of 100 instances."""
    store = SqliteStore(tmp_path / "p.db", WorkerId.of_this_process(uuid.uuid4().hex))
    await store.open()

    def make(**agent: Any) -> Work:
        table = {"name": "support", "organization": "acme", "instances": URLS, "max_agents": COUNT}
        settings = Settings.model_validate({"agents": [table | agent]})
        directory = AgentDirectory(settings)
        health = InstanceHealth(health_checks(directory.agents))
        return Work(store, health, settings.agents[0], wire(settings, store, directory, health, None))

    yield make
    await store.close()


async def test_each_call_gets_a_slot_of_its_own_until_there_is_none(work: Callable[..., Work]) -> None:
    worker = work(health_interval=0)
    assert sorted([await worker.call() for _ in range(COUNT)]) == sorted(URLS)
    with pytest.raises(CallEnded) as refused:
        await worker.call()
    assert refused.value.reason is Reasons.at_capacity
    assert refused.value.detail == f"{COUNT} of {COUNT} places are taken"


async def test_a_call_is_offered_a_few_instances_while_there_is_room(work: Callable[..., Work]) -> None:
    worker = work(sessions_per_instance=1000, health_interval=0)
    chosen = {await worker.call() for _ in range(50)}
    assert worker.offered == [FEW_INSTANCES] * 50
    assert len(chosen) > FEW_INSTANCES  # others each time


async def test_instances_that_are_ready_come_first_however_few_they_are(work: Callable[..., Work]) -> None:
    worker = work(sessions_per_instance=1000)
    worker.health._set(URLS[70], Health.READY)
    assert {await worker.call() for _ in range(20)} == {URLS[70]}


@pytest.mark.parametrize("settings", [{"queue_size": 5}, {"reserve_outbound": 5}])
async def test_what_is_over_all_slots_looks_at_all_instances(
    work: Callable[..., Work], settings: dict[str, int]
) -> None:
    worker = work(health_interval=0, **settings)
    await worker.call()
    assert worker.offered == [COUNT]
