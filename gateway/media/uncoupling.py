# SPDX-License-Identifier: BSD-2-Clause
"""How two coupled legs come apart again, once per call: with one end, whoever it comes from.

As a rule both sides go: the first end is the call's, both far ends are told, and have some time to answer.
Four ends are of one side only. An agent that ends the session has its caller seen off; a call that is
transferred leaves its agent alone on its socket; an agent that is lost gives the carrier's side back for
another one, and a carrier that is lost the agent's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.errors import CallEnd, Endings
from gateway.media import frames
from gateway.media.apart import HANG_UP_S, PLAYED_S, Alone, Closing, Farewell
from gateway.media.ends import LOST, Gone, end_of_agent, end_of_carrier
from gateway.media.frames import FrameError
from gateway.media.side import Side
from gateway.media.watch import NEVER, RelayLimits, Watch


class Uncoupling:
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
        carrier: Side,
        agent: Side,
        limits: RelayLimits,
        *,
        end_by: float = NEVER,
        farewell: Farewell | None,
        keeps_agent: bool,
        on_agent_lost: Callable[[Side], None] | None,
        on_carrier_lost: Callable[[Side], bool] | None,
    ) -> None:
        """`end_by`: see Watch. All others are the relay's."""
        self._loop = asyncio.get_running_loop()
        self.carrier = carrier
        self.agent = agent
        self.watch = Watch(self, limits, end_by=end_by)
        self.ended: asyncio.Future[CallEnd] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.has_spoken = False  # the agent
        self._farewell = farewell
        self._goodbye: asyncio.Task[None] | None = None  # the farewell, while it is bidden
        self._keeps_agent = keeps_agent
        self._transfers = False  # the call is being transferred
        self._parted: CallEnd | None = None  # the carrier's side is over, the agent's is kept: why
        self._on_agent_lost = on_agent_lost
        self._on_carrier_lost = on_carrier_lost

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

    # What the far ends do

    def close_came(self, side: Side, gone: Gone) -> bool:
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

    def broken(self, side: Side, error: FrameError) -> None:
        """A far end broke the protocol: both are told."""
        side.send_close(error.close_code, error.reason)
        self.end(self._end_of(side, Gone(frames.ABNORMAL, error.reason, offence=error.close_code)))

    def stalled(self, side: Side) -> None:
        """A side does not take what it is sent."""
        self.end(CallEnd(Endings.agent_stalled if side is self.agent else Endings.carrier_stalled))

    def gone(self, side: Side) -> None:
        """A far end's socket is closed."""
        if self.closed.done():
            self._let_go()
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
        if side is self.carrier and self.gives_agent_back(self._end_of(side, LOST)):
            return
        self.end(self._end_of(side, LOST))
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

    def _end_of(self, side: Side, gone: Gone) -> CallEnd:
        if side is self.agent:
            return end_of_agent(gone)
        if self.watch.stop_has_come and gone is LOST:
            return CallEnd(Endings.caller_hangup, "the stream was stopped")
        return end_of_carrier(gone)

    def _decide(self, end: CallEnd) -> bool:
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

    def part(self, end: CallEnd) -> None:
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
            self.agent.transport.set_protocol(Alone(self, self.agent))
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
        self.end(end_of_agent(Gone(code, reason)))

    def stopped(self) -> None:
        """The carrier has said `stop`, and did not close in time."""
        end = self._end_of(self.carrier, LOST)
        (self.part if self._transfers else self.end)(end)

    def _hang_up_carrier(self) -> None:
        if not self.carrier.lost:
            self.carrier.close_transport()

    # One side is given back

    def agent_lost(self, end: CallEnd) -> None:
        """The agent answers no more, though its socket is there."""
        if not self._gives_back(end):
            self.end(end)

    def _gives_back(self, end: CallEnd) -> bool:
        """Whether the carrier's side is given back for the sake of another agent, as this one is lost."""
        if self._on_agent_lost is None or self._is_leaving(self.carrier):
            return False
        if not self.agent.mend():
            return False
        self._be_over(end, self.agent, frames.INTERNAL_ERROR)  # which may be there, and silent
        self._on_agent_lost(self.carrier)
        self.carrier.resume_reading()  # which may have waited for the agent
        return True

    def gives_agent_back(self, end: CallEnd) -> bool:
        """Whether the agent's side is given back for the sake of another socket of the carrier's.

        Not where the agent has had half a message: bots on Pipecat end a call over one (carriers.md §8.2).
        """
        if self._on_carrier_lost is None or self._is_leaving(self.agent):
            return False
        if not self.carrier.finish() or not self._on_carrier_lost(self.agent):
            return False
        self._be_over(end, self.carrier, frames.NORMAL_CLOSURE)
        self.agent.resume_reading()  # which may have waited for the carrier
        return True

    def _is_leaving(self, side: Side) -> bool:
        """Whether the call is ending in another way, or this side of it is not fit to go on."""
        unfit = side.stall is not None or side.transport.is_closing()
        ending = self.watch.stop_has_come or self._transfers or self.has_parted or self.ended.done()
        return unfit or ending

    def _be_over(self, end: CallEnd, left: Side, close_code: int) -> None:
        """The relay is over and the call is not: one side is given back, and the one that is `left` goes."""
        self.ended.set_result(end)
        self.closed.set_result(None)
        self.watch.stop()
        if left.stall is not None:
            left.stall.cancel()
        if not left.lost:
            left.send_close(close_code, end.words)
            left.transport.close()
            self._loop.call_later(self.watch.limits.close_s, left.transport.abort)
