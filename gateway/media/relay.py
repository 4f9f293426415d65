# SPDX-License-Identifier: BSD-2-Clause
"""The relay: two legs coupled byte for byte.

What a leg reads is written to the other as it came. Both hops run from client to server in the same
direction, so a masked frame stays valid untouched, and pings, pongs and closes reach the far end, which
answers them itself. The walker keeps the frame boundaries, so that a frame of our own can stand between
two, and reports the few frames worth a look: control frames and short ones, where `stop` is.

What runs per chunk is in gateway/media/relay_side.py. Here is how two legs are coupled, and what is looked
for in
what they say; how they come apart is in gateway/media/teardown.py, by when in gateway/media/relay_timers.py.

Back-pressure instead of queues: while one leg cannot write, the other is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.media.direct_transport import DirectTransport, detach_sockets
from gateway.media.disconnect import Disconnect
from gateway.media.keepalive import without_pongs
from gateway.media.leg import Leg
from gateway.media.message_side import MessageSide
from gateway.media.relay_side import RelaySide
from gateway.media.relay_timers import NEVER, RelayLimits
from gateway.media.teardown import HangupAfterPlayback, Teardown
from gateway.model.reasons import CallEnded
from gateway.websocket import frames
from gateway.websocket.frames import FrameError, FrameSpan
from serializers.dialect import Dialect
from serializers.transforms import Transform

LOOK_BELOW_BYTES = 320
"""Shorter than 20 ms of sound in any dialect, longer than any carrier's `stop` (docs/reference/carriers.md
§2-5).
"""

_NO_BYTES = b""


class Relay:
    """The coupling of a carrier's leg and an agent's, from `start` to the one end in `ended`."""

    __slots__ = (
        "_dialect",
        "_goes_on",
        "_legs",
        "_on_first_sound",
        "_traffic_before",
        "agent",
        "carrier",
        "limits",
        "teardown",
        "watch",
    )

    def __init__(
        self,
        carrier: Leg,
        agent: Leg,
        *,
        dialect: Dialect | None,
        limits: RelayLimits,
        on_first_sound: Callable[[], None],
        filters: tuple[Transform, Transform] | None = None,
        farewell: HangupAfterPlayback | None = None,
        keeps_agent: bool = True,
        on_agent_lost: Callable[[RelaySide], None] | None = None,
        on_carrier_lost: Callable[[RelaySide], bool] | None = None,
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
        self.limits = limits
        self._dialect = dialect
        self._on_first_sound: Callable[[], None] | None = on_first_sound
        self._legs = carrier, agent
        self.carrier = MessageSide(self, carrier, filters[0]) if filters else RelaySide(self, carrier)
        self.agent = MessageSide(self, agent, filters[1]) if filters else RelaySide(self, agent)
        self.carrier.other, self.agent.other = self.agent, self.carrier
        self.teardown = Teardown(
            self.carrier,
            self.agent,
            limits,
            end_by=NEVER if after is None else after.end_by,
            farewell=farewell,
            keeps_agent=keeps_agent,
            on_agent_lost=on_agent_lost,
            on_carrier_lost=on_carrier_lost,
        )
        self.watch = self.teardown.watch
        self._traffic_before = (0, 0, 0, 0)  # of sides that were lost
        self._goes_on = after is not None and after.agent.scanner is agent.scanner  # the carrier's is new
        if after is not None:
            stays, gone = after._traffic_before, after.traffic
            heard, said = (gone, stays) if self._goes_on else (stays, gone)
            self._traffic_before = (*heard[:2], *said[2:])

    def start(self) -> None:
        """Couples the legs: the opening and the early words go first, then everything as it comes."""
        early, greeting = (leg.take() for leg in self._legs)
        sides = self.carrier, self.agent
        direct = detach_sockets(asyncio.get_running_loop(), [leg.transport for leg in self._legs])
        if direct is not None:
            self.carrier.transport, self.agent.transport = direct
        for side in sides:
            side.write_other = side.other.transport.write
            side.scanner.max_payload = self.limits.max_message_bytes
            side.scanner.inspect_below = side.looks_below
            side.transport.set_protocol(side)
            if isinstance(side.transport, DirectTransport) and isinstance(
                side.other.transport, DirectTransport
            ):
                side.transport.pump_to(side.other.transport, side.scanner)
        del self._legs
        if self._dialect is not None:
            self.carrier.scanner.inspect_below = max(LOOK_BELOW_BYTES, self.carrier.looks_below)
        self.agent.scanner.inspect_below = frames.INSPECT_ALL  # until its first sound
        self.carrier.pass_kept(early, as_it_came=not self._goes_on)
        self.agent.pass_kept(greeting, as_it_came=not self._goes_on)
        for side in sides:
            side.resume_reading()
        self.watch.start()

    @property
    def ended(self) -> asyncio.Future[CallEnded]:
        """The one end, when there is one; the sockets may still be open."""
        return self.teardown.ended

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when nobody is waited for any longer."""
        return self.teardown.closed

    @property
    def end_by(self) -> float:
        """When the call has lasted as long as it may: the loop's time, in seconds."""
        return self.watch.end_by

    def end(self, end: CallEnded) -> None:
        """Ends the call from here: both far ends are told, and have `close_s` to answer."""
        self.teardown.end(end)

    def transfer(self, begins: bool) -> None:
        """The call is about to be transferred, or after all is not: nothing of ours hangs it up meanwhile.

        Where no transfer comes of it, the call ends with a stream that has ended meanwhile.
        """
        self.teardown.transfer(begins)

    def part(self, end: CallEnded) -> None:
        """Closes the carrier's side, and leaves an agent that is kept alone on its socket until it closes."""
        self.teardown.part(end)

    def let_carrier_go(self, end: CallEnded) -> bool:
        """The carrier has another socket for the call: its side is closed, the agent's given back.

        False where the call does not go on so, and nothing was done.
        """
        return self.teardown.gives_agent_back(end)

    @property
    def traffic(self) -> tuple[int, int, int, int]:
        """Data frames and bytes from the carrier, and from the agent."""
        heard, said, before = self.carrier.scanner, self.agent.scanner, self._traffic_before
        return (
            heard.frames + before[0],
            heard.bytes + before[1],
            said.frames + before[2],
            said.bytes + before[3],
        )

    # What the legs report

    def look(self, side: RelaySide, data: bytes) -> bytes:
        """Looks at the frames that the walker reports; what may pass on is returned."""
        seen = side.scanner.seen[:]
        side.scanner.seen.clear()
        if self.watch.pings:
            size = len(data)
            data, seen = without_pongs(data, seen)
            if side is self.carrier:
                self.watch.heard_pong(size - len(data))
        if side is self.agent and self._on_first_sound is not None:
            data, seen = self._cut_at_first_sound(data, seen)
        for frame in seen:
            if frame.opcode == frames.CLOSE:
                return self.close_came(side, data, frame)
            if frame.opcode <= frames.BINARY:
                self.noticed(side, frames.payload(data, frame))
        return data

    def noticed(self, side: RelaySide, payload: bytes) -> None:
        """A message came by that may be the agent's first sound, or the carrier's `stop`."""
        if side is self.agent:
            if self._on_first_sound is not None and self._is_sound(payload):
                self._first_sound()
        elif self._dialect is not None and len(payload) < LOOK_BELOW_BYTES:
            self._look_for_stop(payload)

    def unseen(self, side: RelaySide) -> None:
        """What a side said before it was coupled passes now: an agent's may be its first sound."""
        if side is self.agent:
            self._first_sound()

    def broken(self, side: RelaySide, error: FrameError) -> None:
        """A far end broke the protocol: what came before passes, then both are told."""
        if side.scanner.seen:
            error.passing = self.look(side, error.passing)
        side.write_other(error.passing)
        self.teardown.broken(side, error)

    def close_came(self, side: RelaySide, data: bytes, frame: FrameSpan) -> bytes:
        """Passes a legal close on as it is, with what stood before it; what follows it is void (§5.5.1)."""
        try:
            code, reason = frames.read_close(frames.payload(data, frame))
        except FrameError as error:
            error.passing = data[: frame.start]
            side.scanner.stop()
            self.broken(side, error)
            return _NO_BYTES
        passes = self.teardown.close_came(side, Disconnect(code, reason))
        return data[: frame.end if passes else frame.start]

    # What is looked for

    def _look_for_stop(self, payload: bytes) -> None:
        assert self._dialect is not None
        if self._dialect.event_of(payload) == "stop":
            # The close follows at once; where none comes the agent is not left to wait, for it ends only with
            # its socket (docs/reference/carriers.md §8.2).
            self.watch.stop_came()

    def _is_sound(self, payload: bytes) -> bool:
        return self._dialect is None or self._dialect.event_of(payload) in self._dialect.agent_media_events

    def _cut_at_first_sound(self, data: bytes, seen: list[FrameSpan]) -> tuple[bytes, list[FrameSpan]]:
        """Passes on what the agent said before its first sound: what that sets off is to stand between."""
        for place, frame in enumerate(seen):
            if frame.opcode == frames.CLOSE:
                break
            if frame.opcode <= frames.BINARY and self._is_sound(frames.payload(data, frame)):
                cut = frame.start
                self.agent.write_other(data[:cut])
                self._first_sound()
                moved = [
                    FrameSpan(at.first, at.start - cut, at.body - cut, at.end - cut) for at in seen[place:]
                ]
                return data[cut:], moved
        return data, seen

    def _first_sound(self) -> None:
        self.agent.scanner.inspect_below = self.agent.looks_below
        if self._on_first_sound is not None:
            on_first_sound, self._on_first_sound = self._on_first_sound, None
            self.teardown.has_spoken = True
            on_first_sound()
