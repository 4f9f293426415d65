# SPDX-License-Identifier: BSD-2-Clause
"""The line for a place, over several workers: its order, its size, and who is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.calls.call_queue import CallQueues
from gateway.model.session import CallDetails, QueueLimit, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, NotPromised, Queued, StoreFailed
from gateway.store.worker_id import WorkerId

Ring = Callable[..., CallDetails]
WorkAt = Callable[..., Any]
NOW = 1000.0


@pytest.fixture
def place(one_place: SlotLimits) -> SlotLimits:
    """One, with a line of three."""
    return replace(one_place, queue=QueueLimit(3, NOW + 40))


async def joins(store: Any, call: CallDetails, places: SlotLimits, now: float = NOW) -> int:
    with pytest.raises(Queued) as wait:
        await store.admit(call, places, now)
    return wait.value.number


async def test_first_come_first_served_over_two_workers(
    work_at: WorkAt, ring: Ring, place: SlotLimits, hung_up: SessionResult
) -> None:
    east, west = await work_at(), await work_at()
    running, first, second, third = (ring() for _ in range(4))
    await east.admit(running, place, NOW)
    numbers = [await joins(west, first, place), await joins(east, second, place)]
    numbers.append(await joins(west, third, place))
    assert numbers == sorted(set(numbers))
    assert await joins(west, first, place) == numbers[0], "asking again changes nothing"
    await east.ended(running.session_id, hung_up)
    await joins(east, second, place)
    await joins(west, third, place)
    await west.admit(first, place, NOW)
    await west.ended(first.session_id, hung_up)
    await joins(west, third, place)
    await east.admit(second, place, NOW)
    await east.ended(second.session_id, hung_up)
    await west.admit(third, place, NOW)


async def test_nobody_overtakes(
    work_at: WorkAt, ring: Ring, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await work_at()
    running, waits, late = ring(), ring(), ring()
    await store.admit(running, place, NOW)
    await joins(store, waits, place)
    await store.ended(running.session_id, hung_up)
    with pytest.raises(AtCapacity, match="0 of 1 places taken"):  # it is promised to the line
        await store.admit(late, replace(place, queue=None), NOW)
    await store.admit(ring("sales.acme"), place, NOW)
    await store.admit(waits, place, NOW)


async def test_the_line_is_as_long_as_it_may_be(work_at: WorkAt, ring: Ring, place: SlotLimits) -> None:
    store = await work_at()
    await store.admit(ring(), place, NOW)
    for _ in range(3):
        await joins(store, ring(), place)
    with pytest.raises(AtCapacity) as full:
        await store.admit(ring(), place, NOW)
    assert not isinstance(full.value, Queued)


async def test_who_leaves_makes_room_and_holds_nobody_up(
    work_at: WorkAt, ring: Ring, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await work_at()
    running, first, second = ring(), ring(), ring()
    await store.admit(running, place, NOW)
    await joins(store, first, place)
    await joins(store, second, place)
    store.leave_line(first.session_id)
    store.leave_line(first.session_id)
    await store.ended(running.session_id, hung_up)
    await store.admit(second, place, NOW)


async def test_who_has_given_up_by_its_own_account_is_passed_over(
    work_at: WorkAt, ring: Ring, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await work_at()
    running, frozen, later = ring(), ring(), ring()
    await store.admit(running, place, NOW)
    await joins(store, frozen, place)
    await store.ended(running.session_id, hung_up)
    await store.admit(later, replace(place, queue=QueueLimit(3, NOW + 100)), NOW + 41)


async def test_those_of_a_dead_worker_vanish_with_it(
    work_at: WorkAt, ring: Ring, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await work_at()
    running, mine = ring(), ring()
    await store.beat(NOW)
    await store.admit(running, place, NOW)
    dead = await work_at(replace(WorkerId.of_this_process("dead"), pid=2**22 + 1))  # above any pid
    await joins(dead, ring(), place)
    await joins(store, mine, place)
    await store.ended(running.session_id, hung_up)
    await joins(store, mine, place)
    await store.reap(NOW + 1)
    await store.admit(mine, place, NOW + 1)


async def test_a_promised_session_may_wait_too(
    work_at: WorkAt, ring: Ring, place: SlotLimits, hung_up: SessionResult
) -> None:
    store = await work_at()
    running, promised = ring(), ring()
    await store.promise(promised, SessionOptions(), NOW, NOW + 300)
    await store.admit(running, place, NOW)
    await joins(store, promised, place)
    await store.ended(running.session_id, hung_up)
    await store.admit(promised, place, NOW)


async def test_reserved_places_stay_free(work_at: WorkAt, ring: Ring, many_places: SlotLimits) -> None:
    store = await work_at()
    places = replace(many_places, per_instance=3)
    calls_out = replace(places, reserved=1)
    await store.admit(ring(), calls_out, NOW)
    await store.admit(ring(), calls_out, NOW)
    with pytest.raises(AtCapacity, match="2 of 3 places taken"):
        await store.admit(ring(), calls_out, NOW)
    await store.admit(ring(), places, NOW)


# Those that wait in one worker


class Asked:
    """A place that is given away in the order in which it is asked for."""

    def __init__(self) -> None:
        self.free = 0
        self.given: list[int] = []
        self.asked: list[int] = []
        self.failing = False

    def by(self, number: int) -> Callable[[], Any]:
        async def ask() -> str:
            self.asked.append(number)
            if self.failing:
                raise StoreFailed("it is gone")
            if not self.free:
                raise Queued(1, 1, number)
            self.free -= 1
            self.given.append(number)
            return "http://a:8080"

        return ask


async def test_only_the_first_asks_and_by_number() -> None:
    lines, store = CallQueues(poll_s=0), Asked()
    waiting = [
        asyncio.create_task(lines.wait("support.acme", number, store.by(number), 60)) for number in (7, 5, 6)
    ]
    while len(store.asked) < 5:
        await asyncio.sleep(0)
    assert set(store.asked[1:]) == {5}, "7 asked while it was alone"
    assert lines.waiting == 3
    store.free = 3
    await asyncio.gather(*waiting)
    assert store.given == [5, 6, 7]
    assert lines.waiting == 0


async def test_who_gives_up_lets_the_next_one_ask() -> None:
    lines, store = CallQueues(poll_s=0), Asked()
    first, second = (
        asyncio.create_task(lines.wait("support.acme", number, store.by(number), 60)) for number in (1, 2)
    )
    await asyncio.sleep(0)
    first.cancel()
    store.free = 1
    assert await second == "http://a:8080"
    assert store.given == [2]


async def test_nobody_waits_for_ever_and_a_store_may_come_back() -> None:
    lines, store = CallQueues(poll_s=0), Asked()
    with pytest.raises(TimeoutError):
        await lines.wait("support.acme", 1, store.by(1), 0.01)
    assert lines.waiting == 0
    store.failing = True
    task = asyncio.create_task(lines.wait("support.acme", 2, store.by(2), 60))
    while len(store.asked) < 3:
        await asyncio.sleep(0)
    store.failing, store.free = False, 1
    assert await task == "http://a:8080"


async def test_a_promise_that_is_over_ends_the_wait() -> None:
    async def ask() -> str:
        raise NotPromised("it was stopped")

    with pytest.raises(NotPromised):
        await CallQueues().wait("support.acme", 1, ask, 60)
