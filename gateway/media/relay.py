# SPDX-License-Identifier: BSD-2-Clause
"""The relay: two legs joined byte for byte.

What a leg reads is written to the other as it came. Both hops run from client to server in the same
direction, so a masked frame stays valid unchanged, and pings, pongs and closes reach the far end, which
answers them itself. The scanner keeps track of the frame boundaries, so that a frame of the gateway's own can
be written between two, and reports the few frames that are inspected: control frames, and short data frames,
of which the carrier's `stop` is one.

What runs per chunk is in gateway/media/relay_side.py. This module joins two legs and inspects their frames;
gateway/media/teardown.py ends the relay, and gateway/media/relay_timers.py watches its times.

Back-pressure replaces queues: while one leg cannot write, the other is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.media import playback_clock
from gateway.media.direct_transport import DirectTransport, detach_sockets
from gateway.media.disconnect import Disconnect
from gateway.media.keepalive import send_ping, without_own_pongs
from gateway.media.leg import Leg
from gateway.media.message_side import MessageSide
from gateway.media.playback_clock import PlaybackClock, frame_bytes
from gateway.media.playback_wait import PlaybackMarks, PlaybackWait
from gateway.media.relay_options import NEVER, RelayLimits, RelayOptions
from gateway.media.relay_side import RelaySide
from gateway.media.relay_states import RelayState
from gateway.media.teardown import Teardown
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from gateway.websocket.frames import FrameError, FrameSpan
from serializers.dialect import Dialect, DialectError
from serializers.events import Clear, Media

INSPECT_BELOW_BYTES = 320
"""Messages of the carrier below this size are searched for `stop`. It is less than 20 ms of sound in any
dialect and more than any carrier's `stop` (docs/reference/carriers.md §2-5)."""

CARRIER_CHECK_S = 1.0
"""How long a carrier has for a sign of life when its socket is checked."""

_NO_BYTES = b""


class Relay:
    """The relay between a carrier's leg and an agent's leg, from `start` to its end in `ended`.

    Implements `SideObserver` (gateway/media/ports.py) for both sides.
    """

    __slots__ = (
        "_checks_carrier",
        "_continues_agent",
        "_dialect",
        "_legs",
        "_on_first_sound",
        "_options",
        "_playback_wait",
        "_traffic_before",
        "agent",
        "carrier",
        "teardown",
        "timers",
    )

    def __init__(
        self, carrier: Leg, agent: Leg, options: RelayOptions, *, previous: Relay | None = None
    ) -> None:
        """`previous`: the relay of the same call that lost a side; its duration and traffic are continued."""
        self._options = options
        self._dialect = options.dialect
        self._on_first_sound: Callable[[], None] | None = options.on_first_sound
        self._legs = carrier, agent
        self.carrier: RelaySide
        self.agent: RelaySide
        if options.transforms is None:
            self.carrier, self.agent = RelaySide(self, carrier), RelaySide(self, agent)
        else:
            self.carrier = MessageSide(self, carrier, options.transforms[0])
            self.agent = MessageSide(self, agent, options.transforms[1])
        self.carrier.other, self.agent.other = self.agent, self.carrier
        self.teardown = Teardown(
            self.carrier, self.agent, options, end_by=NEVER if previous is None else previous.end_by
        )
        self.timers = self.teardown.timers
        self._checks_carrier = False  # its answer to a ping of ours may come
        self._playback_wait: PlaybackWait | None = None
        self._traffic_before = (0, 0, 0, 0)  # of sides that were lost
        self._continues_agent = False  # the agent's side goes on, and the carrier's is new
        if previous is not None:
            # The side that goes on has kept its scanner, which counts on; the lost one's counts are added.
            self._continues_agent = previous.agent.scanner is agent.scanner
            before, total = previous._traffic_before, previous.traffic
            from_carrier, from_agent = (total, before) if self._continues_agent else (before, total)
            self._traffic_before = (*from_carrier[:2], *from_agent[2:])
            if previous._playback_wait is not None:  # its marks may still be returned
                self._playback_wait = PlaybackWait(self.carrier, None, previous._playback_wait.marks)
        self.teardown.clock = self._make_clock(options.sound_bytes_per_s, previous)

    def start(self) -> None:
        """Join the legs: pass on the frames that they have buffered, then everything as it comes."""
        from_carrier, from_agent = (leg.take_buffered() for leg in self._legs)
        sides = self.carrier, self.agent
        direct = detach_sockets(asyncio.get_running_loop(), [leg.transport for leg in self._legs])
        if direct is not None:
            self.carrier.transport, self.agent.transport = direct
        for side in sides:
            side.write_other = side.other.transport.write
            side.scanner.max_payload = self._options.limits.max_message_bytes
            side.scanner.inspect_below = side.min_inspect_below
            side.transport.set_protocol(side)
            if isinstance(side.transport, DirectTransport) and isinstance(
                side.other.transport, DirectTransport
            ):
                side.transport.pump_to(side.other.transport, side.scanner)
        del self._legs
        if self._dialect is not None:
            self.carrier.scanner.inspect_below = max(INSPECT_BELOW_BYTES, self.carrier.min_inspect_below)
        self.agent.scanner.inspect_below = frames.INSPECT_ALL  # until its first sound
        if self.teardown.clock is not None and self._continues_agent:
            self.teardown.clock.resume(asyncio.get_running_loop().time())
        self.carrier.pass_buffered(from_carrier, transformed=self._continues_agent)
        self.agent.pass_buffered(from_agent, transformed=self._continues_agent)
        for side in sides:
            side.resume_reading()
        self.timers.start()

    @property
    def ended(self) -> asyncio.Future[CallEnded]:
        """Done with the call's end as soon as one is fixed; the sockets may still be open."""
        return self.teardown.ended

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when no far end is waited for any more."""
        return self.teardown.closed

    @property
    def agent_answered(self) -> bool:
        """Whether the agent closed or ended its socket by itself. To be read when the relay is `closed`."""
        return self.teardown.agent_answered

    @property
    def end_by(self) -> float:
        """The end of the call's longest duration: the event loop's time, in seconds."""
        return self.timers.end_by

    @property
    def limits(self) -> RelayLimits:
        """The limits of the call."""
        return self._options.limits

    @property
    def stall_s(self) -> float:
        """Seconds that a side may leave its bytes unread."""
        return self._options.limits.stall_s

    @property
    def traffic(self) -> tuple[int, int, int, int]:
        """Data frames and bytes from the carrier, then data frames and bytes from the agent."""
        carrier, agent, before = self.carrier.scanner, self.agent.scanner, self._traffic_before
        return (
            carrier.frames + before[0],
            carrier.bytes + before[1],
            agent.frames + before[2],
            agent.bytes + before[3],
        )

    @property
    def is_over(self) -> bool:
        """Whether the relay has ended, and the carrier does not play the agent's last sound any more."""
        return self.ended.done() and self.teardown.state is not RelayState.DRAINING_PLAYBACK

    @property
    def played_s(self) -> float | None:
        """Seconds of the agents' sound that the caller has heard; None if they cannot be counted.

        While the carrier plays the last sound of an agent that has ended the call, that counts as heard.
        """
        clock = self.teardown.clock
        if clock is None:
            return None
        if self.teardown.state is RelayState.DRAINING_PLAYBACK:
            return clock.passed_s(self.agent.scanner)
        return clock.played_s(self.agent.scanner, asyncio.get_running_loop().time())

    def finish_playback(self, marks: PlaybackMarks, longest_s: float, on_done: Callable[[], None]) -> None:
        """Call `on_done` once the caller has heard what the agent says, after `longest_s` at the latest.

        Both sides go on meanwhile. It is also called when the relay ends, unless the agent has ended it and
        its last sound is being played. At once if the agent has said nothing.
        """
        teardown = self.teardown
        if teardown.state is not RelayState.RELAYING or not teardown.agent_has_spoken or not longest_s:
            on_done()
            return
        if self._playback_wait is None or self._playback_wait.is_over:
            self._playback_wait = PlaybackWait(self.carrier, teardown.clock, marks)
            self.ended.add_done_callback(self._playback_broken)
        self._playback_wait.begin(longest_s, on_done)

    def on_next_sound(self, report: Callable[[], None] | None) -> None:
        """Call `report` once, before the agent's next sound is passed on; None takes that back.

        No effect while the agent has not said anything at all: `on_first_sound` is what is called then.
        """
        if self.teardown.agent_has_spoken and not self.ended.done():
            self._on_first_sound = report
            if report is not None:
                self.agent.scanner.inspect_below = frames.INSPECT_ALL

    def _playback_broken(self, _: asyncio.Future[CallEnded]) -> None:
        assert self._playback_wait is not None
        if self.teardown.state is not RelayState.DRAINING_PLAYBACK:
            self._playback_wait.done()

    def end(self, end: CallEnded) -> None:
        """End the call from here: send a close frame to both far ends, which have `close_s` to answer.

        No effect if an end is fixed already.
        """
        self.teardown.end(end)

    def set_transfer_pending(self, pending: bool) -> None:
        """Note that a transfer of the call has begun (True) or has failed (False).

        While it is pending, a carrier that closes leaves the agent on its socket, and the call is not hung
        up. If the carrier has closed by the time the transfer fails, the call ends then.
        """
        self.teardown.set_transfer_pending(pending)

    def detach_carrier(self, end: CallEnded) -> None:
        """Close the carrier's side, because the call was transferred.

        An agent that is kept stays on its socket until it closes; otherwise the call ends with `end`.
        """
        self.teardown.detach_carrier(end)

    def release_agent(self, end: CallEnded) -> bool:
        """Close the carrier's side and give the agent's to `on_carrier_lost`: another stream replaces it.

        Return False, with no effect, if the call cannot continue on another stream.
        """
        return self.teardown.release_agent(end)

    def check_carrier(self) -> None:
        """Ping the carrier, and treat it as lost if nothing comes from it within CARRIER_CHECK_S.

        No effect if the ping cannot be sent just now, or the carrier is not read because the agent does not
        read: its silence would mean nothing.
        """
        if self.agent.stall is None and send_ping(self.carrier):
            self._checks_carrier = True
            loop = asyncio.get_running_loop()
            loop.call_later(CARRIER_CHECK_S, self._lose_silent_carrier, self.carrier.scanner.bytes)

    def _lose_silent_carrier(self, bytes_before: int) -> None:
        is_silent = self.carrier.scanner.bytes == bytes_before and self.agent.stall is None
        if is_silent and self.teardown.state is RelayState.RELAYING:
            self.teardown.carrier_silent(CallEnded(Reasons.carrier_lost, "it did not answer a ping"))

    # What the sides report: SideObserver

    def inspect(self, side: RelaySide, data: bytes) -> bytes:
        spans = side.scanner.spans[:]
        side.scanner.spans.clear()
        if self.timers.pings or self._checks_carrier:
            size = len(data)
            data, spans = without_own_pongs(data, spans)
            if side is self.carrier:
                self.timers.pong_received(size - len(data))
            elif self.teardown.clock is not None:
                self.teardown.clock.skip(0, size - len(data))
        if side is self.carrier and self._playback_wait is not None:
            data, spans = self._playback_wait.without_marks(data, spans)
        if side is self.agent and self._on_first_sound is not None:
            data, spans = self._split_at_first_sound(data, spans)
        for span in spans:
            if span.opcode == frames.CLOSE:
                return self.close_received(side, data, span)
            if span.opcode <= frames.BINARY:
                self.message_passed(side, frames.payload(data, span), len(data) - span.end)
            elif side is self.agent and self.teardown.clock is not None:
                self.teardown.clock.skip(0, span.end - span.start)
        return data

    def is_own_mark(self, side: RelaySide, payload: bytes) -> bool:
        return self._playback_wait is not None and side is self.carrier and self._playback_wait.takes(payload)

    def message_passed(self, side: RelaySide, payload: bytes, after_bytes: int = 0) -> None:
        if side is self.agent:
            if self._on_first_sound is not None and self._is_sound(payload):
                self._first_sound()
            clock = self.teardown.clock
            if clock is not None and (
                clock.awaits_sound or len(payload) < playback_clock.INSPECT_BELOW_BYTES
            ):
                self._count_message(clock, payload, after_bytes)
        elif self._dialect is not None and len(payload) < INSPECT_BELOW_BYTES:
            self._check_for_stop(self._dialect, payload)

    def buffered_passed(self, side: RelaySide) -> None:
        if side is self.agent:  # its buffered frames are not inspected, and may be sound
            self._first_sound()

    def pong_received(self, side: RelaySide, size: int) -> None:
        if side is self.carrier:
            self.timers.pong_received(size)

    def protocol_error(self, side: RelaySide, error: FrameError) -> None:
        if side.scanner.spans:
            error.passing = self.inspect(side, error.passing)
        side.write_other(error.passing)  # what came before the broken frame
        self.teardown.protocol_error(side, error)

    def close_received(self, side: RelaySide, data: bytes, frame: FrameSpan) -> bytes:
        try:
            code, reason = frames.read_close(frames.payload(data, frame))
        except FrameError as error:
            error.passing = data[: frame.start]
            side.scanner.stop()
            self.protocol_error(side, error)
            return _NO_BYTES
        passes = self.teardown.close_received(side, Disconnect(code, reason))
        return data[: frame.end if passes else frame.start]  # what follows a close is void (RFC 6455 §5.5.1)

    def stalled(self, side: RelaySide) -> None:
        self.teardown.stalled(side)

    def connection_lost(self, side: RelaySide, disconnect: Disconnect) -> None:
        self.teardown.connection_lost(side, disconnect)

    def _check_for_stop(self, dialect: Dialect, payload: bytes) -> None:
        if dialect.event_of(payload) == "stop":
            # The close follows at once. If none does, the agent is not left waiting: its call ends only with
            # its socket (docs/reference/carriers.md §8.2).
            self.timers.stop_received()

    # The agent's first sound

    def _is_sound(self, payload: bytes) -> bool:
        return self._dialect is None or self._dialect.event_of(payload) in self._dialect.agent_media_events

    def _split_at_first_sound(self, data: bytes, spans: list[FrameSpan]) -> tuple[bytes, list[FrameSpan]]:
        """Write what precedes the agent's first sound, and report the sound before it is passed on.

        `on_first_sound` may write a message of its own, which then stands between the two. Return the rest
        of `data`, and the `spans` in it; both unchanged if they contain no sound.
        """
        for number, span in enumerate(spans):
            if span.opcode == frames.CLOSE:
                break
            if span.opcode <= frames.BINARY and self._is_sound(frames.payload(data, span)):
                cut = span.start
                self.agent.write_other(data[:cut])
                self._first_sound()
                moved = [
                    FrameSpan(later.first_byte, later.start - cut, later.body - cut, later.end - cut)
                    for later in spans[number:]
                ]
                return data[cut:], moved
        return data, spans

    def _first_sound(self) -> None:
        if self.teardown.clock is None:
            self.agent.scanner.inspect_below = self.agent.min_inspect_below
        if self._on_first_sound is not None:
            on_first_sound, self._on_first_sound = self._on_first_sound, None
            self.teardown.agent_has_spoken = True
            on_first_sound()

    # What the caller has heard

    def _make_clock(self, bytes_per_s: int | None, previous: Relay | None) -> PlaybackClock | None:
        """Return the clock of the agent's sound; None if it cannot be counted."""
        if bytes_per_s is None:
            return None
        clock = None if previous is None else previous.teardown.clock
        if previous is None or clock is None or self._continues_agent:
            return clock or PlaybackClock(bytes_per_s)
        return PlaybackClock(bytes_per_s, played_s=clock.passed_s(previous.agent.scanner))

    def _count_message(self, clock: PlaybackClock, payload: bytes, after_bytes: int) -> None:
        """Count a message of the agent's that is inspected: sound, a clear, or something else."""
        now = asyncio.get_running_loop().time()
        try:
            event = None if self._dialect is None else self._dialect.read_agent(payload)
        except DialectError:
            event = None
            if clock.awaits_sound and self._is_sound(payload):  # what cannot be read cannot be counted
                self.teardown.clock = None
                self.agent.scanner.inspect_below = self.agent.min_inspect_below
                return
        if isinstance(event, Media):
            if clock.awaits_sound:
                clock.sound_begins(len(payload), len(event.payload), now)
        else:
            clock.skip(1, frame_bytes(len(payload)))
            if isinstance(event, Clear):
                clock.clear(self.agent.scanner, now, after_bytes)
        self.agent.scanner.inspect_below = max(clock.inspect_below, self.agent.min_inspect_below)
