# SPDX-License-Identifier: BSD-2-Clause
"""The one clock of all relays: who is told the time, and how often."""

from __future__ import annotations

import asyncio

import pytest

from gateway.media.relay_timers import TICKS_PER_ROUND, TickScheduler


class Watch:
    """Counts how often it was told the time."""

    def __init__(self, *, is_direct: bool = True) -> None:
        self.is_direct = is_direct
        self.told = 0

    def tick(self, now: float) -> None:
        self.told += 1


@pytest.fixture
async def clock() -> TickScheduler:
    return TickScheduler(asyncio.get_running_loop())


def ticks(clock: TickScheduler, count: int) -> None:
    for _ in range(count):
        clock._tick()


async def test_whoever_may_wait_is_told_once_in_so_many_ticks(clock: TickScheduler) -> None:
    often, seldom = Watch(), [Watch() for _ in range(3 * TICKS_PER_ROUND)]
    clock.add(often)
    for watch in seldom:
        clock.add(watch, once_a_round=True)
    before = 0
    for _ in range(TICKS_PER_ROUND):
        ticks(clock, 1)
        told = sum(watch.told for watch in seldom)
        assert told - before == 3, "they are spread over the ticks"
        before = told
    assert often.told == TICKS_PER_ROUND
    assert {watch.told for watch in seldom} == {1}


async def test_whoever_hurries_is_told_with_every_tick(clock: TickScheduler) -> None:
    watch = Watch()
    clock.add(watch, once_a_round=True)
    clock.tick_often(watch)
    ticks(clock, 4)
    assert watch.told == 4


async def test_whoever_left_is_told_no_more_and_cannot_hurry(clock: TickScheduler) -> None:
    watches = [Watch(), Watch()]
    clock.add(watches[0])
    clock.add(watches[1], once_a_round=True)
    for watch in watches:
        clock.remove(watch)
        clock.remove(watch)
        clock.tick_often(watch)
    ticks(clock, TICKS_PER_ROUND)
    assert [watch.told for watch in watches] == [0, 0]
    assert clock._timer is None, "nobody is waited for"


async def test_it_knows_whether_the_loop_watches_anybodys_sockets(clock: TickScheduler) -> None:
    assert not clock.all_direct()
    direct, apart = Watch(), Watch(is_direct=False)
    clock.add(direct, once_a_round=True)
    assert clock.all_direct()
    clock.add(apart)
    assert not clock.all_direct()
    clock.tick_often(apart)
    clock.remove(apart)
    clock.remove(apart)
    assert clock.all_direct()
    clock.remove(direct)
    assert not clock.all_direct()
