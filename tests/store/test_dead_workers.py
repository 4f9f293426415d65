# SPDX-License-Identifier: BSD-2-Clause
"""Dead workers: which they are, and what becomes of their calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.interface import Store
from gateway.store.notifications import Topic
from gateway.store.worker_id import STALE_S, WorkerId

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]

ELSEWHERE = "another machine"


async def test_after_all_workers_were_silent_none_is_dead(
    store: Store, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    """The machine slept, or the file was out of reach: the first to wake must not end the others' calls."""
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(new_call(), one_slot, 1000.0)
    await store.heartbeat(1000.0)
    for now in (5000.0, 5005.0, 5010.0):
        await store.heartbeat(now)
        assert await store.reap(now) == []
    await far.heartbeat(5011.0)
    await store.heartbeat(5015.0)
    assert await store.reap(5015.0) == []


@pytest.mark.parametrize("set_to", [5000.0, 100.0])
async def test_a_dead_worker_is_found_though_the_clock_was_set(
    set_to: float, store: Store, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(new_call(), one_slot, 1000.0)
    await store.heartbeat(1000.0)
    for passed in (0, 4, 8, 11):
        assert await store.reap(set_to + passed) == []  # nor before its own beat
        await store.heartbeat(set_to + passed)
        assert await store.reap(set_to + passed) == []
    assert len(await store.reap(set_to + STALE_S)) == 1


async def test_a_worker_whose_process_lives_is_not_dead_because_it_was_slow(
    store: Store, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    slow = await open_worker()
    await slow.admit(new_call(), one_slot, 1000.0)
    for now in (1000.0, 1010.0, 1020.0, 1030.0):
        await store.heartbeat(now)
    assert await store.reap(1030.0) == []


async def test_a_pid_used_again_is_not_the_worker(
    store: Store, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    me = WorkerId.of_this_process("earlier")
    if not me.born:
        pytest.skip("this system does not say when a process started")
    earlier = await open_worker(dataclasses.replace(me, born=me.born - 1))
    await earlier.admit(new_call(), one_slot, 1000.0)
    assert len(await store.reap(1001.0)) == 1


async def test_a_worker_that_was_mistaken_for_dead_ends_its_own_calls(
    store: Store,
    open_worker: OpenWorker,
    new_call: NewCall,
    one_slot: SlotLimits,
    hung_up: SessionResult,
) -> None:
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    call, next_call = new_call(), new_call()
    await far.admit(call, one_slot, 1000.0)
    for now in (1000.0, 1010.0, 1020.0):
        await store.heartbeat(now)
    assert len(await store.reap(1020.0)) == 1
    await far.end(call.session_id, hung_up)  # too late, and no harm
    await far.admit(next_call, one_slot, 1021.0)  # before its next beat, and yet to be found if it dies now
    for now in (1030.0, 1040.0):
        await store.heartbeat(now)
    assert [record.session_id for record in await store.reap(1040.0)] == [next_call.session_id]


async def test_a_worker_that_left_properly_leaves_nothing_to_find(
    store: Store,
    open_worker: OpenWorker,
    new_call: NewCall,
    one_slot: SlotLimits,
    hung_up: SessionResult,
) -> None:
    call = new_call()
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(call, one_slot, 1000.0)
    await far.end(call.session_id, hung_up)
    await far.close()
    for now in (1000.0, 1010.0, 1020.0):
        await store.heartbeat(now)
    assert await store.reap(1020.0) == []
    assert (await store.counts()).over == {
        SessionState.ENDED: 0,
        SessionState.CANCELED: 1,
        SessionState.FAILED: 0,
    }


async def test_a_worker_that_left_amid_calls_is_found(
    store: Store, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(new_call(), one_slot, 1000.0)
    await far.close()
    for now in (1000.0, 1010.0, 1020.0):
        await store.heartbeat(now)
    assert len(await store.reap(1020.0)) == 1


async def test_the_end_of_a_lost_call_is_notified(
    store: Store, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    far = await open_worker(dataclasses.replace(WorkerId.of_this_process("far"), host=ELSEWHERE))
    await far.admit(new_call(), one_slot, 1000.0)
    for now in (1000.0, 1010.0, 1020.0):
        await store.heartbeat(now)
    topics = (Topic.SESSION_ENDED, Topic.SESSION_CHANGED, Topic.SLOT_FREED)
    subscriptions = [store.notifications.subscribe(topic) for topic in topics]
    for subscription in subscriptions:
        await subscription.wait()
    assert len(await store.reap(1020.0)) == 1
    for subscription in subscriptions:
        assert await subscription.wait()
        subscription.close()
