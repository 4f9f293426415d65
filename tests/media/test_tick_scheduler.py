# SPDX-License-Identifier: BSD-2-Clause
"""The one timer of all relays: which are ticked, and how every_tick."""

from __future__ import annotations

import asyncio

import pytest

from gateway.media.relay_timers import TICKS_PER_ROUND, TickScheduler


class FakeTimers:
    """Counts its ticks."""

    def __init__(self, *, is_direct: bool = True) -> None:
        self.is_direct = is_direct
        self.ticks = 0

    def tick(self, now: float) -> None:
        self.ticks += 1


@pytest.fixture
async def scheduler() -> TickScheduler:
    return TickScheduler(asyncio.get_running_loop())


def ticks(scheduler: TickScheduler, count: int) -> None:
    for _ in range(count):
        scheduler._tick()


async def test_a_relay_that_is_not_ending_is_ticked_once_a_round(scheduler: TickScheduler) -> None:
    every_tick, once_a_round = FakeTimers(), [FakeTimers() for _ in range(3 * TICKS_PER_ROUND)]
    scheduler.add(every_tick)
    for timers in once_a_round:
        scheduler.add(timers, once_a_round=True)
    before = 0
    for _ in range(TICKS_PER_ROUND):
        ticks(scheduler, 1)
        ticked = sum(timers.ticks for timers in once_a_round)
        assert ticked - before == 3, "they are spread over the ticks"
        before = ticked
    assert every_tick.ticks == TICKS_PER_ROUND
    assert {timers.ticks for timers in once_a_round} == {1}


async def test_a_relay_that_is_ending_is_ticked_at_every_tick(scheduler: TickScheduler) -> None:
    timers = FakeTimers()
    scheduler.add(timers, once_a_round=True)
    scheduler.tick_often(timers)
    ticks(scheduler, 4)
    assert timers.ticks == 4


async def test_a_removed_relay_is_ticked_no_more(scheduler: TickScheduler) -> None:
    removed = [FakeTimers(), FakeTimers()]
    scheduler.add(removed[0])
    scheduler.add(removed[1], once_a_round=True)
    for timers in removed:
        scheduler.remove(timers)
        scheduler.remove(timers)
        scheduler.tick_often(timers)
    ticks(scheduler, TICKS_PER_ROUND)
    assert [timers.ticks for timers in removed] == [0, 0]
    assert scheduler._timer is None, "the timer has stopped"


async def test_it_knows_whether_the_loop_reads_any_sockets_itself(scheduler: TickScheduler) -> None:
    assert not scheduler.all_direct()
    direct, not_direct = FakeTimers(), FakeTimers(is_direct=False)
    scheduler.add(direct, once_a_round=True)
    assert scheduler.all_direct()
    scheduler.add(not_direct)
    assert not scheduler.all_direct()
    scheduler.tick_often(not_direct)
    scheduler.remove(not_direct)
    scheduler.remove(not_direct)
    assert scheduler.all_direct()
    scheduler.remove(direct)
    assert not scheduler.all_direct()
