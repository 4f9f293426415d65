# SPDX-License-Identifier: BSD-2-Clause
"""An inbound call, from the upgrade of its WebSocket to its record.

    authenticate the upgrade → read the opening → route to an agent → acquire a slot →
    connect the instance → bridge → save the one end

`InboundCall.run` reads from top to bottom; state.py has the states and how they follow each other. A step
that refuses raises CallEnded with a reason of gateway/model/reasons.py. An event from outside sets the call's
Termination, which interrupts the present step. From the opening to the agent's first audio the caller hears
hold audio (hold_audio.py). What happens to a leg that is lost later is told in bridge.py.

A stream that belongs to a call which is active already is attached to that call, and leaves no record.
"""

from __future__ import annotations

import asyncio

import structlog

from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.calls.agent_failover import end_of_agent
from gateway.calls.agent_routing import route_by_start, route_by_url
from gateway.calls.authorization import NO_CREDENTIALS, authenticate_start, authenticate_upgrade
from gateway.calls.bridge import Bridge
from gateway.calls.call_setup import BridgeSettings, CallSetup
from gateway.calls.command_bus import CallCommand
from gateway.calls.control import reason_after_command
from gateway.calls.first_agent import connect_first_agent, wait_for_first_agent
from gateway.calls.hold_audio import HeldStream, HoldAudio
from gateway.calls.inbound_body import body_for_agent
from gateway.calls.opening_reader import read_opening
from gateway.calls.overflow import SlotRequest, acquire_or_overflow
from gateway.calls.remote_call import RemoteCall, attach_to_call
from gateway.calls.services import CallServices
from gateway.calls.session_end import UNHEARD_S, WS_CONNECTION_CLOSED, SessionEnd, correct_end, log_end, save
from gateway.calls.slot_release import HeldSlot
from gateway.calls.state import CallProgress, CallState
from gateway.calls.stream_ownership import (
    StreamOpening,
    final_reason,
    refuse_new_call,
    take_ownership,
    with_another_session,
)
from gateway.calls.target import Target, read_target
from gateway.calls.termination import Termination
from gateway.calls.token_session import continue_on, find_session, use_token
from gateway.carriers.agent_body import agent_query
from gateway.config import AgentSettings
from gateway.media.accept import Upgrade
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.nodes.tunnel import Tunnel
from gateway.store.interface import StoreFailed
from serializers.call_numbers import with_numbers
from serializers.dialect import Dialect
from serializers.events import Start
from serializers.registry import DIALECTS

log = structlog.get_logger(__name__)


class StreamAttached(Exception):  # noqa: N818 - not an error
    """The call's stream was attached to another call, and of this one is left a `tunnel` at most."""

    def __init__(self, tunnel: Tunnel | None) -> None:
        super().__init__()
        self.tunnel = tunnel


class InboundCall:
    """One call. It belongs to the task that runs `run`, and to that task's event loop."""

    __slots__ = ("_active", "_admitted", "_began_at", "_phase", "_progress", "_services", "_upgrade")

    def __init__(self, services: CallServices, active: ActiveCalls, upgrade: Upgrade) -> None:
        session_id = services.new_id()
        self._services = services
        self._active = active
        self._upgrade = upgrade
        self._progress = CallProgress(session_id, log.bind(session=session_id))
        self._phase: CallSetup | Bridge = CallSetup()
        self._admitted = False
        self._began_at = services.now()
        upgrade.on_disconnect = self._progress.carrier_gone
        upgrade.on_shutdown = self._on_shutdown

    async def run(self) -> None:
        """Serve the call from its upgrade to its end. Raises nothing."""
        self._active.add(self)
        try:
            bridge = await self._set_up()
            end = await bridge.run()
        except StreamAttached as attached:
            attached.__traceback__ = attached.__context__ = None
            try:
                if attached.tunnel is not None:
                    await self._serve_tunnel(attached.tunnel)
            finally:
                self._leave()
            return
        except CallEnded as raised:
            end = raised
            raised.__traceback__ = raised.__context__ = None  # they refer to the frames of the steps
        except Exception:  # the edge of the call's task: it ends this call and no other
            self._progress.log.exception("internal error")
            end = CallEnded(Reasons.internal_error)
        try:
            await self._finish(await end_of_agent(self._services, self._phase.instance, end))
        finally:
            self._leave()

    async def _set_up(self) -> Bridge:
        """Take the steps from the upgrade to the bridge. Raises CallEnded, StreamAttached."""
        setup = self._phase
        assert isinstance(setup, CallSetup)
        progress = self._progress
        target = self._read_target()
        dialect = DIALECTS.get(target.carrier)
        agent = None
        if dialect is None or target.named:
            agent = self._bind_agent(route_by_url(self._services, self._upgrade, target))
        await self._authenticate_upgrade(setup, target, agent)  # refuses with an HTTP status what it can
        async with progress.termination.cancel_scope():
            start = None
            if dialect is not None:  # a client without a dialect is answered when its agent is connected
                progress.change(CallState.OPENING)
                await self._use_token(setup)
                leg = self._accept(setup)
                if setup.credentials is NO_CREDENTIALS:
                    self._upgrade.on_preempted = self._on_preempted
                start = await self._read_opening(leg, dialect, target)
                self._upgrade.on_preempted = None
            progress.change(CallState.ROUTING)
            if start is not None:
                agent = route_by_start(self._services, target, start, setup.credentials)
                self._bind_agent(agent)
                await self._authenticate_start(setup, agent, target.carrier, start)
            assert agent is not None
            self._upgrade.verified()
            if setup.continued is not None:
                await self._attach(setup, setup.continued, agent, target.carrier, start)
            query = agent_query(body_for_agent(self._services, setup, target, start), target.custom)
            self._start_hold_audio(setup, agent, dialect, start)
            agent_with_slot, instance = await self._acquire_slot(setup, agent, target, start)
            settings = BridgeSettings(
                requested_agent=agent,
                agent=agent_with_slot,
                instance=instance,
                query=query,
                dialect=dialect,
                start=start,
                ownership=setup.ownership,
                has_media_token=setup.credentials.session is not None,
                max_duration_s=setup.max_duration_s,
                idle_timeout_s=setup.idle_timeout_s,
            )
            settings = await connect_first_agent(
                self._services, self._progress, setup, settings, target.carrier
            )
            if setup.carrier_leg is None:
                await self._use_token(setup)
                self._accept(setup)
                await asyncio.sleep(0)  # its 101 is on its way before anything else is
        self._phase = bridge = Bridge(self._services, progress, settings, setup)
        return bridge

    # What others see of the call: gateway.calls.active.ActiveCall

    @property
    def session_id(self) -> str:
        """The id of the session that the call is, or will be."""
        return self._progress.session_id

    @property
    def state(self) -> CallState:
        """The state of the call."""
        return self._progress.state

    @property
    def termination(self) -> Termination:
        """The call's end."""
        return self._progress.termination

    @property
    def bridge(self) -> Bridge | None:
        """The call's bridge, once it has one."""
        return self._phase if isinstance(self._phase, Bridge) else None

    def handle(self, command: CallCommand) -> bool:
        """Take note of a command for this call.

        Return False if it cannot be followed in the present state.
        """
        if command is CallCommand.CARRIER_ENDED:
            # The carrier closes its socket with the call. A socket that stays open has lost its carrier.
            end = CallEnded(Reasons.caller_hangup, "the carrier says that the call is over")
            close_s = self._services.settings.limits.close_timeout
            asyncio.get_running_loop().call_later(close_s, self._progress.termination.set, end)
        return self._phase.handle(command)

    def can_attach(self, agent: str, start: Start | None) -> bool:
        """Return True if the call could continue on a stream for `agent` (AGENT.ORG) that `start` opened."""
        return self._phase.can_attach(agent, start)

    def attach_stream(self, leg: Leg, start: Start | None) -> bool:
        """Continue on another stream, whose opening was read. Return False if the call cannot."""
        return self._phase.attach_stream(leg, start)

    # The steps, in their order

    def _read_target(self) -> Target:
        """Read what the URL says about the call."""
        upgrade = self._upgrade
        if upgrade.fault:
            raise CallEnded(Reasons.bad_request, upgrade.fault)
        settings = self._services.settings
        target = read_target(
            upgrade.url,
            upgrade.header("Host"),
            carriers=DIALECTS.keys(),
            regions=self._services.region_codes,
            region=settings.server.region,
            max_body_bytes=settings.limits.max_body_bytes,
        )
        self._progress.log = self._progress.log.bind(carrier=target.carrier, region=target.region)
        if self._active.draining and not (target.token or upgrade.header("Authorization")):
            raise CallEnded(Reasons.draining)  # no token, so it is no running call's next socket
        return target

    async def _authenticate_upgrade(
        self, setup: CallSetup, target: Target, agent: AgentSettings | None
    ) -> None:
        """Check what the upgrade shows: a signature, a call token, or a session's token.

        A worker that drains refuses it here, unless it may be the next socket of a call that runs.
        """
        setup.only_continues = self._active.draining
        setup.credentials = authenticate_upgrade(self._services, self._upgrade, target, agent)
        token = setup.credentials.session
        if token is not None:
            opened = await find_session(self._services, self._active, token, target.carrier)
            setup.continued = opened.call
            if opened.call is None:
                if setup.only_continues:
                    raise CallEnded(Reasons.draining)
                self._rename(token.session_id)
                self._take_limits(setup, opened.record)
        elif setup.only_continues:
            await refuse_new_call(self._services, setup.credentials.claims, agent, target.carrier)

    async def _use_token(self, setup: CallSetup) -> None:
        """Use up the media token, if the upgrade has one and it opens its session's first socket."""
        if setup.credentials.session is not None and setup.continued is None:
            await use_token(self._services, setup.credentials.session)

    def _accept(self, setup: CallSetup) -> Leg:
        """Answer the upgrade: from here on a refusal is a close frame."""
        limits = self._services.settings.limits
        setup.carrier_leg = self._upgrade.accept(
            max_opening_bytes=limits.max_opening_bytes,
            max_buffered_bytes=limits.max_early_bytes,
            on_disconnect=self._progress.carrier_gone,
        )
        self._upgrade.on_disconnect = None  # the leg reports it from now on
        return setup.carrier_leg

    async def _read_opening(self, leg: Leg, dialect: Dialect, target: Target) -> Start:
        """Read the carrier's messages up to its `start`. Raises CallEnded(bad_opening)."""
        limits = self._services.settings.limits
        start = with_numbers(await read_opening(leg, dialect, limits.start_timeout), dict(target.custom))
        leg.buffer_messages(limits.max_message_bytes)
        self._progress.log = self._progress.log.bind(call_id=start.call_id, stream_id=start.stream_id)
        return start

    def _bind_agent(self, agent: AgentSettings) -> AgentSettings:
        self._progress.log = self._progress.log.bind(
            agent=agent.service_host, organization=agent.organization
        )
        return agent

    async def _authenticate_start(
        self, setup: CallSetup, agent: AgentSettings, carrier: str, start: Start
    ) -> None:
        """Check that the call may be here, and that this is its only stream.

        Raises StreamAttached if a call that is active continues on this stream.
        """
        services, active, progress = self._services, self._active, self._progress
        authenticate_start(services, carrier, start, agent, setup.credentials)
        claims = setup.credentials.claims
        if claims is None:
            return
        opening = StreamOpening(carrier, start, agent, claims, setup.only_continues)
        ownership, call = await take_ownership(services, active, opening)
        setup.ownership = ownership
        if call is not None:
            assert setup.carrier_leg is not None
            self._upgrade.verified()
            if progress.termination.end is None and (
                attached := await attach_to_call(call, setup.carrier_leg, start, carrier, agent)
            ):
                setup.carrier_leg = None
                raise StreamAttached(attached if isinstance(attached, Tunnel) else None)
            if setup.only_continues:
                raise CallEnded(Reasons.draining)
            ownership, _ = await take_ownership(services, active, opening, failed=ownership)
            setup.ownership = ownership
        if ownership.is_admitted and not ownership.is_awaited:
            await self._become_session(setup, ownership.stream.session_id)
        else:
            self._rename(ownership.stream.session_id)

    async def _become_session(self, setup: CallSetup, session_id: str) -> None:
        """Continue as a session that exists in the store already, with the limits requested for it."""
        self._rename(session_id)
        try:
            record = await self._services.store.session(session_id)
        except StoreFailed:
            return  # whether a call is possible without the store shows when it acquires its slot
        self._take_limits(setup, record)

    def _take_limits(self, setup: CallSetup, record: SessionRecord | None) -> None:
        if record is not None:
            setup.max_duration_s, setup.idle_timeout_s = record.max_duration, record.idle_timeout

    async def _attach(
        self,
        setup: CallSetup,
        call: ActiveCall | RemoteCall,
        agent: AgentSettings,
        carrier: str,
        start: Start | None,
    ) -> None:
        """Let the session's call go on with this socket, as its own was lost. Raises StreamAttached.

        Raises CallEnded(unauthorized) if it cannot any more, or its worker cannot be given the socket.
        """
        leg = setup.carrier_leg
        if leg is None:
            leg = self._accept(setup)
            leg.buffer_messages(self._services.settings.limits.max_message_bytes)
            await asyncio.sleep(0)  # its 101 is on its way before the socket is passed on
        tunnel = await continue_on(call, leg, start, carrier, agent)
        setup.carrier_leg = None
        raise StreamAttached(tunnel)

    async def _serve_tunnel(self, tunnel: Tunnel) -> None:
        """Pass on what comes on this call's socket, for a call that another worker has, until it ends.

        This call stays among the active ones meanwhile: a worker that drains waits for it.
        """
        began_at = self._services.now()
        self._upgrade.on_shutdown = tunnel.close
        await tunnel.run()
        bytes_in, bytes_out = tunnel.passed
        seconds = round(self._services.now() - began_at, 3)
        self._progress.log.info("tunnel ended", seconds=seconds, bytes_in=bytes_in, bytes_out=bytes_out)

    def _rename(self, session_id: str) -> None:
        self._active.remove(self)
        self._progress.session_id = session_id
        self._active.add(self)
        self._progress.log = self._progress.log.bind(session=session_id)

    def _start_hold_audio(
        self, setup: CallSetup, agent: AgentSettings, dialect: Dialect | None, start: Start | None
    ) -> None:
        if setup.carrier_leg is not None and dialect is not None and start is not None:
            stream = HeldStream(dialect, start, own_document=setup.ownership is not None)
            setup.hold_audio = HoldAudio(self._services.hold_audio, setup.carrier_leg, stream)
            setup.hold_audio.start(agent, answered=setup.is_dialed)

    async def _acquire_slot(
        self, setup: CallSetup, agent: AgentSettings, target: Target, start: Start | None
    ) -> tuple[AgentSettings, str]:
        """Acquire a slot of the agent, or of the one that its calls overflow to.

        Return the agent and the URL of the instance. The call is a session from here on.
        """
        agent, instance = await acquire_or_overflow(
            self._services,
            agent,
            SlotRequest(
                session_id=self._progress.session_id,
                carrier=target.carrier,
                region=target.region,
                start=start,
                is_admitted=setup.is_admitted,
                is_awaited=setup.is_admitted and not setup.is_dialed,
                without_slot=lambda: self._become_another_session(setup),
                agent_is_fixed=setup.credentials.session is not None,
                hold_audio=setup.hold_audio,
                on_queued=lambda: self._progress.change(CallState.QUEUED),
            ),
        )
        self._admitted = True
        setup.instance = instance
        self._progress.change(CallState.CONNECTING)
        instance = await wait_for_first_agent(self._services, self._progress, setup, agent, instance)
        setup.instance = instance
        self._progress.log = self._progress.log.bind(agent=agent.service_host, instance=instance)
        return agent, instance

    async def _become_another_session(self, setup: CallSetup) -> str:
        """Continue as a session without a slot, because that of the document has ended. Return its id."""
        assert setup.ownership is not None
        setup.ownership = await with_another_session(self._services, setup.ownership)
        self._rename(setup.ownership.stream.session_id)
        self._progress.log.info("the stream came late", words="the slot of its document was given back")
        return self._progress.session_id

    # The end

    async def _finish(self, end: CallEnded) -> None:
        """Save the one end, which frees the slot; then close what is open and log the call."""
        services, progress, phase = self._services, self._progress, self._phase
        progress.change(CallState.ENDING)
        phase.stop_hold_audio()
        lost_at = phase.agent_lost_at
        end = reason_after_command(phase.command, await final_reason(services, phase.ownership, end))
        ended = SessionEnd(
            progress.session_id,
            end,
            services.now(),
            ran=phase.was_bridged,
            traffic=phase.traffic,
            first_sound_at=phase.first_sound_at,
            completion_status=WS_CONNECTION_CLOSED if phase.was_bridged else None,
        )
        # An agent that has not left by itself may need a moment for it, and its slot is not free before.
        waits = isinstance(phase, Bridge) and end.reason not in (Reasons.agent_ended, Reasons.agent_failed)
        if self._admitted and not waits:
            await save(services.store, ended)
        try:
            await phase.close(end, progress.termination.received_close)
            if self._admitted and not waits:
                correct_end(services.store, ended, phase.traffic)
        finally:
            if self._admitted and waits:
                await self._save_when_left(ended)
        if end.reason.status is not None:
            self._upgrade.refuse(end)  # no effect if the upgrade was answered
        event = "call ended" if phase.was_bridged else "call not begun" if self._admitted else "call refused"
        seconds, ran = services.now() - self._began_at, phase.was_bridged
        log_end(
            progress.log,
            event,
            end,
            seconds=seconds,
            ran=ran,
            traffic=phase.traffic,
            unheard=ran and phase.is_telephony and phase.first_sound_at is None and seconds >= UNHEARD_S,
            without_agent_s=None if lost_at is None else ended.ended_at - lost_at,
        )

    async def _save_when_left(self, ended: SessionEnd) -> None:
        """Save the end of a call whose agent was told to leave. The slot is free once it has."""
        services, bridge = self._services, self._phase
        assert isinstance(bridge, Bridge)
        if bridge.agent_answered:
            await save(services.store, ended)
            return
        held = HeldSlot(
            ended.session_id,
            bridge.instance,
            requested_at=self._began_at,
            ending_at=ended.ended_at,
            timeout_s=bridge.stop_timeout_s,
            had_socket=True,
        )
        await services.capacity.releases.end(ended, held)

    def _leave(self) -> None:
        """Leave the registry, and drop what refers back to this call: garbage is collected seldom."""
        self._active.remove(self)
        self._upgrade.on_disconnect = self._upgrade.on_shutdown = self._upgrade.on_preempted = None
        self._progress.termination.release()
        self._phase.release()
        self._progress.change(CallState.ENDED)

    def _on_preempted(self) -> None:
        self._progress.termination.set(CallEnded(Reasons.preempted))

    def _on_shutdown(self) -> None:
        self._progress.termination.set(CallEnded(Reasons.draining, "the time to drain is over"))
