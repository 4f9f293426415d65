# SPDX-License-Identifier: BSD-2-Clause
"""Several workers at one file: capacity over all of them, and what becomes of the calls of one that dies."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import STALE_S, WorkerId

Ring = Callable[..., CallDetails]
Hire = Callable[..., Any]
WorkAt = Callable[..., Any]

FIFTY_PLACES = {"instances": 60, "per_instance": 1, "max_instances": 50}
THREE_PLACES = {"instances": 1, "per_instance": 3, "max_instances": 1}
ELSEWHERE = "another machine"


async def test_200_arrivals_for_50_places_at_two_workers(hire: Hire, file: Path) -> None:
    workers = [await hire("east"), await hire("west")]
    for worker in workers:
        await worker.does(do="open", path=str(file))
    for _ in range(2):  # and after all hung up, the same again
        answers = await asyncio.gather(*(w.does(do="arrive", calls=100, **FIFTY_PLACES) for w in workers))
        instances = [instance for answer in answers for instance in answer["admitted"]]
        assert len(instances) == 50
        assert len(set(instances)) == 50
        assert sum(answer["refused"] for answer in answers) == 150
        assert sum(await asyncio.gather(*(w.does(do="hang_up") for w in workers))) == 50


async def test_calls_share_instances_when_no_more_may_be_in_use(hire: Hire, file: Path) -> None:
    workers = [await hire("east"), await hire("west")]
    for worker in workers:
        await worker.does(do="open", path=str(file))
    places = {"instances": 9, "per_instance": 5, "max_instances": 2}
    answers = await asyncio.gather(*(w.does(do="arrive", calls=20, **places) for w in workers))
    instances = [instance for answer in answers for instance in answer["admitted"]]
    assert len(instances) == 10
    assert len(set(instances)) == 2


async def test_two_workers_make_the_same_file_at_once(hire: Hire, tmp_path: Path) -> None:
    workers = [await hire("east"), await hire("west")]
    for n in range(20):
        fresh = str(tmp_path / f"{n}.db")
        assert await asyncio.gather(*(w.does(do="open", path=fresh) for w in workers)) == ["open", "open"]
        answers = await asyncio.gather(*(w.does(do="arrive", calls=2, **THREE_PLACES) for w in workers))
        assert sum(len(answer["admitted"]) for answer in answers) == 3
        await asyncio.gather(*(w.does(do="close") for w in workers))


async def test_the_calls_of_a_killed_worker_are_ended_by_the_survivor(
    hire: Hire, store: SqliteStore, file: Path, ring: Ring
) -> None:
    victim = await hire("victim")
    await victim.does(do="open", path=str(file))
    admitted = (await victim.does(do="arrive", calls=3, **THREE_PLACES))["admitted"]
    places = SlotLimits(((admitted[0], 0),), 3, 1)
    assert await store.reap(1001.0) == []  # it lives

    await victim.dies_at_once()
    with pytest.raises(AtCapacity):
        await store.admit(ring(), places, 1001.0)
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
    await store.admit(ring(), places, 1002.0)
    assert (await store.counts()).over[SessionState.FAILED] == 3


async def test_a_killed_worker_that_cannot_be_looked_up_is_known_by_its_silence(
    hire: Hire, store: SqliteStore, file: Path
) -> None:
    victim = await hire("victim", ELSEWHERE)
    await victim.does(do="open", path=str(file))
    await victim.does(do="arrive", calls=3, **THREE_PLACES)
    await victim.does(do="beat", now=1003.0)
    await victim.dies_at_once()
    for now in (1000.0, 1005.0, 1010.0, 1015.0):
        await store.beat(now)
        assert await store.reap(now) == []
    lost = await store.reap(1003.0 + STALE_S + 0.5)
    assert [record.owner for record in lost] == ["victim"] * 3
    assert lost[0].detail == "nothing heard for 12 s"


async def test_after_everybody_was_silent_nobody_is_taken_for_dead(
    store: SqliteStore, work_at: WorkAt, ring: Ring, one_place: SlotLimits
) -> None:
    """The machine slept, or the file was out of reach: the first to wake must not end the others' calls."""
    far = await work_at(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(ring(), one_place, 1000.0)
    await store.beat(1000.0)
    for now in (5000.0, 5005.0, 5010.0):
        await store.beat(now)
        assert await store.reap(now) == []
    await far.beat(5011.0)
    await store.beat(5015.0)
    assert await store.reap(5015.0) == []


@pytest.mark.parametrize("set_to", [5000.0, 100.0])
async def test_a_dead_worker_is_found_though_the_clock_was_set(
    set_to: float, store: SqliteStore, work_at: WorkAt, ring: Ring, one_place: SlotLimits
) -> None:
    far = await work_at(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(ring(), one_place, 1000.0)
    await store.beat(1000.0)
    for passed in (0, 4, 8, 11):
        assert await store.reap(set_to + passed) == []  # nor before its own beat
        await store.beat(set_to + passed)
        assert await store.reap(set_to + passed) == []
    assert len(await store.reap(set_to + STALE_S)) == 1


async def test_a_worker_whose_process_lives_is_not_dead_because_it_was_slow(
    store: SqliteStore, work_at: WorkAt, ring: Ring, one_place: SlotLimits
) -> None:
    slow = await work_at()
    await slow.admit(ring(), one_place, 1000.0)
    for now in (1000.0, 1010.0, 1020.0, 1030.0):
        await store.beat(now)
    assert await store.reap(1030.0) == []


async def test_a_pid_used_again_is_not_the_worker(
    store: SqliteStore, work_at: WorkAt, ring: Ring, one_place: SlotLimits
) -> None:
    me = WorkerId.of_this_process("earlier")
    if not me.born:
        pytest.skip("this system does not say when a process started")
    earlier = await work_at(dataclasses.replace(me, born=me.born - 1))
    await earlier.admit(ring(), one_place, 1000.0)
    assert len(await store.reap(1001.0)) == 1


async def test_a_worker_ends_its_own_calls_even_if_it_was_taken_for_dead(
    store: SqliteStore, work_at: WorkAt, ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    far = await work_at(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    call, next_call = ring(), ring()
    await far.admit(call, one_place, 1000.0)
    for now in (1000.0, 1010.0, 1020.0):
        await store.beat(now)
    assert len(await store.reap(1020.0)) == 1
    await far.ended(call.session_id, hung_up)  # too late, and no harm
    await far.admit(next_call, one_place, 1021.0)  # before its next beat, and yet to be found if it dies now
    for now in (1030.0, 1040.0):
        await store.beat(now)
    assert [record.session_id for record in await store.reap(1040.0)] == [next_call.session_id]


async def test_a_worker_that_left_properly_leaves_nothing_to_find(
    store: SqliteStore, work_at: WorkAt, ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    call = ring()
    far = await work_at(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(call, one_place, 1000.0)
    await far.ended(call.session_id, hung_up)
    await far.close()
    for now in (1000.0, 1010.0, 1020.0):
        await store.beat(now)
    assert await store.reap(1020.0) == []
    assert (await store.counts()).over == {
        SessionState.ENDED: 0,
        SessionState.CANCELED: 1,
        SessionState.FAILED: 0,
    }


async def test_a_worker_that_left_amid_calls_is_found(
    store: SqliteStore, work_at: WorkAt, ring: Ring, one_place: SlotLimits
) -> None:
    far = await work_at(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(ring(), one_place, 1000.0)
    await far.close()
    for now in (1000.0, 1010.0, 1020.0):
        await store.beat(now)
    assert len(await store.reap(1020.0)) == 1


def test_a_process_is_gone_when_it_was_killed_even_before_its_parent_asked() -> None:
    me = WorkerId.of_this_process("me")
    assert not me.process_gone()
    if not me.born:
        pytest.skip("this system does not tell a zombie")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        born = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        owner = WorkerId("child", me.host, child.pid, born)
        assert not owner.process_gone()
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
        assert owner.process_gone()
    assert owner.process_gone()


def test_where_the_system_says_no_birth_the_pid_alone_decides() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = WorkerId("child", "here", child.pid, 0)
        assert not owner.process_gone()
        child.kill()
    assert owner.process_gone()
