# SPDX-License-Identifier: BSD-2-Clause
"""Saving turns under load: when it begins and ends, and that no frame waits longer than it may."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.media.loop_batcher import AWAKE_S, REST_SHARE, RESTS, STAY_S, STAY_SHARE, WINDOW_S, LoopBatcher

LIMIT_S = 0.002


class Machine:
    """A clock and a processor held by the test. Resting takes exactly as long as asked."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 5.0
        self.clients: list[float] = []

    def rest(self, seconds: float) -> None:
        self.clients.append(seconds)
        self.now += seconds

    def works(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds

    def turns(self, limit_s: float = LIMIT_S, **more: Any) -> LoopBatcher:
        return LoopBatcher(limit_s, clock=lambda: self.now, cpu=lambda: self.used, rest=self.rest, **more)

    def window(self, share: float) -> None:
        """A window goes by in which the loop was busy for this share of it."""
        self.now += WINDOW_S
        self.used += WINDOW_S * share


class Stays:
    """Stays with sockets, on which something comes or nothing does."""

    def __init__(self, *, sound: bool = True) -> None:
        self.asked: list[tuple[float, float]] = []
        self.sound = sound

    def __call__(self, seconds: float, rest_s: float) -> bool:
        self.asked.append((seconds, rest_s))
        return self.sound


def look(turns: LoopBatcher) -> None:
    """Looks at the load now, and only when the test says so: real time may go by as it likes."""
    turns.look()
    if turns._watch is not None:
        turns._watch.cancel()


async def pass_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_nothing_is_held_back_while_there_is_little_to_do() -> None:
    machine = Machine()
    turns = machine.turns()
    for _ in range(20):
        machine.window(REST_SHARE * 0.9)
        look(turns)
        await pass_turns(3)
    assert not turns.saving
    assert machine.clients == []
    turns.stop()


async def test_a_busy_loop_rests_between_turns() -> None:
    machine = Machine()
    turns = machine.turns()
    machine.window(REST_SHARE * 1.1)
    look(turns)
    await pass_turns(4)
    assert turns.saving
    assert machine.clients
    turns.stop()


async def test_it_rests_less_the_longer_the_turn_took_and_never_over_the_limit() -> None:
    machine = Machine()
    turns = machine.turns()
    machine.window(0.5)
    look(turns)
    waits = []
    for work_s in (0.0, 0.0005, 0.0015, 0.0025, 0.0):
        turned_at = machine.now
        machine.works(work_s)
        await pass_turns(1)
        waits.append(machine.now - turned_at)
    assert all(wait <= max(LIMIT_S, 0.0025) + 1e-9 for wait in waits)
    assert max(machine.clients) <= LIMIT_S + 1e-9
    assert len(machine.clients) == 4, "a turn that took longer than the limit is followed by the next at once"
    turns.stop()


async def test_it_stops_resting_only_well_below_where_it_began() -> None:
    machine = Machine()
    turns = machine.turns()
    machine.window(REST_SHARE * 1.1)
    look(turns)
    machine.window(REST_SHARE * 0.7)
    look(turns)
    assert turns.saving, "resting saves work, which must not end it at once"
    machine.window(REST_SHARE * 0.4)
    look(turns)
    assert not turns.saving
    rested = len(machine.clients)
    await pass_turns(5)
    assert len(machine.clients) == rested
    turns.stop()


async def test_zero_never_rests() -> None:
    turns = Machine().turns(0)
    turns.start()
    assert not turns.saving
    turns.stop()


async def test_stopping_holds_nothing_back_any_more() -> None:
    machine = Machine()
    turns = machine.turns()
    turns.start()
    machine.window(0.9)
    look(turns)
    turns.stop()
    await pass_turns(3)
    assert machine.clients == []


async def test_what_takes_many_turns_waits_for_none_of_them() -> None:
    machine = Machine()
    turns = machine.turns()
    machine.window(0.5)
    look(turns)
    turns.pause()
    await pass_turns(5)
    assert machine.clients == []
    machine.now += AWAKE_S
    await pass_turns(1)
    turns.pause()
    machine.now += AWAKE_S / 2
    await pass_turns(3)
    machine.works(AWAKE_S)
    async with asyncio.timeout(10):
        while not machine.clients:  # and then it rests again
            await asyncio.sleep(AWAKE_S / 4)
    turns.stop()


async def test_who_stays_awake_does_not_turn_for_nothing() -> None:
    """A loop that is called again at once, turn after turn, fills its core with that."""
    machine = Machine()
    turns = machine.turns()
    machine.window(0.5)
    look(turns)
    turns.pause()
    machine.now -= 60.0  # so much longer that the real loop's timer does not come
    await pass_turns(2)
    pending = turns._next
    await pass_turns(100)
    assert turns._next is pending
    turns.stop()


async def test_resting_that_begins_again_turns_once() -> None:
    machine = Machine()
    turns = machine.turns()
    machine.window(0.5)
    look(turns)
    turns.pause()
    await pass_turns(2)
    before = turns._next
    machine.window(0.0)
    look(turns)
    machine.window(0.5)
    look(turns)
    assert before is not None
    assert before.cancelled()
    turns.stop()


async def test_a_busy_loop_stays_with_its_sockets_where_nothing_may_wait() -> None:
    machine = Machine()
    stays = Stays()
    turns = machine.turns(0, stay=stays)
    machine.window(STAY_SHARE * 0.9)
    turns.look()
    assert not turns.saving
    machine.window(STAY_SHARE * 1.1)
    look(turns)
    await pass_turns(4)
    assert turns.saving
    assert set(stays.asked) == {(STAY_S, 0)}
    assert machine.clients == []
    turns.pause()
    stays.asked.clear()
    await pass_turns(4)
    assert stays.asked == []
    turns.stop()


async def test_a_loop_that_may_hold_back_rests_while_it_stays_and_by_itself_where_it_has_sockets() -> None:
    machine = Machine()
    stays = Stays()
    all_here = True
    turns = machine.turns(LIMIT_S, stay=stays, can_poll=lambda: all_here)
    machine.window(REST_SHARE * 1.1)
    look(turns)
    await pass_turns(4)
    assert set(stays.asked) == {(RESTS * LIMIT_S, LIMIT_S)}
    assert machine.clients == []
    all_here = False
    stays.asked.clear()
    machine.window(REST_SHARE * 1.1)
    look(turns)
    await pass_turns(4)
    assert turns.saving
    assert machine.clients
    assert stays.asked == []
    turns.stop()


async def test_nobody_stays_with_some_of_the_sockets_while_others_wait_for_the_loop() -> None:
    machine = Machine()
    stays = Stays()
    all_here = True
    turns = machine.turns(0, stay=stays, can_poll=lambda: all_here)
    machine.window(0.9)
    look(turns)
    assert turns.saving
    all_here = False
    machine.window(0.9)
    look(turns)
    assert not turns.saving
    await pass_turns(4)
    assert stays.asked == []
    turns.stop()


async def test_a_loop_that_can_neither_stay_nor_rest_does_not_turn_for_nothing() -> None:
    """The last relay has gone between two looks at the load, or one came that is the loop's own."""
    machine = Machine()
    stays = Stays()
    all_here = True
    turns = machine.turns(0, stay=stays, can_poll=lambda: all_here)
    machine.window(0.9)
    look(turns)
    await pass_turns(2)
    all_here = False
    asked = len(stays.asked)
    await pass_turns(4)
    assert not turns.saving
    assert len(stays.asked) == asked
    pending = turns._next
    await pass_turns(10)
    assert turns._next is pending, "no turn was asked for any more"
    turns.stop()


async def test_nobody_stays_where_no_sound_comes() -> None:
    machine = Machine()
    stays = Stays(sound=False)
    turns = machine.turns(0, stay=stays)
    machine.window(0.9)
    look(turns)
    await pass_turns(4)
    assert len(stays.asked) == 1
    assert not turns.saving
    turns.stop()
