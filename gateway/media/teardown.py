# SPDX-License-Identifier: BSD-2-Clause
"""How two coupled legs come apart again, once per call: with one end, whoever it comes from.

As a rule both sides go: the first end is the call's, both far ends are told, and have some time to answer.
Four ends are of one side only. An agent that ends the session has its caller seen off; a call that is
transferred leaves its agent alone on its socket; an agent that is lost gives the carrier's side back for
another one, and a carrier that is lost the agent's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

from gateway.media.disconnect import CONNECTION_LOST, Disconnect, reason_for_agent, reason_for_carrier
from gateway.media.relay_side import RelaySide
from gateway.media.relay_timers import NEVER, RelayLimits, RelayTimers
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from gateway.websocket.frames import FrameError
from serializers.dialect import Dialect, DialectError
from serializers.events import Mark, Played, Start

PLAYED_S: Final = 10.0
"""How long the carrier has to play what it was sent."""
HANG_UP_S: Final = 15.0
"""How long the hanging up may take."""
LONGEST_ECHO_BYTES: Final = 1024

_NAME: Final = "patchbay:end"


class HangupAfterPlayback:
    """What is done for a caller whose agent has ended the session."""

    __slots__ = ("_dialect", "_hang_up", "_mark")

    def __init__(self, dialect: Dialect, start: Start, hang_up: Callable[[], Awaitable[None]]) -> None:
        """`hang_up` raises nothing, and is bounded by HANG_UP_S."""
        self._dialect = dialect
        self._mark = dialect.write_agent(Mark(_NAME), start).encode()
        self._hang_up = hang_up

    def bid(self, teardown: Teardown, *, has_spoken: bool) -> Coroutine[None, None, None]:
        """What waits until all was played, hangs up, and lets the carrier's side close; it raises nothing.

        From this call on the carrier is not passed on any more.
        """
        waiting = PlaybackDrain(teardown, teardown.carrier, self._is_echo)
        teardown.carrier.transport.set_protocol(waiting)
        teardown.carrier.transport.resume_reading()
        return self._bid(teardown, waiting, has_spoken)

    async def hang_up(self) -> None:
        """Hangs up, where no relay is left to play anything; raises nothing."""
        await asyncio.wait([asyncio.ensure_future(self._hang_up())], timeout=HANG_UP_S)

    async def _bid(self, teardown: Teardown, waiting: PlaybackDrain, has_spoken: bool) -> None:
        side = teardown.carrier
        if has_spoken and not side.transport.is_closing() and side.other.scanner.between_messages:
            side.transport.write(frames.build(frames.TEXT, self._mark, masked=side.client))
            await asyncio.wait([waiting.over], timeout=PLAYED_S)
        await self.hang_up()
        teardown.close_carrier()

    def _is_echo(self, payload: bytes) -> bool:
        try:
            event = self._dialect.read_carrier(payload)
        except DialectError:
            return False
        return isinstance(event, Played) and event.name == _NAME


class PlaybackDrain(asyncio.Protocol):
    """The carrier's side while it plays what it has: of what it says only the echo of the mark is heard."""

    def __init__(self, teardown: Teardown, side: RelaySide, is_echo: Callable[[bytes], bool]) -> None:
        self._teardown = teardown
        self._side = side
        self._is_echo = is_echo
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        side.scanner.inspect_below = LONGEST_ECHO_BYTES

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        for frame, payload in _seen(side, data):
            if frame == frames.CLOSE:
                side.close_seen = True
                self._end()
            elif frame == frames.PING:
                side.transport.write(frames.build(frames.PONG, payload, masked=side.client))
            elif frame == frames.TEXT and self._is_echo(payload):
                self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._end()
        self._teardown.gone(self._side)

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def pause_writing(self) -> None:
        """What is unsent is the agent's last words, which are waited for."""


class AgentHold(asyncio.Protocol):
    """The agent's side of a call that was transferred: its socket is kept, and what it says goes nowhere."""

    def __init__(self, teardown: Teardown, side: RelaySide) -> None:
        self._teardown = teardown
        self._side = side
        side.scanner.inspect_below = 0

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        for frame, payload in _seen(side, data):
            if frame == frames.CLOSE:
                self._teardown.left_alone(payload)
                return
            if frame == frames.PING and side.other.scanner.at_boundary:
                side.transport.write(frames.build(frames.PONG, payload, masked=side.client))

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._teardown.gone(self._side)

    def pause_writing(self) -> None:
        """Nothing but pongs is written, and an agent that reads none is not waited for."""


class Closing(asyncio.Protocol):
    """A side whose call has ended: reads on for the far end's close, passes nothing."""

    def __init__(self, teardown: Teardown, side: RelaySide) -> None:
        self._teardown = teardown
        self._side = side
        side.scanner.inspect_below = 0

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        try:
            data = side.scanner.feed(data)
        except FrameError:
            side.close_seen = True  # it will not say anything better
        for frame in side.scanner.seen:
            side.close_seen |= frame.opcode == frames.CLOSE
        side.scanner.seen.clear()
        self._teardown.answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._teardown.gone(self._side)

    def pause_writing(self) -> None:
        """Nothing is written any more."""


def _seen(side: RelaySide, data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of the frames that are looked at; what breaks the protocol counts as a close."""
    broken = False
    try:
        data = side.scanner.feed(data)
    except FrameError as error:
        broken, data = True, error.passing
    found = [(frame.opcode, frames.payload(data, frame)) for frame in side.scanner.seen]
    side.scanner.seen.clear()
    return [*found, (frames.CLOSE, b"")] if broken else found


class Teardown:
    """The end of one relay, from its first sign to two closed sockets."""

    __slots__ = (
        "__weakref__",
        "_farewell",
        "_goodbye",
        "_keeps_agent",
        "_loop",
        "_on_agent_lost",
        "_on_carrier_lost",
        "_parted",
        "_transfers",
        "agent",
        "carrier",
        "closed",
        "ended",
        "has_spoken",
        "watch",
    )

    def __init__(
        self,
        carrier: RelaySide,
        agent: RelaySide,
        limits: RelayLimits,
        *,
        end_by: float = NEVER,
        farewell: HangupAfterPlayback | None,
        keeps_agent: bool,
        on_agent_lost: Callable[[RelaySide], None] | None,
        on_carrier_lost: Callable[[RelaySide], bool] | None,
    ) -> None:
        """`end_by`: see RelayTimers. All others are the relay's."""
        self._loop = asyncio.get_running_loop()
        self.carrier = carrier
        self.agent = agent
        self.watch = RelayTimers(self, limits, end_by=end_by)
        self.ended: asyncio.Future[CallEnded] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.has_spoken = False  # the agent
        self._farewell = farewell
        self._goodbye: asyncio.Task[None] | None = None  # the farewell, while it is bidden
        self._keeps_agent = keeps_agent
        self._transfers = False  # the call is being transferred
        self._parted: CallEnded | None = None  # the carrier's side is over, the agent's is kept: why
        self._on_agent_lost = on_agent_lost
        self._on_carrier_lost = on_carrier_lost

    def end(self, end: CallEnded) -> None:
        """Ends the call from here: both far ends are told, and have `close_s` to answer."""
        if self._decide(end):
            reason = end.reason
            self.carrier.send_close(reason.close_code, end.detail)
            self.agent.send_close(
                frames.NORMAL_CLOSURE if not reason.failed else frames.INTERNAL_ERROR, end.detail
            )
            self._pass_nothing()
            self.answered()

    # What the far ends do

    def close_came(self, side: RelaySide, gone: Disconnect) -> bool:
        """A far end has sent its close frame: whether that is to be passed on, as the other has had none."""
        side.close_seen = True
        if side is self.carrier and self._transfers and self._keeps_agent and not self.ended.done():
            self.part(self._end_of(side, gone))
            return False
        if side is self.agent and self._bids_farewell(gone):
            return False
        passes = not side.other.close_sent
        side.other.close_sent = True
        side.transport.set_protocol(Closing(self, side))
        self._decide(self._end_of(side, gone))
        self.answered()
        return passes

    def broken(self, side: RelaySide, error: FrameError) -> None:
        """A far end broke the protocol: both are told."""
        side.send_close(error.close_code, error.reason)
        self.end(self._end_of(side, Disconnect(frames.ABNORMAL, error.reason, offence=error.close_code)))

    def stalled(self, side: RelaySide) -> None:
        """A side does not take what it is sent."""
        self.end(CallEnded(Reasons.agent_stalled if side is self.agent else Reasons.carrier_stalled))

    def gone(self, side: RelaySide) -> None:
        """A far end's socket is closed."""
        if self.closed.done():
            self._let_go()
            return
        if side is self.carrier and not self.ended.done():
            if self._transfers and self._keeps_agent:
                self.part(self._end_of(side, CONNECTION_LOST))
            if self._parted is not None:
                return
        if side is self.agent and self._goodbye is not None:
            return  # its caller is still being seen off
        if side is self.agent and self._gives_back(reason_for_agent(CONNECTION_LOST)):
            return
        if side is self.carrier and self.gives_agent_back(self._end_of(side, CONNECTION_LOST)):
            return
        self.end(self._end_of(side, CONNECTION_LOST))
        self._pass_nothing()
        self.answered()

    def answered(self) -> None:
        """A far end has closed or left. Finishes once each has had and sent a close frame, or has left."""
        if self._parted is not None and self.carrier.close_seen and self.carrier.close_sent:
            self._hang_up_carrier()
        if all(side.lost or (side.close_seen and side.close_sent) for side in (self.carrier, self.agent)):
            self._loop.call_soon(self.finish)  # what is being passed on is written first

    def finish(self) -> None:
        """Closes both sockets; nobody is waited for any longer."""
        if self.closed.done():
            return
        self.closed.set_result(None)
        self.watch.stop()
        for side in (self.carrier, self.agent):
            if not side.lost:
                side.send_close(frames.NORMAL_CLOSURE, "")
                side.close_transport()
                # A far end that does not read what is left to say would hold its socket for ever.
                self._loop.call_later(self.watch.limits.close_s, side.transport.abort)
        self._let_go()

    def _let_go(self) -> None:
        """Once both sockets are closed nothing waits for a collector that seldom comes."""
        if self.carrier.lost and self.agent.lost:
            self.carrier.let_go()
            self.agent.let_go()

    def _end_of(self, side: RelaySide, gone: Disconnect) -> CallEnded:
        if side is self.agent:
            return reason_for_agent(gone)
        if self.watch.stop_has_come and gone is CONNECTION_LOST:
            return CallEnded(Reasons.caller_hangup, "the stream was stopped")
        return reason_for_carrier(gone)

    def _decide(self, end: CallEnded) -> bool:
        """Whether this is the call's end: the first one is."""
        if self.ended.done():
            return False
        self.ended.set_result(end)
        self.watch.close_by = self._loop.time() + self.watch.limits.close_s
        self.watch.hurry()
        return True

    def _pass_nothing(self) -> None:
        """What still comes is read for its close only."""
        for side in (self.carrier, self.agent):
            if not side.transport.is_closing():
                side.transport.set_protocol(Closing(self, side))
                side.transport.resume_reading()

    # The caller is seen off

    def _bids_farewell(self, gone: Disconnect) -> bool:
        """Whether the agent has ended the session as one does, and its caller is still to be seen off.

        The agent is answered at once, and the session is over; the caller's side closes when all was played.
        """
        if (
            self._farewell is None
            or self._transfers
            or not gone.clean
            or not self._decide(reason_for_agent(gone))
        ):
            return False
        self.agent.transport.set_protocol(Closing(self, self.agent))
        self.agent.send_close(frames.NORMAL_CLOSURE, "")
        self.agent.close_transport()  # it has said goodbye and was answered
        self.watch.close_by = self._loop.time() + PLAYED_S + HANG_UP_S + self.watch.limits.close_s
        self._goodbye = self._loop.create_task(self._farewell.bid(self, has_spoken=self.has_spoken))
        return True

    def close_carrier(self) -> None:
        """Tells the carrier that it is over."""
        if not self.carrier.transport.is_closing():
            self.carrier.transport.set_protocol(Closing(self, self.carrier))
            self.carrier.transport.resume_reading()
            self.carrier.send_close(frames.NORMAL_CLOSURE, "")
        self.watch.close_by = min(self.watch.close_by, self._loop.time() + self.watch.limits.close_s)
        self._goodbye = None
        self.answered()

    # The agent is left alone

    def transfer(self, begins: bool) -> None:
        """The call is about to be transferred, or after all is not: then what has parted ends."""
        self._transfers = begins
        if not begins and self._parted is not None:
            self.end(self._parted)

    def part(self, end: CallEnded) -> None:
        """Closes the carrier's side only, where the agent is kept; see Relay.part."""
        if self.ended.done() or self._parted is not None:
            return
        if not self._keeps_agent:
            self.end(end)
            return
        self._parted = end
        self.watch.hurry()
        if self.carrier.stall is not None:
            self.carrier.stall.cancel()
            self.carrier.stall = None
        if not self.agent.transport.is_closing():
            self.agent.transport.set_protocol(AgentHold(self, self.agent))
            self.agent.transport.resume_reading()
        self.close_carrier()
        self._loop.call_later(self.watch.limits.close_s, self._hang_up_carrier)

    @property
    def has_parted(self) -> bool:
        """Whether the carrier's side is over, and the agent's is kept."""
        return self._parted is not None

    def left_alone(self, payload: bytes) -> None:
        """An agent that was kept has closed."""
        try:
            code, reason = frames.read_close(payload)
        except FrameError as error:
            code, reason = frames.ABNORMAL, error.reason
        self.agent.close_seen = True
        self.end(reason_for_agent(Disconnect(code, reason)))

    def stopped(self) -> None:
        """The carrier has said `stop`, and did not close in time."""
        end = self._end_of(self.carrier, CONNECTION_LOST)
        (self.part if self._transfers else self.end)(end)

    def _hang_up_carrier(self) -> None:
        if not self.carrier.lost:
            self.carrier.close_transport()

    # One side is given back

    def agent_lost(self, end: CallEnded) -> None:
        """The agent answers no more, though its socket is there."""
        if not self._gives_back(end):
            self.end(end)

    def _gives_back(self, end: CallEnded) -> bool:
        """Whether the carrier's side is given back for the sake of another agent, as this one is lost."""
        if self._on_agent_lost is None or self._is_leaving(self.carrier):
            return False
        if not self.agent.mend():
            return False
        self._be_over(end, self.agent, frames.INTERNAL_ERROR)  # which may be there, and silent
        self._on_agent_lost(self.carrier)
        self.carrier.resume_reading()  # which may have waited for the agent
        return True

    def gives_agent_back(self, end: CallEnded) -> bool:
        """Whether the agent's side is given back for the sake of another socket of the carrier's.

        Not where the agent has had half a message: bots on Pipecat end a call over one
        (docs/reference/carriers.md §8.2).
        """
        if self._on_carrier_lost is None or self._is_leaving(self.agent):
            return False
        if not self.carrier.finish() or not self._on_carrier_lost(self.agent):
            return False
        self._be_over(end, self.carrier, frames.NORMAL_CLOSURE)
        self.agent.resume_reading()  # which may have waited for the carrier
        return True

    def _is_leaving(self, side: RelaySide) -> bool:
        """Whether the call is ending in another way, or this side of it is not fit to go on."""
        unfit = side.stall is not None or side.transport.is_closing()
        reason = self.watch.stop_has_come or self._transfers or self.has_parted or self.ended.done()
        return unfit or reason

    def _be_over(self, end: CallEnded, left: RelaySide, close_code: int) -> None:
        """The relay is over and the call is not: one side is given back, and the one that is `left` goes."""
        self.ended.set_result(end)
        self.closed.set_result(None)
        self.watch.stop()
        if left.stall is not None:
            left.stall.cancel()
        if not left.lost:
            left.send_close(close_code, end.detail)
            left.transport.close()
            self._loop.call_later(self.watch.limits.close_s, left.transport.abort)
