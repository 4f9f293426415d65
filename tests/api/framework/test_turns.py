# SPDX-License-Identifier: BSD-2-Clause
"""Turns: of all that waits, one task goes on in an iteration of the event loop."""

from __future__ import annotations

import asyncio

from gateway.api.framework.turns import in_turns, next_turn


async def test_one_task_goes_on_in_each_iteration_of_the_loop() -> None:
    loop = asyncio.get_running_loop()
    iteration, done = 0, asyncio.Event()
    iterations: list[int] = []

    def count() -> None:
        nonlocal iteration
        iteration += 1
        if not done.is_set():
            loop.call_soon(count)

    async def work() -> None:
        for _ in range(3):
            await next_turn()
            iterations.append(iteration)

    count()
    await asyncio.gather(*(work() for _ in range(10)))
    done.set()
    assert len(set(iterations)) == len(iterations) == 30


async def test_a_task_that_is_cancelled_gives_its_turn_up() -> None:
    first, second = asyncio.create_task(next_turn()), asyncio.create_task(next_turn())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.done()
    assert second.exception() is None
    await next_turn()


async def test_items_are_made_in_turns_and_in_order() -> None:
    assert await in_turns(range(25), str, 10) == [str(number) for number in range(25)]
    assert await in_turns([], str, 10) == []
