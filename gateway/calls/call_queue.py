# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for a place, first come first served.

The store keeps the line of each agent, over all workers, and gives a free place to the first in it. Of the
calls that wait here only the first of each agent asks for it, again and again; the others are behind it.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.store.interface import AtCapacity, NotPromised, StoreFailed

POLL_S: Final = 0.2
"""How often the first asks: a place may have become free in any worker."""


class _Waiting:
    """One call that waits; in a line it stands by its number."""

    __slots__ = ("is_first", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_first = asyncio.Event()

    def __lt__(self, other: _Waiting) -> bool:
        return self.number < other.number


class CallQueues:
    """The lines of one worker: of those that wait here, by agent."""

    def __init__(self, *, poll_s: float = POLL_S) -> None:
        self._lines: dict[str, list[_Waiting]] = {}
        self._poll_s = poll_s

    @property
    def waiting(self) -> int:
        """How many calls wait in this worker."""
        return sum(map(len, self._lines.values()))

    async def wait(self, agent: str, number: int, ask: Callable[[], Awaitable[str]], timeout_s: float) -> str:
        """What `ask` gives once it raises AtCapacity no more. `number`: as the first Queued said.

        Raises TimeoutError after `timeout_s`, and NotPromised. A store that does not answer is asked again.
        """
        line = self._lines.setdefault(agent, [])
        me = _Waiting(number)
        for other in line:
            other.is_first.clear()
        insort(line, me)
        line[0].is_first.set()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await me.is_first.wait()
                    try:
                        return await ask()
                    except (AtCapacity, StoreFailed) as no:
                        if isinstance(no, NotPromised):
                            raise
                    await asyncio.sleep(self._poll_s)
        finally:
            line.remove(me)
            if line:
                line[0].is_first.set()
            else:
                self._lines.pop(agent, None)
