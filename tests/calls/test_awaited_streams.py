# SPDX-License-Identifier: BSD-2-Clause
"""Calls whose document took their slot, by the store that two workers share: one slot a call, given back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.agents.directory import AgentDirectory
from gateway.agents.health_check import health_checks
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.auth.media_tokens import MediaTokens
from gateway.calls.awaited_streams import AwaitedCall, AwaitedStreams, SlotGivenBack, awaits_stream
from gateway.calls.call_queue import CallQueues
from gateway.calls.capacity import Capacity
from gateway.calls.command_bus import CallCommand
from gateway.calls.stream_history import StreamHistory
from gateway.config import AgentSettings, Settings
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionRecord
from gateway.simulator.waiting import WAIT_S, eventually
from gateway.store.interface import Store, StoreFailed
from gateway.store.worker_id import WorkerId
from tests.harness.agent import Agent
from tests.store.conformance import FACTORIES

NOW = 1_000_000.0
LONG_S = 3600.0
MOST = 50
CALL = AwaitedCall("twilio", "CA1", "+14155550100", "+14155550199")


@dataclasses.dataclass
class Worker:
    """One worker: its store, and its calls that await their stream."""

    store: Store
    capacity: Capacity
    awaited: AwaitedStreams
    health: InstanceHealth
    agent: AgentSettings

    async def take(self, call: AwaitedCall = CALL, most: int = MOST) -> bool:
        return await self.awaited.take(self.agent, call, most)

    def id_of(self, call: AwaitedCall = CALL) -> str:
        return self.awaited.session_id(self.agent, call)

    def details(self, call: AwaitedCall = CALL) -> CallDetails:
        """The call as its stream shows it."""
        return CallDetails(
            session_id=self.id_of(call),
            agent=self.agent.service_host,
            organization=self.agent.organization,
            region=self.agent.region,
            carrier=call.carrier,
            call_id=call.call_id,
            stream_id="MZ1",
            from_number=call.from_number,
            to_number=call.to_number,
        )

    async def record(self, call: AwaitedCall = CALL) -> SessionRecord:
        found = await self.store.session(self.id_of(call))
        assert found is not None
        return found

    async def given_back(self, call: AwaitedCall = CALL) -> SessionRecord:
        """Wait until the call's session is over; it must not look like one that failed."""
        async with asyncio.timeout(WAIT_S):
            while (record := await self.record(call)).ended_at is None:
                await asyncio.sleep(0.01)
        assert record.state is SessionState.CANCELED
        assert (record.started_at, record.stream_id) == (None, None)
        return record


@pytest.fixture(params=["sqlite", "redis"])
async def start_worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start one more worker on one store; `slots` of its one agent, `stream_s` until a stream is overdue."""
    started: list[Worker] = []

    async def start(
        slots: int = 1, stream_s: float = LONG_S, worker_id: WorkerId | None = None, **agent: Any
    ) -> Worker:
        worker_id = worker_id or WorkerId.of_this_process(f"worker-{len(started)}")
        store = FACTORIES[request.param](tmp_path, worker_id)
        await store.open()
        described = {"name": "support", "organization": "acme", "admit_at": "document"}
        described |= {"instances": ["http://127.0.0.1:9"], "sessions_per_instance": slots, **agent}
        directory = AgentDirectory(Settings.model_validate({"agents": [described]}))
        (support,) = directory.agents
        health = InstanceHealth(health_checks([support]))
        await health.start()
        capacity = Capacity(store, directory, health, CallQueues(store.notifications), lambda: NOW)
        tokens = MediaTokens(b"s" * 32, SimpleNamespace(key_values=None), lambda: NOW)  # type: ignore[arg-type]
        awaited = AwaitedStreams(store, health, capacity, tokens, lambda: NOW, stream_s=stream_s)
        started.append(Worker(store, capacity, awaited, health, support))
        return started[-1]

    yield start
    for worker in started:
        await worker.awaited.end_all()
        await worker.health.stop()
        await worker.store.close()


StartWorker = Callable[..., Any]


async def test_the_document_takes_the_slot_and_the_stream_is_attached_to_it(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker()
    assert await worker.take()
    record = await worker.record()
    assert awaits_stream(record)
    assert (record.call_id, record.from_number) == ("CA1", "+14155550100")
    with pytest.raises(CallEnded) as full:
        await worker.take(dataclasses.replace(CALL, call_id="CA2"))
    assert full.value.reason is Reasons.at_capacity
    assert await worker.awaited.attach(worker.details()) == record.instance
    attached = await worker.record()
    assert (attached.stream_id, attached.state) == ("MZ1", SessionState.STARTING)
    assert not awaits_stream(attached)
    await eventually(lambda: worker.awaited.running == 0, "nothing is awaited any more")
    await worker.awaited.end_all()  # and the call keeps its slot
    assert (await worker.record()).active


async def test_a_repeated_request_gets_the_same_session_at_any_worker(start_worker: StartWorker) -> None:
    east, west = await start_worker(), await start_worker()
    for worker in (east, east, west):
        assert await worker.take()
    assert east.id_of() == west.id_of()
    _, sessions = await west.store.sessions()
    assert sessions == 1
    assert east.id_of() != east.id_of(dataclasses.replace(CALL, carrier="telnyx"))


async def test_requests_at_once_share_one_slot(start_worker: StartWorker) -> None:
    """Also where more slots are free than one."""
    east, west = await start_worker(slots=5), await start_worker(slots=5)
    assert all(await asyncio.gather(*(worker.take() for worker in (east, west) * 4)))
    _, sessions = await west.store.sessions()
    assert sessions == 1


async def test_the_stream_may_come_to_another_worker(start_worker: StartWorker) -> None:
    east, west = await start_worker(), await start_worker()
    assert await east.take()
    await west.awaited.attach(west.details())
    await east.awaited.end_all()  # the first worker ends; the call is no longer its own
    record = await west.record()
    assert record.active
    assert record.ended_at is None
    assert await west.awaited.find("acme", "twilio", "CA1") is None


async def test_the_slot_is_given_back_if_no_stream_comes(start_worker: StartWorker) -> None:
    worker = await start_worker(stream_s=0.01)
    assert await worker.take()
    record = await worker.given_back()
    assert (record.reason, record.detail) == ("call_canceled", "no stream came within 0.01 s")
    await eventually(lambda: worker.awaited.running == 0, "nothing is awaited any more")
    await worker.capacity.acquire(worker.agent, dataclasses.replace(worker.details(), session_id="next"))


async def test_a_stream_that_comes_late_is_told_so(start_worker: StartWorker) -> None:
    east, west = await start_worker(stream_s=0.01), await start_worker()
    assert await east.take()
    await east.given_back()
    with pytest.raises(SlotGivenBack):
        await west.awaited.attach(west.details())
    assert not await east.take(), "the id of its session is used up: its stream takes the slot"


async def test_the_slot_is_given_back_if_the_carrier_says_that_the_call_is_over(
    start_worker: StartWorker,
) -> None:
    east, west = await start_worker(), await start_worker()
    assert await east.take()
    assert await west.awaited.find("acme", "twilio", "CA1") == east.id_of()
    assert await west.awaited.find("acme", "telnyx", "CA1") is None
    assert await west.awaited.find("globex", "twilio", "CA1") is None
    assert not west.awaited.handle(east.id_of(), CallCommand.CARRIER_ENDED), "it is not this worker's"
    assert not east.awaited.handle(east.id_of(), CallCommand.HANG_UP)
    assert east.awaited.handle(east.id_of(), CallCommand.CARRIER_ENDED)
    assert (await east.given_back()).reason == "call_canceled"


async def test_a_session_that_is_stopped_gives_its_slot_back_and_refuses_the_stream(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker()
    assert await worker.take()
    assert await worker.store.request_stop(worker.id_of(), NOW)
    assert not awaits_stream(await worker.record())
    assert worker.awaited.stop(worker.id_of(), CallEnded(Reasons.stopped))
    assert (await worker.given_back()).reason == "stopped"
    with pytest.raises(CallEnded) as refused:
        await worker.awaited.attach(worker.details())
    assert refused.value.reason is Reasons.unauthorized


async def test_a_worker_that_ends_gives_its_slots_back(start_worker: StartWorker) -> None:
    worker = await start_worker(slots=2)
    other = dataclasses.replace(CALL, call_id="CA2")
    assert await worker.take()
    assert await worker.take(other)
    await worker.awaited.end_all()
    for call in (CALL, other):
        assert (await worker.given_back(call)).reason == "stopped"


async def test_the_slot_of_a_worker_that_died_is_free_and_its_stream_takes_another(
    start_worker: StartWorker,
) -> None:
    alive = WorkerId.of_this_process("dead")
    if not alive.born:
        pytest.skip("this system does not say when a process began")
    dead = await start_worker(worker_id=dataclasses.replace(alive, born=alive.born - 1))
    heir = await start_worker()
    assert await dead.take()
    (lost,) = await heir.store.reap(NOW)
    assert lost.session_id == dead.id_of()
    with pytest.raises(SlotGivenBack):
        await heir.awaited.attach(heir.details())
    await heir.capacity.acquire(heir.agent, dataclasses.replace(heir.details(), session_id="another"))


async def test_before_it_is_found_dead_the_stream_is_attached_all_the_same(start_worker: StartWorker) -> None:
    alive = WorkerId.of_this_process("dead")
    if not alive.born:
        pytest.skip("this system does not say when a process began")
    dead = await start_worker(worker_id=dataclasses.replace(alive, born=alive.born - 1))
    heir = await start_worker()
    assert await dead.take()
    await heir.awaited.attach(heir.details())
    assert await heir.store.reap(NOW) == []
    assert (await heir.record()).active


async def test_the_worker_of_the_document_forgets_a_call_whose_stream_came_to_another(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would write it again, as its own, when the store has lost it."""
    east, west = await start_worker(), await start_worker()
    forgotten: list[str] = []
    monkeypatch.setattr(east.store, "forget_attached", forgotten.append)
    assert await east.take()
    await west.awaited.attach(west.details())
    await east.awaited.end_all()
    assert forgotten == [east.id_of()]
    assert (await west.record()).active


async def test_an_organisation_has_no_more_such_calls_than_it_may(start_worker: StartWorker) -> None:
    """Over both workers, and at once; a call beyond that takes its slot with its stream."""
    east, west = await start_worker(slots=20), await start_worker(slots=20)
    calls = [dataclasses.replace(CALL, call_id=f"CA{number}") for number in range(12)]
    taken = await asyncio.gather(
        *((east, west)[number % 2].take(call, 3) for number, call in enumerate(calls))
    )
    assert sum(taken) <= 3
    for call in calls:  # those that gave way to each other may have a place now
        await east.take(call, 3)
    assert east.awaited.running + west.awaited.running == 3
    assert not await east.take(dataclasses.replace(CALL, call_id="CA99"), 3)
    assert not await east.take(dataclasses.replace(CALL, call_id="CA99"), 0), "none may"
    _, sessions = await east.store.sessions()
    assert sessions == 3
    await east.awaited.end_all()
    await west.awaited.end_all()
    assert await east.take(dataclasses.replace(CALL, call_id="CA99"), 3), "and those that are over count not"


async def test_a_stream_frees_its_place_among_those_that_are_awaited(start_worker: StartWorker) -> None:
    east, west = await start_worker(slots=20), await start_worker(slots=20)
    assert await east.take(most=1)
    await west.awaited.attach(west.details())
    async with asyncio.timeout(WAIT_S):
        while not await east.take(dataclasses.replace(CALL, call_id="CA2"), 1):
            await asyncio.sleep(0.01)


async def test_while_the_store_does_not_answer_no_slot_is_taken(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_worker()

    async def fails(*_: Any, **__: Any) -> Any:
        raise StoreFailed("the store does not answer")

    monkeypatch.setattr(worker.store.key_values, "put_if_absent", fails)
    assert not await worker.take()
    monkeypatch.undo()
    monkeypatch.setattr(worker.store, "admit", fails)
    assert not await worker.take()
    monkeypatch.undo()
    assert await worker.take(most=1), "and nothing is counted of it"


async def test_the_instance_is_asked_at_once_whether_it_is_ready(
    start_worker: StartWorker, support: Agent
) -> None:
    """Of an agent with health checks: so a cold one is known, and may begin to start."""
    worker = await start_worker(instances=[support.port.url])
    worker.health.mark_unreachable(support.port.url)
    assert await worker.take()
    await eventually(lambda: worker.health.of(support.port.url) is Health.READY, "it was asked")


async def test_an_instance_without_health_checks_is_asked_once_all_the_same(
    start_worker: StartWorker,
) -> None:
    """What starts instances by their first request has one then."""
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait((await reader.readline()).decode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        worker = await start_worker(
            instances=[f"http://127.0.0.1:{port}"], health_interval=0, health_path="/up"
        )
        assert await worker.take()
        async with asyncio.timeout(WAIT_S):
            assert (await asked.get()).startswith("GET /up HTTP/1.1")
        await worker.awaited.end_all()
        assert asked.empty()
    finally:
        server.close()


async def test_a_stream_is_registered_for_another_session(start_worker: StartWorker) -> None:
    worker = await start_worker()
    history = StreamHistory(worker.store.key_values, lambda: NOW)
    call = "acme", "twilio", "CA1"
    granted: Any = SimpleNamespace(session_id=worker.id_of(), nonce="n")

    async def refuse(_: Any) -> None:
        raise AssertionError("it is the first stream")

    stream, _ = await history.register(call, granted, lambda: "never", refuse)
    replaced = await history.replace_session(call, stream, "another")
    assert await history.all(call) == [replaced]
    assert (replaced.number, replaced.nonce, replaced.session_id) == (0, "n", "another")
