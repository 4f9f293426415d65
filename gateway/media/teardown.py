# SPDX-License-Identifier: BSD-2-Clause
"""The end of a relay: carries out the table of gateway/media/relay_states.py, once per call.

Each method that reports an occurrence names its event, and `_apply` enters the next state. What a state means
for the two sockets is done where it is entered, by the methods `_start_…` and `_release`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.media.disconnect import (
    CONNECTION_ENDED,
    CONNECTION_LOST,
    AgentDisconnected,
    Disconnect,
    agent_died,
    agent_left,
    disconnect_of,
    reason_for_agent,
    reason_for_carrier,
)
from gateway.media.hangup_after_playback import HANGUP_TIMEOUT_S
from gateway.media.playback_clock import PlaybackClock
from gateway.media.relay_options import NEVER, RelayOptions
from gateway.media.relay_side import RelaySide, feed_scanner
from gateway.media.relay_states import OPEN, TRANSITIONS, RelayEvent, RelayState
from gateway.media.relay_timers import RelayTimers
from gateway.media.translated_transport import TranslatedTransport
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from gateway.websocket.frames import FrameError

_NORMAL_CLOSE = frames.NORMAL_CLOSURE, ""


class AgentHold(asyncio.Protocol):
    """The agent's side in AGENT_HELD: answers pings, notices a close, and discards everything else."""

    def __init__(self, teardown: Teardown, side: RelaySide) -> None:
        self._teardown = teardown
        self._side = side
        side.scanner.inspect_below = 0

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        for opcode, payload in feed_scanner(side, data):
            if opcode == frames.CLOSE:
                self._teardown.held_agent_closed(payload)
                return
            if opcode == frames.PING and side.other.scanner.at_boundary:
                side.transport.write(frames.build(frames.PONG, payload, masked=side.client))

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._teardown.connection_lost(self._side, disconnect_of(exc))

    def pause_writing(self) -> None:
        """Do nothing: only pongs are written, and an agent that reads none is not waited for."""


class Closing(asyncio.Protocol):
    """A side that passes nothing on any more: it is read for the far end's close frame only."""

    def __init__(self, teardown: Teardown, side: RelaySide) -> None:
        self._teardown = teardown
        self._side = side
        side.scanner.inspect_below = 0

    def data_received(self, data: bytes) -> None:
        side = self._side
        if side.close_seen:
            return
        try:
            side.scanner.feed(data)
        except FrameError:
            side.close_seen = True  # no close frame can follow a broken frame
        for span in side.scanner.spans:
            side.close_seen |= span.opcode == frames.CLOSE
        side.scanner.spans.clear()
        self._teardown.check_answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self._side.lost = True
        self._teardown.connection_lost(self._side, disconnect_of(exc))

    def pause_writing(self) -> None:
        """Do nothing: nothing is written any more."""


class Teardown:
    """The state of one relay, from RELAYING to two closed sockets. Used in the event loop's thread only.

    `ended` is done with the call's end as soon as one is fixed, `closed` when nothing is waited for any more;
    in RELEASED both are done, and the end is that of this relay alone.
    """

    __slots__ = (
        "__weakref__",
        "_carrier_end",
        "_last_close",
        "_loop",
        "_options",
        "_task",
        "agent",
        "agent_answered",
        "agent_has_spoken",
        "carrier",
        "clock",
        "closed",
        "ended",
        "state",
        "timers",
    )

    def __init__(
        self, carrier: RelaySide, agent: RelaySide, options: RelayOptions, *, end_by: float = NEVER
    ) -> None:
        """`end_by`: see RelayTimers."""
        self._loop = asyncio.get_running_loop()
        self._options = options
        self.state = RelayState.RELAYING
        self.carrier = carrier
        self.agent = agent
        self.timers = RelayTimers(self, options.limits, end_by=end_by)
        self.ended: asyncio.Future[CallEnded] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.agent_has_spoken = False
        self.clock: PlaybackClock | None = None  # of the agent's sound, if it can be counted
        self.agent_answered = True  # False if it neither closed nor ended its socket, though it was told to
        # In CHECKING_AGENT and DRAINING_PLAYBACK; a task needs a reference.
        self._task: asyncio.Task[None] | None = None
        self._last_close = _NORMAL_CLOSE  # what the carrier gets after its last playback
        self._carrier_end: CallEnded | None = None  # why the carrier's side went before the agent's

    # Occurrences

    def end(self, end: CallEnded) -> None:
        """End the call from here: send a close frame to both far ends, which have `close_s` to answer.

        No effect if an end is fixed already.
        """
        self._report(RelayEvent.END, end)

    def close_received(self, side: RelaySide, disconnect: Disconnect) -> bool:
        """Note that the far end of `side` has sent a close frame, while the side is still relayed.

        Return True if the frame is to be passed on: the other far end has not been sent one.
        """
        side.close_seen = True
        event = RelayEvent.AGENT_CLOSED if side is self.agent else RelayEvent.CARRIER_CLOSED
        if side is self.agent and disconnect.has_code:
            self._last_close = disconnect.code, disconnect.reason
        if self._apply(event, self._end_for(side, disconnect)) is not RelayState.CLOSING:
            return False
        passes = not side.other.close_sent
        side.other.close_sent = True
        side.transport.set_protocol(Closing(self, side))
        self.check_answered()
        return passes

    def held_agent_closed(self, payload: bytes) -> None:
        """Note that the agent has sent a close frame with this `payload` in AGENT_HELD."""
        try:
            code, reason = frames.read_close(payload)
        except FrameError as error:
            code, reason = frames.ABNORMAL, error.reason
        self.agent.close_seen = True
        self._report(RelayEvent.AGENT_CLOSED, reason_for_agent(Disconnect(code, reason)))

    def protocol_error(self, side: RelaySide, error: FrameError) -> None:
        """End the call because of a frame that breaks the protocol, and send its close code to its sender."""
        side.send_close(error.close_code, error.reason)
        broken = Disconnect(frames.ABNORMAL, error.reason, violation_code=error.close_code)
        self._report(RelayEvent.END, self._end_for(side, broken))

    def stalled(self, side: RelaySide) -> None:
        """End the call because the far end of `side` does not read what it is sent."""
        reason = Reasons.agent_stalled if side is self.agent else Reasons.carrier_stalled
        self._report(RelayEvent.END, CallEnded(reason))

    def connection_lost(self, side: RelaySide, disconnect: Disconnect) -> None:
        """Note that the socket of `side` is closed; `side.lost` is already set."""
        if self.state is RelayState.CLOSED or self.state is RelayState.RELEASED:
            self._break_cycles()
            return
        if side is self.agent and self._options.asks_after_reset:
            disconnect = CONNECTION_ENDED
        # No handler leaves in the middle of a message: what ends there is broken off, whoever ended it.
        if disconnect.has_ended and (side.scanner.pending_bytes or not side.scanner.between_messages):
            disconnect = CONNECTION_LOST
        end = self._end_for(side, disconnect)
        if side is self.carrier:
            self._report(RelayEvent.CARRIER_LOST, end)
        elif isinstance(end, AgentDisconnected):
            self._report(RelayEvent.AGENT_DISCONNECTED, end)
        else:
            self._report(RelayEvent.AGENT_LOST, end)

    def agent_checked(self, answers: bool) -> None:
        """Note whether the instance answers whose agent had ended its connection; for CHECKING_AGENT."""
        if answers:
            if isinstance(self.agent.transport, TranslatedTransport):
                self.agent.data_received(self.agent.transport.take_rest())
            self._report(RelayEvent.AGENT_ENDED, agent_left())
        else:
            self._report(RelayEvent.AGENT_LOST, agent_died())

    def agent_silent(self, end: CallEnded) -> None:
        """Treat the agent as lost, although its socket is open: it answers no pings."""
        self._report(RelayEvent.AGENT_LOST, end)

    def carrier_silent(self, end: CallEnded) -> None:
        """Treat the carrier as lost, although its socket is open: it answers no ping."""
        self._report(RelayEvent.CARRIER_LOST, end)

    def stop_expired(self) -> None:
        """Treat the carrier as gone: it announced `stop` and did not close its socket in time."""
        self._report(RelayEvent.STOP_EXPIRED, self._end_for(self.carrier, CONNECTION_LOST))

    def set_transfer_pending(self, pending: bool) -> None:
        """Note that a transfer of the call has begun, or that it has failed; see Relay."""
        self._report(
            RelayEvent.TRANSFER_STARTED if pending else RelayEvent.TRANSFER_FAILED, self._carrier_end
        )

    def detach_carrier(self, end: CallEnded) -> None:
        """Close the carrier's side because the call was transferred; see Relay."""
        self._report(RelayEvent.TRANSFERRED, end)

    def release_agent(self, end: CallEnded) -> bool:
        """Give the agent's side to the carrier's next stream. Return False, with no effect, if it cannot."""
        return self._apply(RelayEvent.CARRIER_REPLACED, end) is RelayState.RELEASED

    def playback_ended(self) -> None:
        """Close the carrier's side: it has played all audio, and the call was hung up."""
        self._task = None
        if self._apply(RelayEvent.PLAYBACK_ENDED) is RelayState.CLOSING:
            self._close_carrier()

    def check_answered(self) -> None:
        """Finish if each far end has sent and been sent a close frame, or is lost."""
        if self._carrier_end is not None and self.carrier.close_seen and self.carrier.close_sent:
            self._hang_up_carrier()
        if all(side.lost or (side.close_seen and side.close_sent) for side in (self.carrier, self.agent)):
            self._loop.call_soon(self.finish)  # later: the close that is being passed on is written first

    def finish(self) -> None:
        """Close both sockets without waiting any longer. No effect if no end is fixed, or all is closed."""
        self._apply(RelayEvent.FINISHED)

    # The table

    def _report(self, event: RelayEvent, end: CallEnded | None) -> None:
        """Apply `event`; where it leads to CLOSING, nothing is passed on any more from either side."""
        if self._apply(event, end) is RelayState.CLOSING:
            self._discard_input()
            self.check_answered()

    def _apply(self, event: RelayEvent, end: CallEnded | None = None) -> RelayState | None:
        """Enter the first state that the table allows after `event` and whose condition holds.

        `end`: the end of the call or the relay, if this event fixes it. Return the state that was entered;
        None if the table has no row for the event, or no condition holds.
        """
        for state in TRANSITIONS[self.state].get(event, ()):
            if self._enter(state, event, end):
                return state
        return None

    def _enter(self, state: RelayState, event: RelayEvent, end: CallEnded | None) -> bool:
        """Enter `state`. Return False, with no effect, if its condition does not hold."""
        match state:
            case RelayState.CHECKING_AGENT:
                return self._start_check()
            case RelayState.DRAINING_PLAYBACK:
                return self._start_draining(end)
            case RelayState.AGENT_HELD:
                return self._start_agent_hold(end)
            case RelayState.RELEASED:
                return self._release(event, end)
            case RelayState.CLOSING:
                self._start_closing(event, end)
            case RelayState.CLOSED:
                self._close_sockets()
            case _:  # RELAYING and TRANSFER_PENDING differ in what may follow them only
                self.state = state
        return True

    def _start_closing(self, event: RelayEvent, end: CallEnded | None) -> None:
        state, self.state = self.state, RelayState.CLOSING
        if state not in OPEN:
            return  # the end is fixed, and the close frames are on their way
        assert end is not None
        self._set_end(end)
        closes = event is RelayEvent.AGENT_CLOSED or event is RelayEvent.CARRIER_CLOSED
        if closes and state is not RelayState.AGENT_HELD:
            return  # the relay passes the far end's own close frame on
        self.carrier.send_close(end.reason.close_code, end.public_detail)
        self.agent.send_close(
            frames.INTERNAL_ERROR if end.reason.failed else frames.NORMAL_CLOSURE, end.public_detail
        )

    def _start_check(self) -> bool:
        """Ask whether the agent's instance answers; the carrier is not read meanwhile."""
        agent_answers = self._options.agent_answers
        if agent_answers is None:
            return False
        self.state = RelayState.CHECKING_AGENT
        self.carrier.transport.pause_reading()
        self._task = self._loop.create_task(self._check_agent(agent_answers))
        return True

    async def _check_agent(self, agent_answers: Callable[[], Awaitable[bool]]) -> None:
        answers = await agent_answers()
        if self.state is RelayState.CHECKING_AGENT:  # nothing else has ended the relay meanwhile
            self._task = None
            self.agent_checked(answers)

    def _start_draining(self, end: CallEnded | None) -> bool:
        """Answer the agent's close at once; let the carrier play what it has, then hang the call up."""
        ending = self._options.ending
        if ending is None or end is None or end.reason is not Reasons.agent_ended:
            return False
        queued_s = self.queued_s()
        hangup = ending.hangup_after_playback()
        if hangup is None or not hangup.is_needed(queued_s):
            return False
        wait_s = hangup.wait_s(queued_s) if self.agent_has_spoken else 0.0
        if not self.agent.close_seen:
            self._last_close = end.reason.close_code, end.public_detail
        self.state = RelayState.DRAINING_PLAYBACK
        self._set_end(end)
        self.agent.transport.set_protocol(Closing(self, self.agent))
        self.agent.send_close(frames.NORMAL_CLOSURE, "")
        self.agent.close_transport()
        self.timers.close_by = self._loop.time() + wait_s + HANGUP_TIMEOUT_S + self.timers.limits.close_s
        self._task = self._loop.create_task(
            hangup.run(self.carrier, wait_s, self._played, self.playback_ended)
        )
        return True

    def _played(self, everything: bool) -> None:
        """Note that the carrier's last playback is over. `everything`: whether the caller heard it all."""
        if self.clock is not None:
            if everything:
                self.clock.play_all(self.agent.scanner)
            self.clock.stop(self.agent.scanner, self._loop.time())

    def queued_s(self) -> float | None:
        """Return the seconds of the agent's sound that the caller has yet to hear, None if not known."""
        if not self.agent_has_spoken:
            return 0.0
        if self.clock is None or not self.clock.is_known:
            return None
        return self.clock.queued_s(self.agent.scanner, self._loop.time())

    def _start_agent_hold(self, end: CallEnded | None) -> bool:
        """Close the carrier's side, and leave the agent on its socket until it closes by itself."""
        if not self._options.keeps_agent:
            return False
        self.state = RelayState.AGENT_HELD
        self._carrier_end = end
        self._played(False)
        self.timers.tick_often()
        self.carrier.cancel_stall()
        if not self.agent.transport.is_closing():
            self.agent.transport.set_protocol(AgentHold(self, self.agent))
            self.agent.transport.resume_reading()
        self._close_carrier()
        self._loop.call_later(self.timers.limits.close_s, self._hang_up_carrier)
        return True

    def _release(self, event: RelayEvent, end: CallEnded | None) -> bool:
        """Give the side that was not lost to the next relay of the call, unclosed."""
        assert end is not None
        if event is RelayEvent.AGENT_LOST or event is RelayEvent.AGENT_DISCONNECTED:
            on_agent_lost = self._options.on_agent_lost
            if (
                on_agent_lost is None
                or not self._can_go_on(self.carrier)
                or not self.agent.complete_message()
            ):
                return False
            self._leave(end, self.agent, frames.INTERNAL_ERROR)
            on_agent_lost(self.carrier)
            self.carrier.resume_reading()  # reading may have been paused for the agent's sake
            return True
        on_carrier_lost = self._options.on_carrier_lost
        if on_carrier_lost is None or not self._can_go_on(self.agent):
            return False
        # An agent that has had half a message is not released: bots on Pipecat end a call over one
        # (docs/reference/carriers.md §8.2).
        if not self.carrier.flush() or not on_carrier_lost(self.agent):
            return False
        if self.clock is not None:
            self.clock.stop(self.agent.scanner, self._loop.time())
        self._leave(end, self.carrier, frames.NORMAL_CLOSURE)
        self.agent.resume_reading()  # reading may have been paused for the carrier's sake
        return True

    def _can_go_on(self, side: RelaySide) -> bool:
        """Return True if `side` can be released: it reads, is open, and the carrier has not said `stop`."""
        return side.stall is None and not side.transport.is_closing() and not self.timers.stop_was_received

    def _leave(self, end: CallEnded, lost: RelaySide, close_code: int) -> None:
        """Enter RELEASED, and close the side that was `lost`, whose socket may still be open."""
        self.state = RelayState.RELEASED
        self.agent_answered = lost is not self.agent or lost.lost
        self.ended.set_result(end)
        self.closed.set_result(None)
        self.timers.stop()
        if lost.stall is not None:
            lost.stall.cancel()
        if not lost.lost:
            lost.send_close(close_code, end.public_detail)
            lost.transport.close()
            self._loop.call_later(self.timers.limits.close_s, lost.transport.abort)

    def _close_sockets(self) -> None:
        self.state = RelayState.CLOSED
        self.agent_answered = self.agent.close_seen or self.agent.lost
        self.closed.set_result(None)
        self.timers.stop()
        for side in (self.carrier, self.agent):
            if not side.lost:
                side.send_close(frames.NORMAL_CLOSURE, "")
                side.close_transport()
                # A far end that does not read its last bytes would keep the socket open for ever.
                self._loop.call_later(self.timers.limits.close_s, side.transport.abort)
        self._break_cycles()

    # Parts of several states

    def _set_end(self, end: CallEnded) -> None:
        self.ended.set_result(end)
        if self.state is not RelayState.DRAINING_PLAYBACK:
            self._played(False)
        self.timers.close_by = self._loop.time() + self.timers.limits.close_s
        self.timers.tick_often()

    def _end_for(self, side: RelaySide, disconnect: Disconnect) -> CallEnded:
        """Return the call's end if the far end of `side` goes first, in this way."""
        if side is self.agent:
            return reason_for_agent(disconnect)
        if self.timers.stop_was_received and disconnect in (CONNECTION_LOST, CONNECTION_ENDED):
            return CallEnded(Reasons.caller_hangup, "the stream was stopped")
        return reason_for_carrier(disconnect)

    def _discard_input(self) -> None:
        """Read both sides for their close frames only."""
        for side in (self.carrier, self.agent):
            if not side.transport.is_closing():
                side.transport.set_protocol(Closing(self, side))
                side.transport.resume_reading()

    def _close_carrier(self) -> None:
        """Send the carrier a close frame; it has `close_s` to answer."""
        if not self.carrier.transport.is_closing():
            self.carrier.transport.set_protocol(Closing(self, self.carrier))
            self.carrier.transport.resume_reading()
            self.carrier.send_close(*self._last_close)
        self.timers.close_by = min(self.timers.close_by, self._loop.time() + self.timers.limits.close_s)
        self.check_answered()

    def _hang_up_carrier(self) -> None:
        """Close the carrier's socket, which does not wait for the agent's in AGENT_HELD."""
        if not self.carrier.lost:
            self.carrier.close_transport()

    def _break_cycles(self) -> None:
        """Break the reference cycles of a relay whose sockets are both closed.

        The garbage collector runs rarely (gateway/app.py raises its threshold).
        """
        if self.carrier.lost and self.agent.lost:
            self.carrier.break_cycles()
            self.agent.break_cycles()
