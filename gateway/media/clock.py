# SPDX-License-Identifier: BSD-2-Clause
"""One clock for all relays of a loop: a timer for each would cost every call a kilobyte.

Sound goes by without anybody noting the time; the clock looks now and then whether some has come since.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

TICK_S = 0.2
"""How exactly the times of a relay are kept that is ending, or has short limits."""

SELDOM = 5
"""Every how many ticks all others are looked at."""

SELDOM_S = SELDOM * TICK_S


class Watched(Protocol):
    """What the clock looks at."""

    @property
    def is_direct(self) -> bool:
        """Whether its sockets are out of the loop's transports."""

    def tick(self, now: float) -> None:
        """`now`: the loop's time, in seconds."""


class Clock:
    """Ticks for whoever is added, as long as there is anybody."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._often: dict[Watched, None] = {}
        self._seldom: list[dict[Watched, None]] = [{} for _ in range(SELDOM)]
        self._apart = 0  # how many have sockets that the loop watches itself
        self._ticks = 0
        self._next: asyncio.TimerHandle | None = None

    def add(self, watched: Watched, *, seldom: bool = False) -> None:
        """From now on it is told the time: `seldom` with one of SELDOM ticks, where that is exact enough.

        To look at a call costs as much as to relay a part of its sound, so a call that runs is looked at once
        a second.
        """
        slots = self._seldom
        (min(slots, key=len) if seldom else self._often)[watched] = None
        self._apart += not watched.is_direct
        if self._next is None:
            self._next = self._loop.call_later(TICK_S, self._tick)

    def hurry(self, watched: Watched) -> None:
        """It is told the time with every tick from now on; where it never was added, nothing."""
        if self._taken_out(watched):
            self._often[watched] = None

    def remove(self, watched: Watched) -> None:
        """No longer; also where it never was."""
        if self._taken_out(watched):
            self._apart -= not watched.is_direct

    def all_direct(self) -> bool:
        """Whether there are relays, and of none the loop itself watches the sockets."""
        return not self._apart and (bool(self._often) or any(self._seldom))

    def _taken_out(self, watched: Watched) -> bool:
        known = [slot for slot in (self._often, *self._seldom) if watched in slot]
        for slot in known:
            del slot[watched]
        return bool(known)

    def _tick(self) -> None:
        now = self._loop.time()
        self._ticks += 1
        for watched in (*self._often, *self._seldom[self._ticks % SELDOM]):
            watched.tick(now)
        anybody = self._often or any(self._seldom)
        self._next = self._loop.call_later(TICK_S, self._tick) if anybody else None


_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, Clock] = WeakKeyDictionary()


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """The one clock of a loop."""
    if loop not in _clocks:
        _clocks[loop] = Clock(loop)
    return _clocks[loop]
