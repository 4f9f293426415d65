# SPDX-License-Identifier: BSD-2-Clause
"""Resting under load: when it begins and ends, and that no frame waits longer than it may."""

from __future__ import annotations

import asyncio

from gateway.media.batching import AWAKE_S, BUSY_SHARE, WINDOW_S, Batching

LIMIT_S = 0.002


class Machine:
    """A clock and a processor held by the test. Resting takes exactly as long as asked."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 5.0
        self.rests: list[float] = []

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds

    def works(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds

    def batching(self, limit_s: float = LIMIT_S) -> Batching:
        return Batching(limit_s, clock=lambda: self.now, cpu=lambda: self.used, rest=self.rest)

    def window(self, share: float) -> None:
        """A window goes by in which the loop was busy for this share of it."""
        self.now += WINDOW_S
        self.used += WINDOW_S * share


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_nothing_is_held_back_while_there_is_little_to_do() -> None:
    machine = Machine()
    batching = machine.batching()
    for _ in range(20):
        machine.window(BUSY_SHARE * 0.9)
        batching.look()
        await turns(3)
    assert not batching.resting
    assert machine.rests == []
    batching.stop()


async def test_a_busy_loop_rests_between_turns() -> None:
    machine = Machine()
    batching = machine.batching()
    machine.window(BUSY_SHARE * 1.1)
    batching.look()
    await turns(4)
    assert batching.resting
    assert machine.rests
    batching.stop()


async def test_it_rests_less_the_longer_the_turn_took_and_never_over_the_limit() -> None:
    machine = Machine()
    batching = machine.batching()
    machine.window(0.5)
    batching.look()
    waits = []
    for work_s in (0.0, 0.0005, 0.0015, 0.0025, 0.0):
        turned_at = machine.now
        machine.works(work_s)
        await turns(1)
        waits.append(machine.now - turned_at)
    assert all(wait <= max(LIMIT_S, 0.0025) + 1e-9 for wait in waits)
    assert max(machine.rests) <= LIMIT_S + 1e-9
    assert len(machine.rests) == 4, "a turn that took longer than the limit is followed by the next at once"
    batching.stop()


async def test_it_stops_resting_only_well_below_where_it_began() -> None:
    machine = Machine()
    batching = machine.batching()
    machine.window(BUSY_SHARE * 1.1)
    batching.look()
    machine.window(BUSY_SHARE * 0.7)
    batching.look()
    assert batching.resting, "resting saves work, which must not end it at once"
    machine.window(BUSY_SHARE * 0.4)
    batching.look()
    assert not batching.resting
    rested = len(machine.rests)
    await turns(5)
    assert len(machine.rests) == rested
    batching.stop()


async def test_zero_never_rests() -> None:
    batching = Machine().batching(0)
    batching.start()
    assert not batching.resting
    batching.stop()


async def test_stopping_holds_nothing_back_any_more() -> None:
    machine = Machine()
    batching = machine.batching()
    batching.start()
    machine.window(0.9)
    batching.look()
    batching.stop()
    await turns(3)
    assert machine.rests == []


async def test_what_takes_many_turns_waits_for_none_of_them() -> None:
    machine = Machine()
    batching = machine.batching()
    machine.window(0.5)
    batching.look()
    batching.stay_awake()
    await turns(5)
    assert machine.rests == []
    machine.now += AWAKE_S
    await turns(1)
    batching.stay_awake()
    machine.now += AWAKE_S / 2
    await turns(3)
    machine.works(AWAKE_S)
    async with asyncio.timeout(10):
        while not machine.rests:  # and then it rests again
            await asyncio.sleep(AWAKE_S / 4)
    batching.stop()


async def test_who_stays_awake_does_not_turn_for_nothing() -> None:
    """A loop that is called again at once, turn after turn, fills its core with that."""
    machine = Machine()
    batching = machine.batching()
    machine.window(0.5)
    batching.look()
    batching.stay_awake()
    await turns(2)
    pending = batching._next
    await turns(100)
    assert batching._next is pending
    batching.stop()


async def test_resting_that_begins_again_turns_once() -> None:
    machine = Machine()
    batching = machine.batching()
    machine.window(0.5)
    batching.look()
    batching.stay_awake()
    await turns(2)
    before = batching._next
    machine.window(0.0)
    batching.look()
    machine.window(0.5)
    batching.look()
    assert before is not None
    assert before.cancelled()
    batching.stop()
