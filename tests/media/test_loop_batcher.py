# SPDX-License-Identifier: BSD-2-Clause
"""Adaptive batching: when it begins and ends, and that no frame is delayed longer than configured."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.media.loop_batcher import (
    COALESCE_SHARE,
    PAUSE_S,
    POLL_S,
    POLL_SHARE,
    SLEEPS_PER_POLL,
    WINDOW_S,
    LoopBatcher,
)

LIMIT_S = 0.002


class Machine:
    """A clock and a CPU that the test holds. A sleep takes exactly as long as requested."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 5.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def works(self, seconds: float) -> None:
        self.now += seconds
        self.used += seconds

    def batcher(self, limit_s: float = LIMIT_S, **more: Any) -> LoopBatcher:
        return LoopBatcher(limit_s, clock=lambda: self.now, cpu=lambda: self.used, sleep=self.sleep, **more)

    def window(self, share: float) -> None:
        """Let a window pass of which the loop was busy for this share."""
        self.now += WINDOW_S
        self.used += WINDOW_S * share


class Polls:
    """Stands for `EpollSet.poll_for`. `media`: whether media comes meanwhile."""

    def __init__(self, *, media: bool = True) -> None:
        self.calls: list[tuple[float, float]] = []
        self.media = media

    def __call__(self, seconds: float, rest_s: float) -> bool:
        self.calls.append((seconds, rest_s))
        return self.media


def measure(batcher: LoopBatcher) -> None:
    """Measure the load now, and only when the test says so: real time may pass as it likes."""
    batcher.measure_load()
    if batcher._next_measurement is not None:
        batcher._next_measurement.cancel()


async def iterate(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_nothing_is_delayed_under_a_small_load() -> None:
    machine = Machine()
    batcher = machine.batcher()
    for _ in range(20):
        machine.window(COALESCE_SHARE * 0.9)
        measure(batcher)
        await iterate(3)
    assert not batcher.is_batching
    assert machine.sleeps == []
    batcher.stop()


async def test_a_busy_loop_sleeps_between_iterations() -> None:
    machine = Machine()
    batcher = machine.batcher()
    machine.window(COALESCE_SHARE * 1.1)
    measure(batcher)
    await iterate(4)
    assert batcher.is_batching
    assert machine.sleeps
    batcher.stop()


async def test_it_sleeps_less_the_longer_the_iteration_took_and_never_over_the_limit() -> None:
    machine = Machine()
    batcher = machine.batcher()
    machine.window(0.5)
    measure(batcher)
    waits = []
    for work_s in (0.0, 0.0005, 0.0015, 0.0025, 0.0):
        woke_at = machine.now
        machine.works(work_s)
        await iterate(1)
        waits.append(machine.now - woke_at)
    assert all(wait <= max(LIMIT_S, 0.0025) + 1e-9 for wait in waits)
    assert max(machine.sleeps) <= LIMIT_S + 1e-9
    assert len(machine.sleeps) == 4, "an iteration longer than the limit is followed by the next at once"
    batcher.stop()


async def test_it_stops_only_well_below_the_load_at_which_it_began() -> None:
    machine = Machine()
    batcher = machine.batcher()
    machine.window(COALESCE_SHARE * 1.1)
    measure(batcher)
    machine.window(COALESCE_SHARE * 0.7)
    measure(batcher)
    assert batcher.is_batching, "batching saves work, and must not end for that"
    machine.window(COALESCE_SHARE * 0.4)
    measure(batcher)
    assert not batcher.is_batching
    sleeps = len(machine.sleeps)
    await iterate(5)
    assert len(machine.sleeps) == sleeps
    batcher.stop()


async def test_without_a_delay_and_an_epoll_set_nothing_is_batched() -> None:
    batcher = Machine().batcher(0)
    batcher.start()
    assert not batcher.is_batching
    batcher.stop()


async def test_after_a_stop_nothing_is_delayed() -> None:
    machine = Machine()
    batcher = machine.batcher()
    batcher.start()
    machine.window(0.9)
    measure(batcher)
    batcher.stop()
    await iterate(3)
    assert machine.sleeps == []


async def test_batching_pauses_for_a_call_that_is_set_up() -> None:
    machine = Machine()
    batcher = machine.batcher()
    machine.window(0.5)
    measure(batcher)
    batcher.pause()
    await iterate(5)
    assert machine.sleeps == []
    machine.now += PAUSE_S
    await iterate(1)
    batcher.pause()
    machine.now += PAUSE_S / 2
    await iterate(3)
    machine.works(PAUSE_S)
    async with asyncio.timeout(60):
        while not machine.sleeps:  # after the pause it batches again
            await asyncio.sleep(PAUSE_S / 4)
    batcher.stop()


async def test_a_pause_does_not_keep_the_loop_busy() -> None:
    """A callback that schedules itself at once fills a core."""
    machine = Machine()
    batcher = machine.batcher()
    machine.window(0.5)
    measure(batcher)
    batcher.pause()
    machine.now -= 60.0  # so much longer that the real loop's timer does not come
    await iterate(2)
    pending = batcher._next_batch
    await iterate(100)
    assert batcher._next_batch is pending
    batcher.stop()


async def test_batching_that_begins_again_is_scheduled_once() -> None:
    machine = Machine()
    batcher = machine.batcher()
    machine.window(0.5)
    measure(batcher)
    batcher.pause()
    await iterate(2)
    before = batcher._next_batch
    machine.window(0.0)
    measure(batcher)
    machine.window(0.5)
    measure(batcher)
    assert before is not None
    assert before.cancelled()
    batcher.stop()


async def test_a_busy_loop_only_polls_if_nothing_may_be_delayed() -> None:
    machine = Machine()
    polls = Polls()
    batcher = machine.batcher(0, poll_for=polls)
    machine.window(POLL_SHARE * 0.9)
    batcher.measure_load()
    assert not batcher.is_batching
    machine.window(POLL_SHARE * 1.1)
    measure(batcher)
    await iterate(4)
    assert batcher.is_batching
    assert set(polls.calls) == {(POLL_S, 0)}
    assert machine.sleeps == []
    batcher.pause()
    polls.calls.clear()
    await iterate(4)
    assert polls.calls == []
    batcher.stop()


async def test_the_epoll_set_sleeps_while_it_polls_and_the_loop_if_it_reads_sockets_itself() -> None:
    machine = Machine()
    polls = Polls()
    all_direct = True
    batcher = machine.batcher(LIMIT_S, poll_for=polls, can_poll=lambda: all_direct)
    machine.window(COALESCE_SHARE * 1.1)
    measure(batcher)
    await iterate(4)
    assert set(polls.calls) == {(SLEEPS_PER_POLL * LIMIT_S, LIMIT_S)}
    assert machine.sleeps == []
    all_direct = False
    polls.calls.clear()
    machine.window(COALESCE_SHARE * 1.1)
    measure(batcher)
    await iterate(4)
    assert batcher.is_batching
    assert machine.sleeps
    assert polls.calls == []
    batcher.stop()


async def test_nothing_polls_while_the_loop_reads_some_sockets_itself() -> None:
    machine = Machine()
    polls = Polls()
    all_direct = True
    batcher = machine.batcher(0, poll_for=polls, can_poll=lambda: all_direct)
    machine.window(0.9)
    measure(batcher)
    assert batcher.is_batching
    all_direct = False
    machine.window(0.9)
    measure(batcher)
    assert not batcher.is_batching
    await iterate(4)
    assert polls.calls == []
    batcher.stop()


async def test_a_loop_that_can_neither_poll_nor_sleep_is_not_kept_busy() -> None:
    """The last relay has ended between two measurements, or one came that the loop reads itself."""
    machine = Machine()
    polls = Polls()
    all_direct = True
    batcher = machine.batcher(0, poll_for=polls, can_poll=lambda: all_direct)
    machine.window(0.9)
    measure(batcher)
    await iterate(2)
    all_direct = False
    calls = len(polls.calls)
    await iterate(4)
    assert not batcher.is_batching
    assert len(polls.calls) == calls
    pending = batcher._next_batch
    await iterate(10)
    assert batcher._next_batch is pending, "no batch is scheduled any more"
    batcher.stop()


async def test_polling_ends_if_no_media_comes() -> None:
    machine = Machine()
    polls = Polls(media=False)
    batcher = machine.batcher(0, poll_for=polls)
    machine.window(0.9)
    measure(batcher)
    await iterate(4)
    assert len(polls.calls) == 1
    assert not batcher.is_batching
    batcher.stop()
