# SPDX-License-Identifier: BSD-2-Clause
"""The sides of a call while they talk: coupled, and coupled again where one of them was lost.

A lost agent is replaced (resume.py); a lost carrier may open another socket (reconnect.py). Meanwhile the
other side waits on a leg of its own. How the sides came to be there is the story of the call (call.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.calls.active import ActiveCalls
from gateway.calls.agent_failover import AgentFailover
from gateway.calls.carrier_reconnect import CarrierReconnect
from gateway.calls.command_bus import CallCommand
from gateway.calls.control import hangup_after_playback
from gateway.calls.hidden_call_id import hide_call_id
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.stream_ownership import StreamOwnership
from gateway.calls.termination import Termination
from gateway.config import AgentSettings
from gateway.media.disconnect import Disconnect, reason_for_agent, reason_for_carrier
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.media.relay_side import RelaySide
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from serializers.dialect import Dialect
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

log = structlog.get_logger(__name__)


class Bridge:
    """Both sides of one call, and what is known of it."""

    __slots__ = (
        "_active",
        "_agent_leg",
        "_claim",
        "_first_sound_at",
        "_goodbye",
        "_hold",
        "_leg",
        "_limits",
        "_log",
        "_reconnection",
        "_relay",
        "_resumption",
        "_services",
        "_wanted_limits",
        "_wish",
        "session_id",
        "termination",
    )

    def __init__(self, services: CallServices, active: ActiveCalls) -> None:
        self._services = services
        self._active = active
        self._limits = services.settings.limits
        self.termination = Termination()
        self.session_id = services.new_id()
        self._log = log.bind(session=self.session_id)
        self._leg: Leg | None = None
        self._agent_leg: Leg | None = None
        self._hold: HoldAudio | None = None
        self._relay: Relay | None = None
        self._resumption: AgentFailover | None = None
        self._reconnection: CarrierReconnect | None = None
        self._claim: StreamOwnership | None = None
        self._wanted_limits: tuple[float | None, float | None] = (None, None)
        """Longest duration and silence, in seconds, that whoever promised the session asked for."""
        self._wish: CallCommand | None = None  # what is about to be done with the carrier's call
        self._goodbye: tuple[int, str] | None = None  # what who left first said; the other is told the same
        self._first_sound_at: float | None = None

    def _play(self, agent: AgentSettings, dialect: Dialect | None, start: Start | None) -> None:
        """Has the caller hear something until its agent does."""
        if self._leg is not None and dialect is not None and start is not None:
            self._hold = HoldAudio(self._services.hold_audio, self._leg, dialect, start)
            self._hold.start(agent, answered=self._claim is not None and self._claim.held)

    def _couple(self, agent: AgentSettings, dialect: Dialect | None, start: Start | None) -> None:
        """Lets the two legs talk."""
        assert self._leg is not None
        assert self._agent_leg is not None
        first = self._relay is None
        farewell = None
        filters = dialect.transforms() if dialect and agent.media == "messages" else None
        if self._reconnection is not None:
            filters = self._reconnection.filters()
        if dialect is not None and start is not None:
            farewell = hangup_after_playback(self._services, agent, dialect, start)
            if agent.hide_call_id and first:
                hide_call_id(self._leg, dialect, start.call_id, self.session_id)
        max_duration_s, idle_s = self._wanted_limits
        options = RelayOptions(
            dialect=dialect,
            limits=RelayLimits(
                max_duration_s=min(max_duration_s or agent.max_session_duration, agent.max_session_duration),
                idle_s=idle_s or agent.idle_timeout,
                stall_s=self._limits.stall_timeout,
                close_s=self._limits.close_timeout,
                max_message_bytes=self._limits.max_message_bytes,
                ping_s=self._limits.ping_interval,
                agent_silence_s=self._limits.agent_silence,
            ),
            on_first_sound=self._note_first_sound,
            transforms=filters,
            hangup=farewell,
            keeps_agent=not agent.hide_call_id,
            on_agent_lost=self._take_back if self._resumption is not None else None,
            on_carrier_lost=self._keep_agent if self._reconnection is not None else None,
        )
        self._relay = Relay(self._leg, self._agent_leg, options, previous=self._relay)
        if first:
            if self._resumption is not None:
                self._resumption.opening = self._leg.opening_frames()
            self._services.store.started(self.session_id, self._services.now())
        if self._wish is CallCommand.TRANSFER:
            self._relay.set_transfer_pending(True)
        self._leg = self._agent_leg = None  # their sockets are the relay's now
        if self._hold is not None:
            self._hold.move_to(self._relay)
        self._relay.start()
        self.termination.hand_over(self._relay.end)

    async def talk(self) -> CallEnded:
        """Waits until they have talked. Where one side was lost, the other was given back: it waits here."""
        while True:
            assert self._relay is not None
            end = await self._relay.ended  # nothing is left to do while they talk, and little is kept
            if self._agent_leg is not None:
                await self._reconnect(end)
            elif self._leg is not None:
                await self._resume_or_fall_back(end)
            else:
                return end

    def handle(self, wish: CallCommand) -> bool:
        """What is about to be done with the carrier's call, or after all is not (wishes.py).

        False where it cannot be done now: while the carrier has no socket there is nothing to transfer.
        """
        if wish is CallCommand.OVER:
            if self._reconnection is not None:
                self._reconnection.over = True
            if self._relay is not None and self._agent_leg is not None:
                self.termination.set(
                    CallEnded(Reasons.caller_hangup, "the carrier says that the call is over")
                )
            return True
        if wish is CallCommand.TRANSFER and self._relay is not None and self._agent_leg is not None:
            return False
        self._wish = None if wish is CallCommand.NOTHING else wish
        if self._relay is None:
            return True
        if wish is CallCommand.TRANSFERRED:
            self._relay.detach_carrier(CallEnded(Reasons.transferred))
        elif wish in (CallCommand.TRANSFER, CallCommand.NOTHING):
            self._relay.set_transfer_pending(wish is CallCommand.TRANSFER)
        return True

    # Another agent, where one is lost

    def _take_back(self, carrier: RelaySide) -> None:
        """The agent is lost: what the caller says is kept behind the opening, for another one."""
        assert self._resumption is not None
        self._leg = Leg(
            carrier.transport,
            client=False,
            max_opening_bytes=self._limits.max_opening_bytes,
            max_buffered_bytes=self._limits.max_early_bytes,
            on_disconnect=self._carrier_gone,
            resumed_from=(carrier.scanner, self._resumption.opening),
        )

    async def _resume_or_fall_back(self, lost: CallEnded) -> None:
        """Has another agent take over (docs/resume.md). Raises CallEnded where none does."""
        assert self._resumption is not None
        try:
            await self._resume(self._resumption, lost)
        except CallEnded as failed:
            if failed is self.termination.end or self._hold is None:
                raise
            fallen = await self._resumption.fall_back(
                self._services, self.session_id, failed, hold=self._hold, termination=self.termination
            )
            self._wish = None  # which was its own
            raise fallen from None

    async def _resume(self, resumption: AgentFailover, lost: CallEnded) -> None:
        """Has another agent take over. Raises CallEnded where none does."""
        assert self._leg is not None
        since, agent = self._services.now(), resumption.agent(self._services)
        if self._hold is not None:
            self._hold.stop()
        self._play(agent, resumption.dialect, resumption.start)
        async with self.termination.cancel_scope():
            self._agent_leg, instance = await resumption.another(
                self._services, self.session_id, self._leg, self._agent_gone
            )
        self._log = self._log.bind(instance=instance)
        if self._reconnection is not None:
            self._reconnection.agent = agent
            self._reconnection.told = resumption.start.stream_id
        self._couple(agent, resumption.dialect, resumption.start)
        self._services.store.resumed(self.session_id, resumption.times)
        seconds = round(self._services.now() - since, 3)
        self._log.warning("call resumed", times=resumption.times, words=lost.detail, seconds=seconds)

    # Another socket of the carrier's

    def can_attach(self, agent: str, start: Start) -> bool:
        """Whether a second socket, for `agent` (AGENT.ORG) and opened so, would go on with the call."""
        reconnection = self._reconnection
        return (
            reconnection is not None
            and reconnection.fits(agent, start)
            and self.termination.end is None
            and self._wish is None
            and self._leg is None
        )

    def attach_stream(self, leg: Leg, start: Start) -> bool:
        """Takes another socket's leg, whose opening was read, in place of the one there was.

        False where the call has ended meanwhile, or cannot do without its first one just now.
        """
        reconnection, relay = self._reconnection, self._relay
        if reconnection is None or relay is None or self._leg is not None or self.termination.end is not None:
            return False
        there = not leg.transport.is_closing()
        if self._agent_leg is None and not (there and relay.release_agent(CallEnded(Reasons.taken_over))):
            return False
        if not leg.set_on_disconnect(self._carrier_gone):
            return False
        self._leg = leg
        reconnection.came(start)
        return True

    def _keep_agent(self, agent: RelaySide) -> bool:
        """The carrier is lost, or let go: what the agent says is kept for its next socket."""
        assert self._reconnection is not None
        if self._reconnection.over or self._wish is not None or self._active.draining:
            return False
        self._agent_leg = Leg(
            agent.transport,
            client=True,
            max_opening_bytes=self._limits.max_opening_bytes,
            max_buffered_bytes=self._limits.max_early_bytes,
            on_disconnect=self._agent_gone,
            resumed_from=(agent.scanner, b""),
        )
        return True

    async def _reconnect(self, lost: CallEnded) -> None:
        """Has another socket of the carrier's go on with the agent. Raises CallEnded where none comes."""
        reconnection, relay = self._reconnection, self._relay
        assert reconnection is not None
        assert relay is not None
        assert self._agent_leg is not None
        since, heard = self._services.now(), self._hold is not None and self._hold.is_audible
        if self._hold is not None:
            self._hold.stop()
        try:
            async with self.termination.cancel_scope():
                await reconnection.second(self._services, self._active, self.session_id, relay, lost)
                await reconnection.whole(self._agent_leg, self._limits.stall_timeout)
        except CallEnded as end:
            if end.reason is Reasons.agent_ended:
                self._agent_leg.close(frames.NORMAL_CLOSURE, "")
                await reconnection.hang_up(self._services)
            raise
        assert self._leg is not None
        start, agent = reconnection.start, reconnection.agent
        opening = reconnection.opening(self._leg, self.session_id)
        if self._resumption is not None:
            self._resumption.start, self._resumption.opening = start, opening
        self._hold = HoldAudio(self._services.hold_audio, self._leg, reconnection.dialect, start)
        self._hold.resume(agent, audible=heard, answered=self._claim is not None and self._claim.held)
        self._log = self._log.bind(stream_id=start.stream_id)
        self._couple(agent, reconnection.dialect, start)
        seconds = round(self._services.now() - since, 3)
        self._log.warning("call continued", times=reconnection.times, words=lost.detail, seconds=seconds)

    # What the legs report before they are coupled

    def _carrier_gone(self, gone: Disconnect) -> None:
        self._gone(gone, reason_for_carrier(gone))

    def _agent_gone(self, gone: Disconnect) -> None:
        self._gone(gone, reason_for_agent(gone))

    def _gone(self, gone: Disconnect, end: CallEnded) -> None:
        if self.termination.end is None and gone.has_code:
            self._goodbye = gone.code, gone.reason
        self.termination.set(end)

    def _note_first_sound(self) -> None:
        if self._hold is not None:
            self._hold.stop(before_message=True)
            self._hold = None
        self._first_sound_at = self._first_sound_at or self._services.now()
