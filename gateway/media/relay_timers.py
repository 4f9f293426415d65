# SPDX-License-Identifier: BSD-2-Clause
"""The timers of a relay: longest duration, silence, keep-alives, and the time to close.

None of this runs per frame: one timer of the event loop (`TickScheduler`) checks every relay now and then.
What follows from an expired time is decided by the teardown (gateway/media/teardown.py).
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from gateway.media.direct_transport import DirectTransport
from gateway.media.keepalive import KeepAlive
from gateway.media.playback_clock import PlaybackClock
from gateway.media.ports import TimedRelay
from gateway.media.relay_options import NEVER, RelayLimits
from gateway.media.relay_side import RelaySide
from gateway.media.relay_states import OPEN, RelayState
from gateway.model.reasons import CallEnded, Reasons

TICK_S: Final = 0.2
"""The time between two ticks, which is how exactly the times of a relay are kept while it is ending."""

TICKS_PER_ROUND: Final = 5
"""A relay that is not ending is checked at one of this many ticks."""

ROUND_S: Final = TICKS_PER_ROUND * TICK_S

MIN_LIMIT_IN_ROUNDS: Final = 10
"""A relay whose shortest limit is below this many rounds is checked at every tick, to keep it exactly."""


MIN_PART_BYTES: Final = 512
"""Bytes of an unfinished message that count as a sign of life: a byte a second does not."""


class Ticking(Protocol):
    """An object that the TickScheduler checks."""

    @property
    def is_direct(self) -> bool:
        """Whether its sockets are read by an EpollSet and not by the event loop."""

    def tick(self, now: float) -> None:
        """Check what is due. `now`: the event loop's time, in seconds."""


class TickScheduler:
    """The one repeated timer of an event loop for all relays; it stops while there are none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._every_tick: dict[Ticking, None] = {}
        self._by_round: list[dict[Ticking, None]] = [{} for _ in range(TICKS_PER_ROUND)]
        self._not_direct = 0  # the number of objects whose sockets the event loop reads itself
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, ticking: Ticking, *, once_a_round: bool = False) -> None:
        """Tick `ticking` from now on: at every tick, or at one tick of each round.

        A check costs as much as relaying some media, so a relay that is not ending is checked once a round.
        The groups of a round are kept equally large.
        """
        group = min(self._by_round, key=len) if once_a_round else self._every_tick
        group[ticking] = None
        self._not_direct += not ticking.is_direct
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def tick_often(self, ticking: Ticking) -> None:
        """Tick `ticking` at every tick from now on. No effect if it was never added."""
        if self._removed(ticking):
            self._every_tick[ticking] = None

    def remove(self, ticking: Ticking) -> None:
        """Stop ticking `ticking`. No effect if it was never added."""
        if self._removed(ticking):
            self._not_direct -= not ticking.is_direct

    def all_direct(self) -> bool:
        """Return True if there are relays and the event loop reads none of their sockets itself."""
        return not self._not_direct and (bool(self._every_tick) or any(self._by_round))

    def _removed(self, ticking: Ticking) -> bool:
        groups = [group for group in (self._every_tick, *self._by_round) if ticking in group]
        for group in groups:
            del group[ticking]
        return bool(groups)

    def _tick(self) -> None:
        now = self._loop.time()
        self._ticks += 1
        for ticking in (*self._every_tick, *self._by_round[self._ticks % TICKS_PER_ROUND]):
            ticking.tick(now)
        any_left = self._every_tick or any(self._by_round)
        self._timer = self._loop.call_later(TICK_S, self._tick) if any_left else None


_schedulers: WeakKeyDictionary[asyncio.AbstractEventLoop, TickScheduler] = WeakKeyDictionary()


def scheduler_of(loop: asyncio.AbstractEventLoop) -> TickScheduler:
    """Return the one TickScheduler of `loop`."""
    if loop not in _schedulers:
        _schedulers[loop] = TickScheduler(loop)
    return _schedulers[loop]


class RelayTimers:
    """The times of one relay, each of the event loop's clock, in seconds; NEVER for what is not awaited."""

    __slots__ = (
        "_bytes_seen",
        "_check_by",
        "_idle_by",
        "_keep_alive",
        "_loop",
        "_relay",
        "_scheduler",
        "_stop_by",
        "close_by",
        "end_by",
        "limits",
    )

    def __init__(self, relay: TimedRelay[RelaySide], limits: RelayLimits, *, end_by: float = NEVER) -> None:
        """`end_by`: the end of the longest duration, for a call that had a relay before; else NEVER."""
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler_of(self._loop)
        self._relay: TimedRelay[RelaySide] = weakref.proxy(relay)  # it owns this object
        self.limits = limits
        self.end_by = end_by  # the end of the longest duration
        self.close_by = NEVER  # in CLOSING and DRAINING_PLAYBACK: when the sockets are closed anyway
        self._idle_by = NEVER  # when a carrier that goes on sending nothing ends the call
        self._bytes_seen = -MIN_PART_BYTES  # from the carrier, at its last sign of life
        self._stop_by = NEVER  # when a carrier that has announced its close must have closed
        self._keep_alive: KeepAlive | None = None
        self._check_by = NEVER  # when the keep-alives are to be checked

    def start(self) -> None:
        """Start all timers."""
        limits, now = self.limits, self._loop.time()
        if self.end_by == NEVER:
            self.end_by = now + limits.max_duration_s
        if limits.ping_s or limits.agent_silence_s:
            self._keep_alive = KeepAlive(
                self._relay.carrier,
                self._relay.agent,
                now,
                interval_s=limits.ping_s,
                agent_silence_s=limits.agent_silence_s,
            )
            self._check_by = self._keep_alive.next_check
        self._scheduler.add(self, once_a_round=limits.shortest_s >= MIN_LIMIT_IN_ROUNDS * ROUND_S)

    def tick_often(self) -> None:
        """Check the relay at every tick from now on, because it is ending."""
        self._scheduler.tick_often(self)

    def stop(self) -> None:
        """Stop all timers."""
        self._scheduler.remove(self)

    def stop_received(self) -> None:
        """Give the carrier `close_s` to close its socket, as it has announced `stop`."""
        self._stop_by = self._loop.time() + self.limits.close_s
        self.tick_often()

    @property
    def stop_was_received(self) -> bool:
        """Whether the carrier has announced that its stream is over."""
        return self._stop_by != NEVER

    @property
    def pings(self) -> bool:
        """Whether the relay sends pings, so that answers to them may come."""
        return self._keep_alive is not None

    def pong_received(self, size: int) -> None:
        """Do not count `size` bytes from the carrier as a sign of life, as they answered a ping of ours."""
        self._bytes_seen += size

    @property
    def is_direct(self) -> bool:
        """Whether both sockets are read by an EpollSet and not by the event loop."""
        return isinstance(self._relay.carrier.transport, DirectTransport)

    def tick(self, now: float) -> None:
        """Check what is due in the relay's state. `now`: the event loop's time, in seconds."""
        relay = self._relay
        if now >= self._check_by:
            self._check_keep_alive(now)
        state = relay.state
        if state is RelayState.RELAYING or state is RelayState.TRANSFER_PENDING:
            if relay.clock is not None and relay.clock.is_known:
                self._follow_playback(relay.clock, now)
            scanner = relay.carrier.scanner
            new_bytes = scanner.bytes - self._bytes_seen
            if now >= self.end_by:
                self._end_at_max_duration()
            elif now >= self._stop_by:
                relay.stop_expired()
            elif (
                new_bytes >= MIN_PART_BYTES
                or (new_bytes and scanner.simple and not scanner.left)  # whole messages have come
                or relay.agent.stall is not None
            ):
                # A carrier that is not read because the agent stalls has a limit of its own.
                self._bytes_seen = scanner.bytes
                self._idle_by = now + self.limits.idle_s
            elif now >= self._idle_by:
                relay.end(CallEnded(Reasons.idle_timeout, f"nothing came for {self.limits.idle_s:g} s"))
        elif state is RelayState.AGENT_HELD:  # the carrier is gone, and the agent may be silent
            if now >= self.end_by:
                self._end_at_max_duration()
        elif now >= self.close_by:
            relay.finish()

    def _follow_playback(self, clock: PlaybackClock, now: float) -> None:
        """Look whether the caller has heard everything; its agent's next sound is to be seen then."""
        agent = self._relay.agent
        all_played = clock.follow(agent.scanner, now)
        if all_played != clock.awaits_sound:
            clock.awaits_sound = all_played
            agent.scanner.inspect_below = max(clock.inspect_below, agent.min_inspect_below)

    def _end_at_max_duration(self) -> None:
        self._relay.end(CallEnded(Reasons.max_duration, f"{self.limits.max_duration_s:g} s"))

    def _check_keep_alive(self, now: float) -> None:
        if self._relay.state is RelayState.CHECKING_AGENT:
            return  # its answer comes soon, and the call may go on
        if self._relay.state not in OPEN or self._keep_alive is None:
            self._check_by = NEVER
            return
        end = self._keep_alive.check(now)
        self._check_by = self._keep_alive.next_check
        if end is not None:
            self._relay.agent_silent(end)
