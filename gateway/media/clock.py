# SPDX-License-Identifier: BSD-2-Clause
"""One clock for all relays of a loop: a timer for each would cost every call a kilobyte.

Sound goes by without anybody noting the time; the clock looks now and then whether some has come since.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

TICK_S = 0.2
"""How exactly a relay's times are kept."""


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
        self._watched: dict[Watched, None] = {}
        self._next: asyncio.TimerHandle | None = None

    def add(self, watched: Watched) -> None:
        """From now on it is told the time."""
        self._watched[watched] = None
        if self._next is None:
            self._next = self._loop.call_later(TICK_S, self._tick)

    def remove(self, watched: Watched) -> None:
        """No longer; also where it never was."""
        self._watched.pop(watched, None)

    def all_direct(self) -> bool:
        """Whether there are relays, and of none the loop itself watches the sockets."""
        return bool(self._watched) and all(watched.is_direct for watched in self._watched)

    def _tick(self) -> None:
        now = self._loop.time()
        for watched in list(self._watched):
            watched.tick(now)
        self._next = self._loop.call_later(TICK_S, self._tick) if self._watched else None


_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, Clock] = WeakKeyDictionary()


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """The one clock of a loop."""
    if loop not in _clocks:
        _clocks[loop] = Clock(loop)
    return _clocks[loop]
