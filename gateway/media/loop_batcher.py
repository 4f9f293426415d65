# SPDX-License-Identifier: BSD-2-Clause
"""The loop's turns: fewer of them while there is much to do.

Most of a relay's cost is the kernel's. Of the rest, most is paid once per turn of the loop, and a loop that
wakes for every single frame pays it for every frame. While there is much to do it is paid less often:

- By **staying** with the sockets: sound is passed on by whoever can wait for it without the loop (pump.py,
  _accelerator.c), and all else waits for four milliseconds.
- By **resting**, where frames may wait (`relay_batch_ms`): who rests for a millisecond or two first finds the
  frames of many calls waiting, and reads and writes them in one go. No ear notices 2 ms, and a quarter of
  the processor is saved. It rests for at most the configured time counted from the rest before, so no frame
  waits longer than that. Frames are held in the kernel's buffers, in their order, not in ours. Where the loop
  has some of the sockets itself (over TLS) it is the loop that rests.

What takes many turns to do would wait once for each of them: while a call is set up or a request has just
come, the loop does neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

WINDOW_S = 0.1
"""How often the load is looked at."""

REST_SHARE = 0.12
STAY_SHARE = 0.03
"""Shares of one core from which on the loop rests, or stays; at half of it, it no longer does."""

AWAKE_S = 0.02
"""How long after a request or an upgrade the loop turns as ever: most are done by then."""

STAY_S = 0.004
"""How long the loop stays with the sockets at a time, where it does not rest. To turn costs two messages."""

RESTS = 2
"""How often it rests while it stays with them."""


class LoopBatcher:
    """Saves turns of the running loop while there is much to do.

    `rest_s`: the most seconds a frame may wait; 0: it may not. `stay`: passes sound on for so many seconds,
    resting so long each time, and says whether any came. `can_poll`: whether all sound there is passes that
    way.
    """

    def __init__(
        self,
        rest_s: float,
        *,
        stay: Callable[[float, float], bool] | None = None,
        can_poll: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest_s = rest_s
        self._stay = stay
        self._stay_s = RESTS * rest_s or STAY_S
        self._may_stay = can_poll
        self._busy_share = REST_SHARE if rest_s else STAY_SHARE
        self._clock = clock
        self._cpu = cpu
        self._rest = rest
        self._used = cpu()
        self._looked_at = clock()
        self._turned_at = 0.0
        self._awake_until = 0.0
        self._next: asyncio.Handle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.saving = False
        """Whether there is so much to do that turns are saved."""

    def pause(self) -> None:
        """Something has come that takes several turns: for AWAKE_S none is saved."""
        self._awake_until = self._clock() + AWAKE_S

    def start(self) -> None:
        """Begins to look at the load, where anything can be saved."""
        if self._rest_s > 0 or self._stay is not None:
            self._watch = self._loop.call_later(WINDOW_S, self.look)

    def stop(self) -> None:
        """Saves no turn from now on."""
        self.saving = False
        for handle in (self._next, self._watch):
            if handle is not None:
                handle.cancel()

    def look(self) -> None:
        """Compares the processor's time with the clock's, and begins or ends to save turns."""
        used, now = self._cpu(), self._clock()
        busy = (used - self._used) / max(now - self._looked_at, 1e-9)
        self._used, self._looked_at = used, now
        can = self._rest_s > 0 or self._may_stay()
        if not self.saving and can and busy >= self._busy_share:
            self.saving = True
            self._turned_at = now
            if self._next is not None:
                self._next.cancel()
            self._next = self._loop.call_soon(self._turn)
        elif self.saving and (not can or busy < self._busy_share / 2):
            self.saving = False
        self._watch = self._loop.call_later(WINDOW_S, self.look)

    def _turn(self) -> None:
        """Between two looks at the loop's sockets: what was read has been written by now."""
        if not self.saving:
            return
        now = self._clock()
        if now < self._awake_until:
            # Not at every turn: a loop that always has something to call never waits for its sockets.
            self._next = self._loop.call_later(self._awake_until - now, self._turn)
            return
        if self._stay is not None and self._may_stay():
            if not self._stay(self._stay_s, self._rest_s):
                self.saving = False  # what keeps the loop busy is something else; until the next look
                return
        elif not self._rest_s:
            self.saving = False  # or the loop would turn for nothing until the next look
            return
        elif (left := self._turned_at + self._rest_s - now) > 0:
            self._rest(left)
        self._turned_at = self._clock()
        self._next = self._loop.call_soon(self._turn)
