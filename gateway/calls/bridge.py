# SPDX-License-Identifier: BSD-2-Clause
"""The bridge: both legs of a call, from the first relay to the end, including fail-over and reconnect.

A relay joins two legs. If the agent is lost, the carrier's leg waits until another agent is connected
(agent_failover.py). If the carrier is lost, the agent's leg waits until the carrier opens another stream
(carrier_reconnect.py). Either way another relay then joins the two legs. How a call gets its bridge is told
in inbound.py; the states are those of state.py.
"""

from __future__ import annotations

from typing import Final

from gateway.calls.agent_failover import AgentFailover, end_of_agent, fall_back, may_fail_over
from gateway.calls.call_setup import BridgeSettings, CallSetup, agent_close_code
from gateway.calls.carrier_reconnect import CarrierReconnect, wait_message_end
from gateway.calls.command_bus import QUESTIONS, CallCommand
from gateway.calls.consultation_hold import ConsultationHold
from gateway.calls.control import hangup_after_playback
from gateway.calls.deferred_command import DeferredCommand, answer_question
from gateway.calls.hidden_call_id import hide_call_id
from gateway.calls.hold_audio import HeldStream, HoldAudio
from gateway.calls.services import CallServices
from gateway.calls.state import CallProgress, CallState
from gateway.calls.stream_ownership import StreamOwnership, may_reconnect
from gateway.carriers.registry import CARRIERS
from gateway.media.hangup_after_playback import HangupAfterPlayback
from gateway.media.leg import Leg
from gateway.media.playback_clock import sound_bytes_per_s
from gateway.media.playback_wait import PlaybackMarks
from gateway.media.relay import Relay
from gateway.media.relay_options import RelayOptions
from gateway.media.relay_side import RelaySide
from gateway.media.translated_transport import TranslatedTransport
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import Traffic
from gateway.websocket import frames
from serializers.events import Start
from serializers.transforms import Transform


class Bridge:
    """One call's legs and the relay between them. It belongs to one event loop.

    `command`: what is about to be done with the carrier's call, None for nothing. `deferred`: what waits for
    the agent's last sound, None for nothing.
    `first_sound_at`: when the agent's first audio passed, in Unix seconds; None if none has.
    `agent_lost_at`: when the agent was lost, in Unix seconds; None while the call has one.
    """

    __slots__ = (
        "_agent",
        "_consultation_hold",
        "_failover",
        "_hold_audio",
        "_progress",
        "_reconnect",
        "_relay",
        "_services",
        "_settings",
        "_start",
        "_waiting_leg",
        "agent_lost_at",
        "command",
        "deferred",
        "first_sound_at",
    )

    was_bridged: Final = True

    def __init__(
        self,
        services: CallServices,
        progress: CallProgress,
        settings: BridgeSettings,
        setup: CallSetup,
    ) -> None:
        """Join the legs of `setup`, which gives up its legs and its hold audio. The call is bridged then."""
        assert setup.carrier_leg is not None
        assert setup.agent_leg is not None
        self._services = services
        self._progress = progress
        self._settings = settings
        self._agent = settings.agent
        self._start = settings.start
        self._hold_audio = setup.hold_audio
        self._waiting_leg: Leg | None = None  # awaiting_agent: the carrier's; awaiting_carrier: the agent's
        self.command = setup.command
        self.deferred: DeferredCommand | None = None
        self._consultation_hold: ConsultationHold | None = None
        self.first_sound_at: float | None = None
        self.agent_lost_at: float | None = None
        self._failover = self._make_failover()
        self._reconnect = self._make_reconnect()
        if self._reconnect is not None:
            self._reconnect.carrier_has_ended = setup.carrier_has_ended
        dialect, start = settings.dialect, settings.start
        if dialect is not None and start is not None and settings.agent.hide_call_id:
            hide_call_id(setup.carrier_leg, dialect, start.call_id, progress.session_id)
        if self._failover is not None:
            self._failover.opening = setup.carrier_leg.opening_frames()
        self._relay = self._make_relay(setup.carrier_leg, setup.agent_leg, None)
        progress.change(CallState.BRIDGED)
        setup.carrier_leg = setup.agent_leg = setup.hold_audio = None
        services.store.mark_running(progress.session_id, services.now())
        self._start_relay()

    async def run(self) -> CallEnded:
        """Relay until the call ends, and return its end; replace a leg that is lost meanwhile.

        Raises CallEnded if a lost leg was not replaced.
        """
        while True:
            end = await self._relay.ended  # while they talk, this frame is all that the call has on the stack
            match self._progress.state:
                case CallState.AWAITING_AGENT:
                    await self._replace_agent(end)
                case CallState.AWAITING_CARRIER:
                    await self._replace_carrier(end)
                case _:
                    if self.deferred is not None and end.reason is Reasons.agent_ended:
                        self.command = self.command or self.deferred.follows  # what the agent left for
                    return end

    @property
    def ownership(self) -> StreamOwnership | None:
        """The ownership of the carrier's stream, for a call with a call token."""
        return self._settings.ownership

    @property
    def is_telephony(self) -> bool:
        """Whether a carrier has opened the call, with a `start`."""
        return self._start is not None

    @property
    def instance(self) -> str:
        """The URL of the instance that has the call, or had it until it was lost."""
        return self._settings.instance if self._failover is None else self._failover.instance

    @property
    def agent_answered(self) -> bool:
        """Whether the agent has left its socket by itself. To be read after `close`."""
        return self._relay.agent_answered

    @property
    def stop_timeout_s(self) -> float:
        """Seconds from which an agent counts as free that has not answered the end of its socket."""
        return self._agent.stop_timeout

    @property
    def traffic(self) -> Traffic:
        """The traffic of all relays of the call, and what the caller has heard by now."""
        played_s = self._relay.played_s
        return Traffic(*self._relay.traffic, heard_ms=None if played_s is None else round(played_s * 1000))

    def handle(self, command: CallCommand) -> bool:
        """Take note of a command, and change the relay if the command wants it.

        Return False if it cannot be followed: without a carrier's stream there is nothing to transfer.
        """
        state = self._progress.state
        if command is CallCommand.CHECK_CARRIER:
            if state is CallState.BRIDGED and self._reconnect is not None:
                self._relay.check_carrier()
            return True
        if command is CallCommand.CARRIER_ENDED:
            if self._reconnect is not None:
                self._reconnect.carrier_has_ended = True
            if state is CallState.AWAITING_CARRIER:
                end = CallEnded(Reasons.caller_hangup, "the carrier says that the call is over")
                self._progress.termination.set(end)
            return True
        if command in QUESTIONS:
            stream = self._stream
            marks = None if stream is None else PlaybackMarks(stream.dialect, stream.start)
            deferred = answer_question(self._services, self._progress, self._relay, command, marks)
            self.deferred = deferred or self.deferred
            return True
        if command in (CallCommand.HOLD, CallCommand.RESUME):
            return self._hold(command)
        if command is CallCommand.TRANSFER and state is CallState.AWAITING_CARRIER:
            return False
        if self.deferred is not None:
            self.deferred.note(command)
            if command is CallCommand.REVOKED:
                self.deferred = None
        self.command = None if command is CallCommand.REVOKED else command
        if command is CallCommand.TRANSFERRED:
            self._relay.detach_carrier(CallEnded(Reasons.transferred))
        elif command in (CallCommand.TRANSFER, CallCommand.REVOKED):
            self._relay.set_transfer_pending(command is CallCommand.TRANSFER)
        return True

    def _hold(self, command: CallCommand) -> bool:
        """Begin or end the holding sound. Return False for a call that can have none."""
        if self._consultation_hold is not None:
            self._consultation_hold.stop()
            self._consultation_hold = None
        stream = self._stream
        if command is CallCommand.HOLD and stream is not None and self._progress.state is CallState.BRIDGED:
            self._consultation_hold = ConsultationHold(self._services, self._agent, stream, self._relay)
        return command is CallCommand.RESUME or self._consultation_hold is not None

    @property
    def _stream(self) -> HeldStream | None:
        """The carrier's stream; None for a client without a dialect."""
        dialect, start = self._settings.dialect, self._start
        if dialect is None or start is None:
            return None
        return HeldStream(dialect, start, self.ownership is not None)

    def can_attach(self, agent: str, start: Start | None) -> bool:
        """Return True if the call could continue on a stream for `agent` (AGENT.ORG) that `start` opened."""
        state, reconnect = self._progress.state, self._reconnect
        return (
            reconnect is not None
            and (
                state is CallState.AWAITING_CARRIER
                or (state is CallState.BRIDGED and reconnect.replaces_open)
            )
            and self._progress.termination.end is None
            and self.command is None
            and reconnect.accepts(agent, start)
        )

    def attach_stream(self, leg: Leg, start: Start | None) -> bool:
        """Continue on another stream's leg, whose opening was read; the stream that there was is closed.

        Return False, and leave `leg` unchanged, if the call has ended meanwhile or cannot leave its stream
        now.
        """
        reconnect = self._reconnect
        if reconnect is None or reconnect.leg is not None or self._progress.termination.end is not None:
            return False
        if self._progress.state is CallState.BRIDGED:
            is_open = not leg.transport.is_closing() and reconnect.replaces_open
            if not (is_open and self._relay.release_agent(CallEnded(Reasons.taken_over))):
                return False
        if self._progress.state is not CallState.AWAITING_CARRIER or not leg.set_on_disconnect(
            self._progress.carrier_gone
        ):
            return False
        reconnect.attach(leg, start)
        return True

    def stop_hold_audio(self) -> None:
        """Stop what the caller hears."""
        if self._hold_audio is not None:
            self._hold_audio.stop()

    async def close(self, end: CallEnded, received_close: tuple[int, str] | None) -> None:
        """Wait until the relay has closed its sockets, then close the legs that no relay has."""
        await self._relay.closed
        legs = [
            self._waiting_leg,
            self._failover.leg if self._failover is not None else None,
            self._reconnect.leg if self._reconnect is not None else None,
        ]
        for leg in legs:
            if leg is not None:
                code = agent_close_code(end) if leg.client else end.reason.close_code
                leg.close(*received_close or (code, end.public_detail))

    def release(self) -> None:
        """Drop the relay and the legs, which refer back to this. Call it once, when the call has ended."""
        self._hold(CallCommand.RESUME)
        del self._relay
        self._waiting_leg = self._hold_audio = self._failover = self._reconnect = self.deferred = None

    # Join two legs

    def _make_failover(self) -> AgentFailover | None:
        settings = self._settings
        if settings.dialect is None or settings.start is None or not may_fail_over(settings.agent):
            return None
        return AgentFailover(settings)

    def _make_reconnect(self) -> CarrierReconnect | None:
        settings, limits = self._settings, self._services.settings.limits
        dialect = settings.dialect
        if settings.has_media_token:  # a client dials again as the carriers do that reconnect
            if limits.reconnect_timeout <= 0 or (dialect and not CARRIERS[dialect.name].profile.reconnects):
                return None
            return CarrierReconnect(settings.requested_agent, settings.start, replaces_open=False)
        if (
            dialect is None
            or settings.start is None
            or settings.ownership is None
            or not may_reconnect(limits, settings.requested_agent, dialect.name)
        ):
            return None
        return CarrierReconnect(settings.requested_agent, settings.start, replaces_open=True)

    def _make_relay(self, carrier: Leg, agent: Leg, previous: Relay | None) -> Relay:
        options = RelayOptions(
            dialect=self._settings.dialect,
            limits=self._settings.relay_limits(self._agent, self._services.settings.limits),
            on_first_sound=self._on_first_sound,
            transforms=self._transforms(),
            sound_bytes_per_s=self._sound_bytes_per_s(),
            ending=self,
            keeps_agent=not self._agent.hide_call_id,
            agent_answers=self._agent_answers,
            asks_after_reset=not self._agent.resume_after_reset,
            on_agent_lost=self._on_agent_lost if self._failover is not None else None,
            on_carrier_lost=self._on_carrier_lost if self._reconnect is not None else None,
        )
        return Relay(carrier, agent, options, previous=previous)

    def _start_relay(self) -> None:
        if self.command is CallCommand.TRANSFER:
            self._relay.set_transfer_pending(True)
        if self._hold_audio is not None:
            self._hold_audio.move_to(self._relay)
        self._relay.start()
        self._progress.termination.hand_over(self._relay.end)

    def _transforms(self) -> tuple[Transform, Transform] | None:
        """Return the transforms of messages, carrier to agent and back; None if bytes pass unchanged."""
        dialect, start = self._settings.dialect, self._start
        if dialect is None or start is None:
            return None
        known_id = start.stream_id if self._reconnect is None else self._reconnect.agent_stream_id
        if known_id is not None and known_id != start.stream_id:
            return dialect.renaming_transforms(known_id, start.stream_id)
        return dialect.transforms() if self._agent.media == "messages" else None

    def hangup_after_playback(self) -> HangupAfterPlayback | None:
        """Return how the call ends when its agent has ended it."""
        stream = self._stream
        if stream is None:
            return None
        return hangup_after_playback(self._services, self._agent, stream.dialect, stream.start, self)

    def _sound_bytes_per_s(self) -> int | None:
        stream = self._stream
        return None if stream is None else sound_bytes_per_s(stream.agent_audio)

    async def _agent_answers(self) -> bool:
        """Return True if the agent's instance answers."""
        return await self._services.health.answers(self.instance)

    # Replace a lost agent

    def _on_agent_lost(self, carrier: RelaySide) -> None:
        """Buffer what the caller says, behind the opening, for the next agent."""
        assert self._failover is not None
        self._progress.change(CallState.AWAITING_AGENT)
        self.agent_lost_at = self._services.now()
        limits = self._services.settings.limits
        self._waiting_leg = Leg(
            carrier.transport,
            client=False,
            max_opening_bytes=limits.max_opening_bytes,
            max_buffered_bytes=limits.max_early_bytes,
            on_disconnect=self._progress.carrier_gone,
            resumed_from=(carrier.scanner, self._failover.opening),
        )

    async def _replace_agent(self, lost: CallEnded) -> None:
        """Connect another agent (docs/resume.md). If there is none, do what the agent's `fallback` says.

        Raises CallEnded if no agent was connected.
        """
        assert self._failover is not None
        try:
            await self._connect_next_agent(self._failover, lost)
        except CallEnded as failure:
            if failure is self._progress.termination.end or self._hold_audio is None:
                raise
            if failure.reason is Reasons.agent_ended:
                self.stop_hold_audio()
                await self._hang_up()
                raise
            end = await fall_back(self._services, self._progress, self._agent, failure, self._hold_audio)
            self.command = None  # the fallback's own transfer, which must not replace the reason
            raise end from None

    async def _connect_next_agent(self, failover: AgentFailover, lost: CallEnded) -> None:
        leg, dialect, start = self._waiting_leg, self._settings.dialect, self._start
        assert leg is not None
        assert dialect is not None
        assert start is not None
        services, progress = self._services, self._progress
        began_at = services.now()
        self._agent = failover.current_agent(services)
        self.stop_hold_audio()
        self._hold_audio = HoldAudio(
            services.hold_audio, leg, HeldStream(dialect, start, self.ownership is not None)
        )
        self._hold_audio.start(self._agent, answered=self._is_outbound)
        async with progress.termination.cancel_scope():
            await failover.connect_next(services, progress.session_id, leg, self._progress.agent_gone)
        # Nothing is awaited from here to the start of the relay: a close that comes meanwhile would be
        # missed.
        progress.change(CallState.BRIDGED)
        progress.log = progress.log.bind(instance=failover.instance)
        self.agent_lost_at = None
        if self._reconnect is not None:
            self._reconnect.agent_stream_id = start.stream_id
        self._waiting_leg = None
        self._relay = self._make_relay(leg, failover.take_leg(), self._relay)
        self._start_relay()
        services.store.mark_resumed(progress.session_id, failover.times)
        seconds = round(services.now() - began_at, 3)
        words = f"{lost.detail}; resumed {failover.times} of {self._agent.max_resumes} times"
        progress.log.warning(
            "call resumed", times=failover.times, words=words, seconds=seconds, **failover.loss
        )

    # Replace a lost carrier

    def _on_carrier_lost(self, agent: RelaySide) -> bool:
        """Buffer what the agent says for the carrier's next stream. Return False if none can come."""
        assert self._reconnect is not None
        if self._reconnect.carrier_has_ended or self.command is not None:
            return False
        self._progress.change(CallState.AWAITING_CARRIER)
        limits = self._services.settings.limits
        self._waiting_leg = Leg(
            agent.transport,
            client=True,
            max_opening_bytes=limits.max_opening_bytes,
            max_buffered_bytes=limits.max_early_bytes,
            on_disconnect=self._progress.agent_gone,
            resumed_from=(agent.scanner, b""),
        )
        return True

    async def _replace_carrier(self, lost: CallEnded) -> None:
        """Wait for another stream of the carrier (docs/sockets.md) and bridge it.

        Raises CallEnded if none comes, or the agent ends the call meanwhile.
        """
        reconnect, agent_leg = self._reconnect, self._waiting_leg
        assert reconnect is not None
        assert agent_leg is not None
        services, progress = self._services, self._progress
        began_at, was_audible = services.now(), self._hold_audio is not None and self._hold_audio.is_audible
        self.stop_hold_audio()
        try:
            async with progress.termination.cancel_scope():
                await reconnect.wait_for_stream(services, progress.session_id, self._relay, lost)
                await wait_message_end(agent_leg, services.settings.limits.stall_timeout)
        except CallEnded as ended:
            end = await end_of_agent(services, self.instance, ended)
            if end.reason is Reasons.agent_ended:
                agent_leg.close(frames.NORMAL_CLOSURE, "")
                await self._hang_up()
            raise end from None
        progress.change(CallState.BRIDGED)
        carrier_leg, self._waiting_leg = reconnect.take_leg(), None
        self._start = start = reconnect.start
        if start is not None:
            self._prepare_stream(carrier_leg, start, was_audible=was_audible)
        if isinstance(agent_leg.transport, TranslatedTransport):
            agent_leg.transport.begin_stream()
        self._relay = self._make_relay(carrier_leg, agent_leg, self._relay)
        self._start_relay()
        seconds = round(services.now() - began_at, 3)
        progress.log.warning("call continued", times=reconnect.times, words=lost.detail, seconds=seconds)

    def _prepare_stream(self, leg: Leg, start: Start, *, was_audible: bool) -> None:
        """Take the opening of the carrier's next stream from its leg, and let the hold audio go on."""
        dialect, progress = self._settings.dialect, self._progress
        assert dialect is not None
        if self._agent.hide_call_id:
            hide_call_id(leg, dialect, start.call_id, progress.session_id)
        opening = leg.take_opening()  # the agent has read one already; another agent would need it
        if self._failover is not None:
            self._failover.begin_stream(opening, start)
        stream = HeldStream(dialect, start, self.ownership is not None)
        self._hold_audio = HoldAudio(self._services.hold_audio, leg, stream)
        self._hold_audio.resume(self._agent, audible=was_audible, answered=self._is_outbound)
        progress.log = progress.log.bind(stream_id=start.stream_id)

    async def _hang_up(self) -> None:
        """Hang the caller up after the agent has ended a call whose carrier has no stream just now."""
        if (hangup := self.hangup_after_playback()) is not None:
            await hangup.hang_up()

    @property
    def _is_outbound(self) -> bool:
        return self._settings.ownership is not None and self._settings.ownership.is_admitted

    def _on_first_sound(self) -> None:
        if self._hold_audio is not None:
            self._hold_audio.stop(before_message=True)
            self._hold_audio = None
        if self.first_sound_at is None:
            self.first_sound_at = self._services.now()
