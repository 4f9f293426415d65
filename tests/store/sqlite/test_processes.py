# SPDX-License-Identifier: BSD-2-Clause
"""Several workers at one file: capacity over all of them, and what becomes of the calls of one that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity
from gateway.store.notifications import Topic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import STALE_S
from tests.store.conformance import PATIENT_S

NewCall = Callable[..., CallDetails]
StartWorker = Callable[..., Any]
OpenWorker = Callable[..., Any]

FIFTY_PLACES = {"instances": 60, "per_instance": 1, "max_instances": 50}
THREE_PLACES = {"instances": 1, "per_instance": 3, "max_instances": 1}
ELSEWHERE = "another machine"
UNTIL = 1300.0


async def test_200_calls_for_50_slots_at_two_workers(start_worker: StartWorker, file: Path) -> None:
    workers = [await start_worker("east"), await start_worker("west")]
    for worker in workers:
        await worker.run("open", path=str(file))
    for _ in range(2):  # and after all hung up, the same again
        answers = await asyncio.gather(*(w.run("arrive", calls=100, **FIFTY_PLACES) for w in workers))
        instances = [instance for answer in answers for instance in answer["admitted"]]
        assert len(instances) == 50
        assert len(set(instances)) == 50
        assert sum(answer["refused"] for answer in answers) == 150
        assert sum(await asyncio.gather(*(w.run("hang_up") for w in workers))) == 50


async def test_calls_share_instances_when_no_more_may_be_in_use(
    start_worker: StartWorker, file: Path
) -> None:
    workers = [await start_worker("east"), await start_worker("west")]
    for worker in workers:
        await worker.run("open", path=str(file))
    limits = {"instances": 9, "per_instance": 5, "max_instances": 2}
    answers = await asyncio.gather(*(w.run("arrive", calls=20, **limits) for w in workers))
    instances = [instance for answer in answers for instance in answer["admitted"]]
    assert len(instances) == 10
    assert len(set(instances)) == 2


async def test_two_workers_create_the_same_file_at_once(start_worker: StartWorker, tmp_path: Path) -> None:
    workers = [await start_worker("east"), await start_worker("west")]
    for n in range(20):
        fresh = str(tmp_path / f"{n}.db")
        assert await asyncio.gather(*(w.run("open", path=fresh) for w in workers)) == ["open", "open"]
        answers = await asyncio.gather(*(w.run("arrive", calls=2, **THREE_PLACES) for w in workers))
        assert sum(len(answer["admitted"]) for answer in answers) == 3
        await asyncio.gather(*(w.run("close") for w in workers))


async def test_the_calls_of_a_killed_worker_are_ended_by_the_survivor(
    start_worker: StartWorker, store: SqliteStore, file: Path, new_call: NewCall
) -> None:
    victim = await start_worker("victim")
    await victim.run("open", path=str(file))
    admitted = (await victim.run("arrive", calls=3, **THREE_PLACES))["admitted"]
    limits = SlotLimits(((admitted[0], 0),), 3, 1)
    assert await store.reap(1001.0) == []  # it lives

    await victim.kill()
    with pytest.raises(AtCapacity):
        await store.admit(new_call(), limits, 1001.0)
    lost = await store.reap(1001.5)
    assert len(lost) == 3
    for record in lost:
        assert (record.state, record.reason, record.side) == (
            SessionState.FAILED,
            "gateway_lost",
            Party.GATEWAY,
        )
        assert (record.owner, record.ended_at) == ("victim", 1001.5)
        assert record == await store.session(record.session_id)
    assert await store.reap(1002.0) == []
    await store.admit(new_call(), limits, 1002.0)
    assert (await store.counts()).over[SessionState.FAILED] == 3


async def test_a_killed_worker_that_cannot_be_looked_up_is_known_by_its_silence(
    start_worker: StartWorker, store: SqliteStore, file: Path
) -> None:
    victim = await start_worker("victim", ELSEWHERE)
    await victim.run("open", path=str(file))
    await victim.run("arrive", calls=3, **THREE_PLACES)
    await victim.run("heartbeat", now=1003.0)
    await victim.kill()
    for now in (1000.0, 1005.0, 1010.0, 1015.0):
        await store.heartbeat(now)
        assert await store.reap(now) == []
    lost = await store.reap(1003.0 + STALE_S + 0.5)
    assert [record.owner for record in lost] == ["victim"] * 3
    assert lost[0].detail == "nothing heard for 12 s"


async def test_of_two_processes_one_writes_an_absent_value(start_worker: StartWorker, file: Path) -> None:
    workers = [await start_worker("east"), await start_worker("west")]
    for worker in workers:
        await worker.run("open", path=str(file))
    keys = [f"nonce-{n}" for n in range(200)]
    east, west = await asyncio.gather(*(w.run("use_up", keys=keys) for w in workers))
    assert [a + b for a, b in zip(east, west, strict=True)] == [1] * 200


async def test_of_two_processes_one_admits_a_pending_session(
    start_worker: StartWorker,
    store: SqliteStore,
    file: Path,
    new_call: NewCall,
    browser_options: SessionOptions,
) -> None:
    workers = [await start_worker("east"), await start_worker("west")]
    for worker in workers:
        await worker.run("open", path=str(file))
    for _ in range(10):
        call = new_call()
        await store.create_pending(call, browser_options, 999.0, UNTIL)
        answers = await asyncio.gather(
            *(
                worker.run("take", session_id=call.session_id, instance="http://127.0.0.1:8080")
                for worker in workers
            )
        )
        assert sorted(answers) == ["NotPending", "http://127.0.0.1:8080"]
        await asyncio.gather(*(worker.run("hang_up") for worker in workers))


async def test_a_stop_request_of_another_process_is_notified(
    start_worker: StartWorker,
    store: SqliteStore,
    file: Path,
    new_call: NewCall,
    many_slots: SlotLimits,
    hung_up: SessionResult,
) -> None:
    calls = [new_call() for _ in range(3)]
    for call in calls:
        await store.admit(call, many_slots, 1000.0)
    other = await start_worker("other")
    await other.run("open", path=str(file))
    with store.notifications.subscribe(Topic.STOP_REQUESTED) as subscription:
        assert await subscription.wait()
        assert await store.stop_requests() == []
        for call in (calls[2], calls[0]):
            assert await other.run("stop", session_id=call.session_id)
        async with asyncio.timeout(PATIENT_S):
            while len(await store.stop_requests()) < 2:
                await subscription.wait()
    assert await store.stop_requests() == [calls[0].session_id, calls[2].session_id]
    record = await store.session(calls[0].session_id)
    assert record is not None
    assert (record.state, record.stop_requested_at) == (
        SessionState.STARTING,
        1000.0,
    )  # its worker has to end it

    await store.end(calls[0].session_id, hung_up)
    assert await store.stop_requests() == [calls[2].session_id]
