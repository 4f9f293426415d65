# SPDX-License-Identifier: BSD-2-Clause
"""What is watched of two coupled legs: the longest duration, silence, keep-alives, and the time to close.

Nothing of this runs per frame: the one clock of all relays (gateway/media/clock.py) has each call looked at
now and then. What is to be done about it is the uncoupling's (gateway/media/uncoupling.py).
"""

from __future__ import annotations

import asyncio
import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.errors import CallEnd, Endings
from gateway.media.clock import SELDOM_S, clock_of
from gateway.media.direct import Direct
from gateway.media.keepalive import KeepAlive

if TYPE_CHECKING:
    from gateway.media.uncoupling import Uncoupling

EXACT_ENOUGH: Final = 10
"""Times are kept to this part of the shortest of them, or better."""

NEVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay waits for at most, in seconds, and bears at most, in bytes."""

    max_duration_s: float
    idle_s: float
    stall_s: float
    close_s: float
    max_message_bytes: int
    ping_s: float = 0.0
    """Between two pings of ours; 0 for none."""
    agent_silence_s: float = 0.0
    """After which an agent that answers no ping is lost; 0 for never."""

    @property
    def shortest_s(self) -> float:
        """The shortest of the times that are kept while the call runs."""
        return min(self.max_duration_s, self.idle_s, self.ping_s or NEVER, self.agent_silence_s or NEVER)


class Watch:
    """The times of one relay, each the loop's, in seconds; NEVER where nothing is waited for."""

    __slots__ = (
        "_clock",
        "_heard_bytes",
        "_keep_alive",
        "_look_by",
        "_loop",
        "_silent_by",
        "_stopped_by",
        "_uncoupling",
        "close_by",
        "end_by",
        "limits",
    )

    def __init__(self, uncoupling: Uncoupling, limits: RelayLimits, *, end_by: float = NEVER) -> None:
        """`end_by`: of a call that was watched before; NEVER for one that begins with `start`."""
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)
        self._uncoupling: Uncoupling = weakref.proxy(uncoupling)  # which owns this
        self.limits = limits
        self.end_by = end_by  # the call has lasted as long as it may
        self.close_by = NEVER  # a call that is over is waited for until then
        self._silent_by = NEVER
        self._heard_bytes = -1  # from the carrier, when it was looked at last
        self._stopped_by = NEVER  # the carrier has said that it will close, and has until then to do it
        self._keep_alive: KeepAlive | None = None
        self._look_by = NEVER

    def start(self) -> None:
        """From now on the clock looks at the call."""
        limits, now = self.limits, self._loop.time()
        if self.end_by == NEVER:
            self.end_by = now + limits.max_duration_s
        if limits.ping_s or limits.agent_silence_s:
            self._keep_alive = KeepAlive(
                self._uncoupling.carrier,
                self._uncoupling.agent,
                now,
                interval_s=limits.ping_s,
                agent_silence_s=limits.agent_silence_s,
            )
            self._look_by = self._keep_alive.next_look
        self._clock.add(self, seldom=limits.shortest_s >= EXACT_ENOUGH * SELDOM_S)

    def hurry(self) -> None:
        """The call is ending: the clock looks at it with every tick."""
        self._clock.hurry(self)

    def stop(self) -> None:
        """The clock looks no longer."""
        self._clock.remove(self)

    def stop_came(self) -> None:
        """The carrier has said `stop`: it has `close_s` to close."""
        self._stopped_by = self._loop.time() + self.limits.close_s
        self.hurry()

    @property
    def stop_has_come(self) -> bool:
        """Whether the carrier has said that its stream is over."""
        return self._stopped_by != NEVER

    @property
    def pings(self) -> bool:
        """Whether answers to pings of ours may come."""
        return self._keep_alive is not None

    def heard_pong(self, size: int) -> None:
        """So many bytes from the carrier were answers to our pings: it may be silent all the same."""
        self._heard_bytes += size

    @property
    def is_direct(self) -> bool:
        """Whether both sockets are out of the loop's transports."""
        return isinstance(self._uncoupling.carrier.transport, Direct)

    def tick(self, now: float) -> None:
        """The clock's look at the call; `now` is the loop's time, in seconds."""
        uncoupling = self._uncoupling
        heard = uncoupling.carrier.walker.bytes
        if now >= self._look_by:
            self._look_after(now)
        if uncoupling.ended.done():
            if now >= self.close_by:
                uncoupling.finish()
        elif now >= self.end_by:
            uncoupling.end(CallEnd(Endings.max_duration, f"{self.limits.max_duration_s:g} s"))
        elif uncoupling.has_parted:
            return
        elif now >= self._stopped_by:
            uncoupling.stopped()
        elif heard != self._heard_bytes or uncoupling.agent.stall is not None:
            self._heard_bytes = heard
            self._silent_by = now + self.limits.idle_s
        elif now >= self._silent_by:
            uncoupling.end(CallEnd(Endings.idle_timeout, f"nothing came for {self.limits.idle_s:g} s"))

    def _look_after(self, now: float) -> None:
        """Keeps both legs alive, and sees whether the agent is."""
        if self._uncoupling.ended.done() or self._keep_alive is None:
            self._look_by = NEVER
            return
        end = self._keep_alive.look(now)
        self._look_by = self._keep_alive.next_look
        if end is not None:
            self._uncoupling.agent_lost(end)
