# SPDX-License-Identifier: BSD-2-Clause
"""The line for a place, over several workers: its order, its size, and who is passed over."""

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
def place(one_slot: SlotLimits) -> SlotLimits:
    """One, with a line of three."""
    return replace(one_slot, queue=QueueLimit(3, NOW + 40))


async def joins(store: Any, call: CallDetails, limits: SlotLimits, now: float = NOW) -> int:
    with pytest.raises(Queued) as wait:
        await store.admit(call, limits, now)
    return wait.value.number


async def test_first_come_first_served_over_two_workers(
    open_worker: OpenWorker, new_call: NewCall, place: SlotLimits, hung_up: SessionResult
) -> None:
    east, west = await open_worker(), await open_worker()
    running, first, second, third = (new_call() for _ in range(4))
    await east.admit(running, place, NOW)
    numbers = [await joins(west, first, place), await joins(east, second, place)]
    numbers.append(await joins(west, third, place))
    assert numbers == sorted(set(numbers))
    assert await joins(west, first, place) == numbers[0], "asking again changes nothing"
    await east.end(running.session_id, hung_up)
    await joins(east, second, place)
    await joins(west, third, place)
    await west.admit(first, place, NOW)
    await west.end(first.session_id, hung_up)
    await joins(west, third, place)
    await east.admit(second, place, NOW)
    await east.end(second.session_id, hung_up)
    await west.admit(third, place, NOW)


async def test_nobody_overtakes(
    open_worker: OpenWorker, new_call: NewCall, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, waits, late = new_call(), new_call(), new_call()
    await store.admit(running, place, NOW)
    await joins(store, waits, place)
    await store.end(running.session_id, hung_up)
    with pytest.raises(AtCapacity, match="0 of 1 slots in use"):  # it is promised to the line
        await store.admit(late, replace(place, queue=None), NOW)
    await store.admit(new_call("sales.acme"), place, NOW)
    await store.admit(waits, place, NOW)


async def test_the_line_is_as_long_as_it_may_be(
    open_worker: OpenWorker, new_call: NewCall, place: SlotLimits
) -> None:
    store = await open_worker()
    await store.admit(new_call(), place, NOW)
    for _ in range(3):
        await joins(store, new_call(), place)
    with pytest.raises(AtCapacity) as full:
        await store.admit(new_call(), place, NOW)
    assert not isinstance(full.value, Queued)


async def test_who_leaves_makes_room_and_holds_nobody_up(
    open_worker: OpenWorker, new_call: NewCall, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, first, second = new_call(), new_call(), new_call()
    await store.admit(running, place, NOW)
    await joins(store, first, place)
    await joins(store, second, place)
    store.leave_queue(first.session_id)
    store.leave_queue(first.session_id)
    await store.end(running.session_id, hung_up)
    await store.admit(second, place, NOW)


async def test_who_has_given_up_by_its_own_account_is_passed_over(
    open_worker: OpenWorker, new_call: NewCall, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, frozen, later = new_call(), new_call(), new_call()
    await store.admit(running, place, NOW)
    await joins(store, frozen, place)
    await store.end(running.session_id, hung_up)
    await store.admit(later, replace(place, queue=QueueLimit(3, NOW + 100)), NOW + 41)


async def test_those_of_a_dead_worker_vanish_with_it(
    open_worker: OpenWorker, new_call: NewCall, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, mine = new_call(), new_call()
    await store.heartbeat(NOW)
    await store.admit(running, place, NOW)
    dead = await open_worker(replace(WorkerId.of_this_process("dead"), pid=2**22 + 1))  # above any pid
    await joins(dead, new_call(), place)
    await joins(store, mine, place)
    await store.end(running.session_id, hung_up)
    await joins(store, mine, place)
    await store.reap(NOW + 1)
    await store.admit(mine, place, NOW + 1)


async def test_a_promised_session_may_wait_too(
    open_worker: OpenWorker, new_call: NewCall, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_worker()
    running, promised = new_call(), new_call()
    await store.create_pending(promised, SessionOptions(), NOW, NOW + 300)
    await store.admit(running, place, NOW)
    await joins(store, promised, place)
    await store.end(running.session_id, hung_up)
    await store.admit(promised, place, NOW)


async def test_reserved_places_stay_free(
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
