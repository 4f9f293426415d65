# SPDX-License-Identifier: BSD-2-Clause
"""The relay: two legs coupled byte for byte.

What a leg reads is written to the other as it came. Both hops run from client to server in the same
direction, so a masked frame stays valid untouched, and pings, pongs and closes reach the far end, which
answers them itself. The walker keeps the frame boundaries, so that a frame of our own can stand between
two, and reports the few frames worth a look: control frames and short ones, where `stop` is.

What runs per chunk is in gateway/media/side.py; whatever happens once per call is here.

Back-pressure instead of queues: while one leg cannot write, the other is not read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import CallEnd, Endings
from gateway.media import frames
from gateway.media.apart import HANG_UP_S, PLAYED_S, Alone, Closing, Farewell
from gateway.media.clock import SELDOM_S, clock_of
from gateway.media.direct import Direct
from gateway.media.ends import LOST, Gone, end_of_agent, end_of_carrier
from gateway.media.frames import FrameError, Seen
from gateway.media.keepalive import KeepAlive, without_pongs
from gateway.media.leg import Leg
from gateway.media.messages import MessageSide
from gateway.media.side import Side
from serializers.dialect import Dialect
from serializers.filters import Filter

LOOK_BELOW_BYTES = 320
"""Shorter than 20 ms of sound in any dialect, longer than any carrier's `stop` (carriers.md §2-5)."""

EXACT_ENOUGH = 10
"""Times are kept to this part of the shortest of them, or better."""

_NEVER = math.inf
_NO_BYTES = b""


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
        return min(self.max_duration_s, self.idle_s, self.ping_s or _NEVER, self.agent_silence_s or _NEVER)


class Relay:
    """The coupling of a carrier's leg and an agent's, from `start` to the one end in `ended`."""

    __slots__ = (
        "_clock",
        "_close_by",
        "_dialect",
        "_end_by",
        "_farewell",
        "_goes_on",
        "_goodbye",
        "_heard_bytes",
        "_keep_alive",
        "_keeps_agent",
        "_legs",
        "_look_by",
        "_loop",
        "_on_agent_lost",
        "_on_carrier_lost",
        "_on_first_sound",
        "_parted",
        "_silent_by",
        "_stopped_by",
        "_traffic_before",
        "_transfers",
        "agent",
        "carrier",
        "closed",
        "ended",
        "limits",
    )

    def __init__(
        self,
        carrier: Leg,
        agent: Leg,
        *,
        dialect: Dialect | None,
        limits: RelayLimits,
        on_first_sound: Callable[[], None],
        filters: tuple[Filter, Filter] | None = None,
        farewell: Farewell | None = None,
        keeps_agent: bool = True,
        on_agent_lost: Callable[[Side], None] | None = None,
        on_carrier_lost: Callable[[Side], bool] | None = None,
        after: Relay | None = None,
    ) -> None:
        """`dialect` None: any client's own language, not to be looked into.

        `on_first_sound`: called once, before the agent's first message with sound is passed on.
        `farewell`: what is done for the caller when the agent ends the session; None closes both sides.
        `on_agent_lost`: is given the carrier's side where the agent's socket is lost without a close, and
        the relay is over then; None, or a carrier that is leaving, ends the call.
        `on_carrier_lost`: is offered the agent's side where the carrier's socket is lost without a close or
        let go, and the relay is over if it is taken; None, or an agent that does not read, ends the call.
        `after`: the relay that lost one of its sides, whose time and counts go on.
        `keeps_agent`: whether the agent must not notice that its call is transferred.
        `filters`, carrier to agent and agent to carrier: couple through messages instead of bytes.
        """
        self._loop = asyncio.get_running_loop()
        self.limits = limits
        self._dialect = dialect
        self._on_first_sound: Callable[[], None] | None = on_first_sound
        self._legs = carrier, agent
        self.carrier = MessageSide(self, carrier, filters[0]) if filters else Side(self, carrier)
        self.agent = MessageSide(self, agent, filters[1]) if filters else Side(self, agent)
        self.carrier.other, self.agent.other = self.agent, self.carrier
        self.ended: asyncio.Future[CallEnd] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._clock = clock_of(self._loop)
        self._heard_bytes = -1
        self._end_by = self._silent_by = self._close_by = _NEVER  # the loop's time, in seconds
        self._keep_alive: KeepAlive | None = None
        self._look_by = _NEVER
        self._on_agent_lost = on_agent_lost
        self._on_carrier_lost = on_carrier_lost
        self._traffic_before = (0, 0, 0, 0)  # of sides that were lost
        self._goes_on = after is not None and after.agent.walker is agent.walker  # the carrier's is new
        if after is not None:
            self._end_by = after._end_by
            stays, gone = after._traffic_before, after.traffic
            heard, said = (gone, stays) if self._goes_on else (stays, gone)
            self._traffic_before = (*heard[:2], *said[2:])
        self._farewell = farewell
        self._goodbye: asyncio.Task[None] | None = None  # the farewell, while it is bidden
        self._keeps_agent = keeps_agent
        self._transfers = False  # the call is being transferred
        self._parted: CallEnd | None = None  # the carrier's side is over, the agent's is kept: why
        self._stopped_by = _NEVER  # the carrier has said that it will close, and has until then to do it

    def start(self) -> None:
        """Couples the legs: the opening and the early words go first, then everything as it comes."""
        early, greeting = (leg.take() for leg in self._legs)
        sides = self.carrier, self.agent
        transports = [leg.transport for leg in self._legs]
        if all(map(Direct.possible, transports)):
            for side, transport in zip(sides, transports, strict=True):
                side.transport = Direct.of(self._loop, transport)
        for side in sides:
            side.write_other = side.other.transport.write
            side.walker.max_payload = self.limits.max_message_bytes
            side.walker.look_below = side.looks_below
            side.transport.set_protocol(side)
            if isinstance(side.transport, Direct) and isinstance(side.other.transport, Direct):
                side.transport.pump_to(side.other.transport, side.walker)
        del self._legs
        if self._dialect is not None:
            self.carrier.walker.look_below = max(LOOK_BELOW_BYTES, self.carrier.looks_below)
        self.agent.walker.look_below = frames.LOOK_AT_ALL  # until its first sound
        self.carrier.pass_kept(early, as_it_came=not self._goes_on)
        self.agent.pass_kept(greeting, as_it_came=not self._goes_on)
        for side in sides:
            side.resume_reading()
        now = self._loop.time()
        if self._end_by == _NEVER:
            self._end_by = now + self.limits.max_duration_s
        if self.limits.ping_s or self.limits.agent_silence_s:
            self._keep_alive = KeepAlive(
                *sides, now, interval_s=self.limits.ping_s, agent_silence_s=self.limits.agent_silence_s
            )
            self._look_by = self._keep_alive.next_look
        self._clock.add(self, seldom=self.limits.shortest_s >= EXACT_ENOUGH * SELDOM_S)

    def end(self, end: CallEnd) -> None:
        """Ends the call from here: both far ends are told, and have `close_s` to answer."""
        if self._decide(end):
            ending = end.ending
            self.carrier.send_close(ending.close_code, end.words)
            self.agent.send_close(
                frames.NORMAL_CLOSURE if not ending.failed else frames.INTERNAL_ERROR, end.words
            )
            self._pass_nothing()
            self.answered()

    def transfer(self, begins: bool) -> None:
        """The call is about to be transferred, or after all is not: nothing of ours hangs it up meanwhile.

        Where no transfer comes of it, the call ends with a stream that has ended meanwhile.
        """
        self._transfers = begins
        if not begins and self._parted is not None:
            self.end(self._parted)

    def part(self, end: CallEnd) -> None:
        """Closes the carrier's side, and leaves an agent that is kept alone on its socket until it closes."""
        if self.ended.done() or self._parted is not None:
            return
        if not self._keeps_agent:
            self.end(end)
            return
        self._parted = end
        self._clock.hurry(self)
        if self.carrier.stall is not None:
            self.carrier.stall.cancel()
            self.carrier.stall = None
        if not self.agent.transport.is_closing():
            self.agent.transport.set_protocol(Alone(self, self.agent))
            self.agent.transport.resume_reading()
        self.close_carrier()
        self._loop.call_later(self.limits.close_s, self._hang_up_carrier)

    def close_carrier(self) -> None:
        """Tells the carrier that it is over."""
        if not self.carrier.transport.is_closing():
            self.carrier.transport.set_protocol(Closing(self, self.carrier))
            self.carrier.transport.resume_reading()
            self.carrier.send_close(frames.NORMAL_CLOSURE, "")
        self._close_by = min(self._close_by, self._loop.time() + self.limits.close_s)
        self._goodbye = None
        self.answered()

    def left_alone(self, payload: bytes) -> None:
        """An agent that was kept has closed."""
        try:
            code, reason = frames.read_close(payload)
        except FrameError as error:
            code, reason = frames.ABNORMAL, error.reason
        self.agent.close_seen = True
        self.end(end_of_agent(Gone(code, reason)))

    def let_carrier_go(self, end: CallEnd) -> bool:
        """The carrier has another socket for the call: its side is closed, the agent's given back.

        False where the call does not go on so, and nothing was done.
        """
        return self._gives_agent_back(end)

    @property
    def end_by(self) -> float:
        """When the call has lasted as long as it may: the loop's time, in seconds."""
        return self._end_by

    @property
    def is_direct(self) -> bool:
        """Whether both sockets are out of the loop's transports."""
        return isinstance(self.carrier.transport, Direct)

    @property
    def traffic(self) -> tuple[int, int, int, int]:
        """Data frames and bytes from the carrier, and from the agent."""
        heard, said, before = self.carrier.walker, self.agent.walker, self._traffic_before
        return (
            heard.frames + before[0],
            heard.bytes + before[1],
            said.frames + before[2],
            said.bytes + before[3],
        )

    # What the legs report

    def look(self, side: Side, data: bytes) -> bytes:
        """Looks at the frames that the walker reports; what may pass on is returned."""
        seen = side.walker.seen[:]
        side.walker.seen.clear()
        if self._keep_alive is not None:
            size = len(data)
            data, seen = without_pongs(data, seen)
            if side is self.carrier:
                self.heard_pong(size - len(data))
        if side is self.agent and self._on_first_sound is not None:
            data, seen = self._cut_at_first_sound(data, seen)
        for frame in seen:
            if frame.opcode == frames.CLOSE:
                return self.close_came(side, data, frame)
            if frame.opcode <= frames.BINARY:
                self.noticed(side, frames.payload(data, frame))
        return data

    def heard_pong(self, size: int) -> None:
        """So many bytes from the carrier were answers to our pings: it may be silent all the same."""
        self._heard_bytes += size

    def noticed(self, side: Side, payload: bytes) -> None:
        """A message came by that may be the agent's first sound, or the carrier's `stop`."""
        if side is self.agent:
            if self._on_first_sound is not None and self._is_sound(payload):
                self._first_sound()
        elif self._dialect is not None and len(payload) < LOOK_BELOW_BYTES:
            self._look_for_stop(payload)

    def unseen(self, side: Side) -> None:
        """What a side said before it was coupled passes now: an agent's may be its first sound."""
        if side is self.agent:
            self._first_sound()

    def broken(self, side: Side, error: FrameError) -> None:
        """A far end broke the protocol: what came before passes, then both are told."""
        if side.walker.seen:
            error.passing = self.look(side, error.passing)
        side.write_other(error.passing)
        side.send_close(error.close_code, error.reason)
        self.end(self._end_of(side, Gone(frames.ABNORMAL, error.reason, offence=error.close_code)))

    def stalled(self, side: Side) -> CallEnd:
        """The call's end where `side` does not take what it is sent."""
        return CallEnd(Endings.agent_stalled if side is self.agent else Endings.carrier_stalled)

    def gone(self, side: Side) -> None:
        """A far end's socket is closed."""
        if self.closed.done():
            return
        if side is self.carrier and not self.ended.done():
            if self._transfers and self._keeps_agent:
                self.part(self._end_of(side, LOST))
            if self._parted is not None:
                return
        if side is self.agent and self._goodbye is not None:
            return  # its caller is still being seen off
        if side is self.agent and self._gives_back(end_of_agent(LOST)):
            return
        if side is self.carrier and self._gives_agent_back(self._end_of(side, LOST)):
            return
        self.end(self._end_of(side, LOST))
        self._pass_nothing()
        self.answered()

    # How it ends

    def close_came(self, side: Side, data: bytes, frame: Seen) -> bytes:
        """Passes a legal close on as it is, with what stood before it; what follows it is void (§5.5.1)."""
        try:
            code, reason = frames.read_close(frames.payload(data, frame))
        except FrameError as error:
            error.passing = data[: frame.start]
            side.walker.stop()
            self.broken(side, error)
            return _NO_BYTES
        side.close_seen = True
        gone = Gone(code, reason)
        if side is self.carrier and self._transfers and self._keeps_agent and not self.ended.done():
            self.part(self._end_of(side, gone))
            return data[: frame.start]
        if side is self.agent and self._bids_farewell(gone):
            return data[: frame.start]
        passing = data[: frame.start if side.other.close_sent else frame.end]
        side.other.close_sent = True
        side.transport.set_protocol(Closing(self, side))
        self._decide(self._end_of(side, gone))
        self.answered()
        return passing

    def _gives_back(self, end: CallEnd) -> bool:
        """Whether the carrier's side is given back for the sake of another agent, as this one is lost."""
        carrier = self.carrier
        leaving = self._stopped_by != _NEVER or carrier.stall is not None or carrier.transport.is_closing()
        if self._on_agent_lost is None or leaving or self._transfers or self._parted or self.ended.done():
            return False
        if not self.agent.mend():
            return False
        self._be_over(end, self.agent, frames.INTERNAL_ERROR)  # which may be there, and silent
        self._on_agent_lost(carrier)
        carrier.resume_reading()  # which may have waited for the agent
        return True

    def _gives_agent_back(self, end: CallEnd) -> bool:
        """Whether the agent's side is given back for the sake of another socket of the carrier's.

        Not where the agent has had half a message: bots on Pipecat end a call over one (carriers.md §8.2).
        """
        agent = self.agent
        leaving = self._stopped_by != _NEVER or agent.stall is not None or agent.transport.is_closing()
        if self._on_carrier_lost is None or leaving or self._transfers or self._parted or self.ended.done():
            return False
        if not self.carrier.finish() or not self._on_carrier_lost(agent):
            return False
        self._be_over(end, self.carrier, frames.NORMAL_CLOSURE)
        agent.resume_reading()  # which may have waited for the carrier
        return True

    def _be_over(self, end: CallEnd, left: Side, close_code: int) -> None:
        """The relay is over and the call is not: one side is given back, and the one that is `left` goes."""
        self.ended.set_result(end)
        self.closed.set_result(None)
        self._clock.remove(self)
        if left.stall is not None:
            left.stall.cancel()
        if not left.lost:
            left.send_close(close_code, end.words)
            left.transport.close()
            self._loop.call_later(self.limits.close_s, left.transport.abort)

    def _bids_farewell(self, gone: Gone) -> bool:
        """Whether the agent has ended the session as one does, and its caller is still to be seen off.

        The agent is answered at once, and the session is over; the caller's side closes when all was played.
        """
        if (
            self._farewell is None
            or self._transfers
            or not gone.clean
            or not self._decide(end_of_agent(gone))
        ):
            return False
        self.agent.transport.set_protocol(Closing(self, self.agent))
        self.agent.send_close(frames.NORMAL_CLOSURE, "")
        self.agent.close_transport()  # it has said goodbye and was answered
        self._close_by = self._loop.time() + PLAYED_S + HANG_UP_S + self.limits.close_s
        farewell = self._farewell.bid(self, has_spoken=self._on_first_sound is None)
        self._goodbye = self._loop.create_task(farewell)
        return True

    def _hang_up_carrier(self) -> None:
        if not self.carrier.lost:
            self.carrier.close_transport()

    def _end_of(self, side: Side, gone: Gone) -> CallEnd:
        if side is self.agent:
            return end_of_agent(gone)
        if self._stopped_by != _NEVER and gone is LOST:
            return CallEnd(Endings.caller_hangup, "the stream was stopped")
        return end_of_carrier(gone)

    def _decide(self, end: CallEnd) -> bool:
        """Whether this is the call's end: the first one is."""
        if self.ended.done():
            return False
        self.ended.set_result(end)
        self._close_by = self._loop.time() + self.limits.close_s
        self._clock.hurry(self)
        return True

    def _pass_nothing(self) -> None:
        """What still comes is read for its close only."""
        for side in (self.carrier, self.agent):
            if not side.transport.is_closing():
                side.transport.set_protocol(Closing(self, side))
                side.transport.resume_reading()

    def answered(self) -> None:
        """A far end has closed or left. Finishes once each has had and sent a close frame, or has left."""
        if self._parted is not None and self.carrier.close_seen and self.carrier.close_sent:
            self._hang_up_carrier()
        if all(side.lost or (side.close_seen and side.close_sent) for side in (self.carrier, self.agent)):
            self._loop.call_soon(self._finish)  # what is being passed on is written first

    def _finish(self) -> None:
        """Closes both sockets; nobody is waited for any longer."""
        if self.closed.done():
            return
        self.closed.set_result(None)
        self._clock.remove(self)
        for side in (self.carrier, self.agent):
            if not side.lost:
                side.send_close(frames.NORMAL_CLOSURE, "")
                side.close_transport()
                # A far end that does not read what is left to say would hold its socket for ever.
                self._loop.call_later(self.limits.close_s, side.transport.abort)

    # What is watched

    def tick(self, now: float) -> None:
        """The clock's look at the call; `now` is the loop's time, in seconds."""
        heard = self.carrier.walker.bytes
        if now >= self._look_by:
            self._look_after(now)
        if self.ended.done():
            if now >= self._close_by:
                self._finish()
        elif now >= self._end_by:
            self.end(CallEnd(Endings.max_duration, f"{self.limits.max_duration_s:g} s"))
        elif self._parted is not None:
            return
        elif now >= self._stopped_by:
            end = self._end_of(self.carrier, LOST)
            (self.part if self._transfers else self.end)(end)
        elif heard != self._heard_bytes or self.agent.stall is not None:
            self._heard_bytes = heard
            self._silent_by = now + self.limits.idle_s
        elif now >= self._silent_by:
            self.end(CallEnd(Endings.idle_timeout, f"nothing came for {self.limits.idle_s:g} s"))

    def _look_after(self, now: float) -> None:
        """Keeps both legs alive, and sees whether the agent is."""
        if self.ended.done() or self._keep_alive is None:
            self._look_by = _NEVER
            return
        end = self._keep_alive.look(now)
        self._look_by = self._keep_alive.next_look
        if end is not None and not self._gives_back(end):
            self.end(end)

    def _look_for_stop(self, payload: bytes) -> None:
        assert self._dialect is not None
        if self._dialect.event_of(payload) == "stop":
            # The close follows at once; where none comes the agent is not left to wait, for it ends only with
            # its socket (carriers.md §8.2).
            self._stopped_by = self._loop.time() + self.limits.close_s
            self._clock.hurry(self)

    def _is_sound(self, payload: bytes) -> bool:
        return self._dialect is None or self._dialect.event_of(payload) in self._dialect.agent_sound_events

    def _cut_at_first_sound(self, data: bytes, seen: list[Seen]) -> tuple[bytes, list[Seen]]:
        """Passes on what the agent said before its first sound: what that sets off is to stand between."""
        for place, frame in enumerate(seen):
            if frame.opcode == frames.CLOSE:
                break
            if frame.opcode <= frames.BINARY and self._is_sound(frames.payload(data, frame)):
                cut = frame.start
                self.agent.write_other(data[:cut])
                self._first_sound()
                moved = [Seen(at.first, at.start - cut, at.body - cut, at.end - cut) for at in seen[place:]]
                return data[cut:], moved
        return data, seen

    def _first_sound(self) -> None:
        self.agent.walker.look_below = self.agent.looks_below
        if self._on_first_sound is not None:
            on_first_sound, self._on_first_sound = self._on_first_sound, None
            on_first_sound()
