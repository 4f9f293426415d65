# SPDX-License-Identifier: BSD-2-Clause
"""The queue for a slot, over several workers: its order, its size, and the calls that are skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.model.session import CallDetails, QueueLimit, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, Queued
from gateway.store.worker_id import WorkerId

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]
NOW = 1000.0


@pytest.fixture
def limits(one_slot: SlotLimits) -> SlotLimits:
    """One slot, and a queue of three."""
    return replace(one_slot, queue=QueueLimit(3, NOW + 40))


async def is_queued(store: Any, call: CallDetails, limits: SlotLimits, now: float = NOW) -> int:
    with pytest.raises(Queued) as wait:
        await store.admit(call, limits, now)
    return wait.value.number


async def test_first_come_first_served_over_two_workers(
    open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits, hung_up: SessionResult
) -> None:
    east, west = await open_worker(), await open_worker()
    running, first, second, third = (new_call() for _ in range(4))
    await east.admit(running, limits, NOW)
    numbers = [await is_queued(west, first, limits), await is_queued(east, second, limits)]
    numbers.append(await is_queued(west, third, limits))
    assert numbers == sorted(set(numbers))
    assert await is_queued(west, first, limits) == numbers[0], "asking again changes nothing"
    await east.end(running.session_id, hung_up)
    await is_queued(east, second, limits)
    await is_queued(west, third, limits)
    await west.admit(first, limits, NOW)
    await west.end(first.session_id, hung_up)
    await is_queued(west, third, limits)
    await east.admit(second, limits, NOW)
    await east.end(second.session_id, hung_up)
    await west.admit(third, limits, NOW)


async def test_no_call_overtakes_the_queue(
    open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, waits, late = new_call(), new_call(), new_call()
    await store.admit(running, limits, NOW)
    await is_queued(store, waits, limits)
    await store.end(running.session_id, hung_up)
    with pytest.raises(AtCapacity, match="0 of 1 slots in use"):  # the slot is for the queue
        await store.admit(late, replace(limits, queue=None), NOW)
    await store.admit(new_call("sales.acme"), limits, NOW)
    await store.admit(waits, limits, NOW)


async def test_the_queue_has_a_limit(open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits) -> None:
    store = await open_worker()
    await store.admit(new_call(), limits, NOW)
    for _ in range(3):
        await is_queued(store, new_call(), limits)
    with pytest.raises(AtCapacity) as full:
        await store.admit(new_call(), limits, NOW)
    assert not isinstance(full.value, Queued)


async def test_a_call_that_leaves_the_queue_delays_no_other(
    open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, first, second = new_call(), new_call(), new_call()
    await store.admit(running, limits, NOW)
    await is_queued(store, first, limits)
    await is_queued(store, second, limits)
    store.leave_queue(first.session_id)
    store.leave_queue(first.session_id)
    await store.end(running.session_id, hung_up)
    await store.admit(second, limits, NOW)


async def test_a_queued_call_whose_time_is_over_is_skipped(
    open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, frozen, later = new_call(), new_call(), new_call()
    await store.admit(running, limits, NOW)
    await is_queued(store, frozen, limits)
    await store.end(running.session_id, hung_up)
    await store.admit(later, replace(limits, queue=QueueLimit(3, NOW + 100)), NOW + 41)


async def test_queued_calls_of_a_dead_worker_are_removed(
    open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, own = new_call(), new_call()
    await store.heartbeat(NOW)
    await store.admit(running, limits, NOW)
    dead = await open_worker(replace(WorkerId.of_this_process("dead"), pid=2**22 + 1))  # above any pid
    await is_queued(dead, new_call(), limits)
    await is_queued(store, own, limits)
    await store.end(running.session_id, hung_up)
    await is_queued(store, own, limits)
    await store.reap(NOW + 1)
    await store.admit(own, limits, NOW + 1)


async def test_a_pending_session_may_be_queued(
    open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, pending = new_call(), new_call()
    await store.create_pending(pending, SessionOptions(), NOW, NOW + 300)
    await store.admit(running, limits, NOW)
    await is_queued(store, pending, limits)
    await store.end(running.session_id, hung_up)
    await store.admit(pending, limits, NOW)


async def test_reserved_slots_stay_free(
    open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits
) -> None:
    store = await open_worker()
    limits = replace(many_slots, per_instance=3)
    calls_out = replace(limits, reserved=1)
    await store.admit(new_call(), calls_out, NOW)
    await store.admit(new_call(), calls_out, NOW)
    with pytest.raises(AtCapacity, match="2 of 3 slots in use"):
        await store.admit(new_call(), calls_out, NOW)
    await store.admit(new_call(), limits, NOW)


# Those that wait in one worker


async def test_a_pending_session_that_is_queued_is_known_as_such(
    open_worker: OpenWorker, new_call: NewCall, limits: SlotLimits, hung_up: SessionResult
) -> None:
    east, west = await open_worker(), await open_worker()
    running, waits, other = new_call(), new_call(), new_call()
    await east.admit(running, limits, NOW)
    for call in (waits, other):
        await east.create_pending(call, SessionOptions("websocket"), NOW, NOW + 300)
    await is_queued(east, waits, limits)

    async def queued() -> list[str]:
        records, _ = await west.sessions()
        for record in records:
            assert await west.session(record.session_id) == record
        return [record.session_id for record in records if record.queued]

    assert await queued() == [waits.session_id]
    await east.end(running.session_id, hung_up)
    await east.admit(waits, limits, NOW)
    assert await queued() == []
    await is_queued(east, other, limits)
    assert await queued() == [other.session_id]
    await east.leave_queue(other.session_id)
    assert await queued() == []
