# SPDX-License-Identifier: BSD-2-Clause
"""Adaptive batching: under load, look at the sockets a little less often.

Most of a relay's cost is the kernel's, and much of that is paid once per wake-up. A loop that wakes for
every single frame pays it for every frame; one that rests for a millisecond or two first finds the
frames of many calls waiting, reads and writes them in one turn, and goes back to rest. No ear notices
2 ms, and a quarter of the processor is saved. What takes many turns to do would wait once for each of them,
though: while a call is set up or a request has just come, nobody rests.

So while the loop has little to do nothing is held back, and while it has much to do it rests between two
turns, for at most the configured time counted from the turn before: no frame waits longer than that.
Frames are held in the kernel's buffers, where they keep their order, and not in ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

WINDOW_S = 0.1
"""How often the load is looked at."""

BUSY_SHARE = 0.12
"""Share of one core from which on the loop rests between turns; at half of it, it stops resting."""

AWAKE_S = 0.02
"""How long after a request or an upgrade nobody rests: most are done by then."""


class Batching:
    """Rests the loop while there is much to do. `limit_s`: the most seconds a frame may wait; 0: never."""

    def __init__(
        self,
        limit_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._clock = clock
        self._cpu = cpu
        self._rest = rest
        self._used = cpu()
        self._looked_at = clock()
        self._turned_at = 0.0
        self._awake_until = 0.0
        self._next: asyncio.Handle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.resting = False
        """Whether the loop has so much to do that it rests."""

    def stay_awake(self) -> None:
        """Something has come that takes several turns: nothing is held back for AWAKE_S."""
        self._awake_until = self._clock() + AWAKE_S

    def start(self) -> None:
        """Begins to look at the load."""
        if self._limit_s > 0:
            self._watch = self._loop.call_later(WINDOW_S, self.look)

    def stop(self) -> None:
        """Holds nothing back from now on."""
        self.resting = False
        for handle in (self._next, self._watch):
            if handle is not None:
                handle.cancel()

    def look(self) -> None:
        """Compares the processor's time with the clock's, and begins or ends to rest."""
        used, now = self._cpu(), self._clock()
        busy = (used - self._used) / max(now - self._looked_at, 1e-9)
        self._used, self._looked_at = used, now
        if not self.resting and busy >= BUSY_SHARE:
            self.resting = True
            self._turned_at = now
            if self._next is not None:
                self._next.cancel()
            self._next = self._loop.call_soon(self._turn)
        elif self.resting and busy < BUSY_SHARE / 2:
            self.resting = False
        self._watch = self._loop.call_later(WINDOW_S, self.look)

    def _turn(self) -> None:
        """Between two looks at the sockets: what was read has been written by now."""
        if not self.resting:
            return
        now = self._clock()
        if now < self._awake_until:
            # Not at every turn: a loop that always has something to call never waits for its sockets.
            self._next = self._loop.call_later(self._awake_until - now, self._turn)
            return
        left = self._turned_at + self._limit_s - now
        if left > 0:
            self._rest(left)
        self._turned_at = self._clock()
        self._next = self._loop.call_soon(self._turn)
