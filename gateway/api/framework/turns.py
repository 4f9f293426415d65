# SPDX-License-Identifier: BSD-2-Clause
"""Turns at work that takes a few milliseconds of the event loop, such as reading a large body.

Of all that waits for a turn one task goes on in each iteration of the event loop, so that between two of them
the loop serves its calls. In front of work that takes no time worth mentioning no turn is needed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary


class Turns:
    """The turns of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False

    @property
    def waiting(self) -> int:
        """How many tasks wait for a turn."""
        return len(self._waiting)

    async def next(self) -> None:
        """Wait for a turn. The caller has it until its next `await`."""
        turn = self._loop.create_future()
        self._waiting.append(turn)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._give)
        await turn

    def _give(self) -> None:
        """Give a turn to the first task that still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        self._is_scheduled = bool(self._waiting)
        if self._is_scheduled:
            self._loop.call_soon(self._give)


Item = TypeVar("Item")
Made = TypeVar("Made")


async def in_turns(items: Sequence[Item], make: Callable[[Item], Made], a_turn: int) -> list[Made]:
    """Return what `make` makes of each item; of more than `a_turn` items so many in each turn."""
    made: list[Made] = []
    for at in range(0, len(items), a_turn):
        if len(items) > a_turn:
            await next_turn()
        made += map(make, items[at : at + a_turn])
    return made


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


async def next_turn() -> None:
    """Wait for a turn of the running event loop. The caller has it until its next `await`."""
    loop = asyncio.get_running_loop()
    if loop not in _turns:
        _turns[loop] = Turns(loop)
    await _turns[loop].next()
