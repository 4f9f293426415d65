# SPDX-License-Identifier: BSD-2-Clause
"""What is watched of two coupled legs: the longest duration, silence, keep-alives, and the time to close.

Nothing of this runs per frame: the one clock of all relays (gateway/media/relay_timers.py) has each call
looked at
now and then. What is to be done about it is the uncoupling's (gateway/media/teardown.py).
"""

from __future__ import annotations

import asyncio
import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary

from gateway.media.direct_transport import DirectTransport
from gateway.media.keepalive import KeepAlive
from gateway.model.reasons import CallEnded, Reasons

if TYPE_CHECKING:
    from gateway.media.teardown import Teardown

TICK_S = 0.2
"""How exactly the times of a relay are kept that is ending, or has short limits."""

SELDOM = 5
"""Every how many ticks all others are looked at."""

SELDOM_S = SELDOM * TICK_S


class Ticking(Protocol):
    """What the clock looks at."""

    @property
    def is_direct(self) -> bool:
        """Whether its sockets are out of the loop's transports."""

    def tick(self, now: float) -> None:
        """`now`: the loop's time, in seconds."""


class TickScheduler:
    """Ticks for whoever is added, as long as there is anybody."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._often: dict[Ticking, None] = {}
        self._seldom: list[dict[Ticking, None]] = [{} for _ in range(SELDOM)]
        self._apart = 0  # how many have sockets that the loop watches itself
        self._ticks = 0
        self._next: asyncio.TimerHandle | None = None

    def add(self, watched: Ticking, *, seldom: bool = False) -> None:
        """From now on it is told the time: `seldom` with one of SELDOM ticks, where that is exact enough.

        To look at a call costs as much as to relay a part of its sound, so a call that runs is looked at once
        a second.
        """
        slots = self._seldom
        (min(slots, key=len) if seldom else self._often)[watched] = None
        self._apart += not watched.is_direct
        if self._next is None:
            self._next = self._loop.call_later(TICK_S, self._tick)

    def hurry(self, watched: Ticking) -> None:
        """It is told the time with every tick from now on; where it never was added, nothing."""
        if self._taken_out(watched):
            self._often[watched] = None

    def remove(self, watched: Ticking) -> None:
        """No longer; also where it never was."""
        if self._taken_out(watched):
            self._apart -= not watched.is_direct

    def all_direct(self) -> bool:
        """Whether there are relays, and of none the loop itself watches the sockets."""
        return not self._apart and (bool(self._often) or any(self._seldom))

    def _taken_out(self, watched: Ticking) -> bool:
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


_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, TickScheduler] = WeakKeyDictionary()


def scheduler_of(loop: asyncio.AbstractEventLoop) -> TickScheduler:
    """The one clock of a loop."""
    if loop not in _clocks:
        _clocks[loop] = TickScheduler(loop)
    return _clocks[loop]


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


class RelayTimers:
    """The times of one relay, each the loop's, in seconds; NEVER where nothing is waited for."""

    __slots__ = (
        "_clock",
        "_heard_bytes",
        "_keep_alive",
        "_look_by",
        "_loop",
        "_silent_by",
        "_stopped_by",
        "_teardown",
        "close_by",
        "end_by",
        "limits",
    )

    def __init__(self, teardown: Teardown, limits: RelayLimits, *, end_by: float = NEVER) -> None:
        """`end_by`: of a call that was watched before; NEVER for one that begins with `start`."""
        self._loop = asyncio.get_running_loop()
        self._clock = scheduler_of(self._loop)
        self._teardown: Teardown = weakref.proxy(teardown)  # which owns this
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
                self._teardown.carrier,
                self._teardown.agent,
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
        return isinstance(self._teardown.carrier.transport, DirectTransport)

    def tick(self, now: float) -> None:
        """The clock's look at the call; `now` is the loop's time, in seconds."""
        teardown = self._teardown
        heard = teardown.carrier.scanner.bytes
        if now >= self._look_by:
            self._look_after(now)
        if teardown.ended.done():
            if now >= self.close_by:
                teardown.finish()
        elif now >= self.end_by:
            teardown.end(CallEnded(Reasons.max_duration, f"{self.limits.max_duration_s:g} s"))
        elif teardown.has_parted:
            return
        elif now >= self._stopped_by:
            teardown.stopped()
        elif heard != self._heard_bytes or teardown.agent.stall is not None:
            self._heard_bytes = heard
            self._silent_by = now + self.limits.idle_s
        elif now >= self._silent_by:
            teardown.end(CallEnded(Reasons.idle_timeout, f"nothing came for {self.limits.idle_s:g} s"))

    def _look_after(self, now: float) -> None:
        """Keeps both legs alive, and sees whether the agent is."""
        if self._teardown.ended.done() or self._keep_alive is None:
            self._look_by = NEVER
            return
        end = self._keep_alive.look(now)
        self._look_by = self._keep_alive.next_look
        if end is not None:
            self._teardown.agent_lost(end)
