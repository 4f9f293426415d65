# SPDX-License-Identifier: BSD-2-Clause
"""The story of a call.

    prove the caller → read the opening → route to an agent → admit the session →
    connect an instance → relay → end, with one reason

What becomes of a side that is lost while they talk is in coupled.py. A second socket for a call that runs is
handed over to that call, and nothing else comes of it. From the opening to the agent's first sound the caller
hears a holding sound (hold.py).

`InboundCall.tell` is that story, top to bottom. Everything that can happen to a call is a step or a branch of
it; what runs per frame is in gateway/media/. A step that refuses raises the entry of the table of
endings (gateway/model/reasons.py); what interrupts a step from outside goes through the call's `Fate`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gateway.agents.media_socket import connect_agent
from gateway.calls.active import ActiveCalls
from gateway.calls.agent_failover import AgentFailover, may_fail_over
from gateway.calls.authorization import NO_CREDENTIALS, prove_start, prove_upgrade
from gateway.calls.bridge import Bridge
from gateway.calls.carrier_reconnect import CarrierReconnect, StreamAttached, may_reconnect
from gateway.calls.control import reason_after_command
from gateway.calls.overflow import SlotRequest, acquire_or_overflow
from gateway.calls.remote_call import attach_to_call
from gateway.calls.session_end import WS_CONNECTION_CLOSED, SessionEnd, log_end, save, traffic_of
from gateway.calls.stream_ownership import final_reason, take_ownership
from gateway.calls.target import Target, read_target
from gateway.carriers.agent_body import from_parameters
from gateway.config import AgentSettings
from gateway.media.accept import Upgrade
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from gateway.websocket import frames
from serializers.dialect import Dialect, DialectError
from serializers.events import Start
from serializers.opening import SERVICE_HOST_PARAMETERS, Opening
from serializers.registry import DIALECTS

if TYPE_CHECKING:
    from gateway.calls.services import CallServices


class InboundCall(Bridge):
    """One call: what is known of it so far."""

    __slots__ = ("_admitted", "_began_at", "_shown", "_upgrade")

    def __init__(self, services: CallServices, active: ActiveCalls, upgrade: Upgrade) -> None:
        super().__init__(services, active)
        self._upgrade = upgrade
        self._admitted = False
        self._shown = NO_CREDENTIALS
        self._began_at = services.now()
        upgrade.on_disconnect = self._carrier_gone
        upgrade.on_shutdown = lambda: self.termination.set(
            CallEnded(Reasons.draining, "the time to drain is over")
        )

    async def run(self) -> None:
        """Tells the story and sees to its end. Raises nothing."""
        self._active.add(self)
        try:
            await self.tell()
            end = await self.talk()
        except StreamAttached:
            self._active.remove(self)
            self._let_go()
            return
        except CallEnded as refusal:
            end = refusal
            refusal.__traceback__ = refusal.__context__ = None  # they hold on to all this
        except Exception:  # noqa: BLE001 - the edge of the call's task: it ends this call and no other
            self._log.exception("internal error")
            end = CallEnded(Reasons.internal_error)
        try:
            await self._finish(end)
        finally:
            self._active.remove(self)
            self._let_go()

    async def tell(self) -> None:
        """The story, up to where the relay runs.

        Raises CallEnded where it ends before, StreamAttached where it goes on as another call's.
        """
        target = self._read_target()
        dialect = DIALECTS.get(target.carrier)
        start = None
        agent = self._route(target, start) if dialect is None or target.named else None
        await self._prove_caller(target, agent)  # what can be refused before the upgrade is
        async with self.termination.cancel_scope():
            if dialect is not None:  # a client without a dialect is answered once its agent is there
                self._accept()
                start = await self._read_opening(dialect)
                agent = self._route(target, start)
                await self._prove_call(agent, target.carrier, start)
            assert agent is not None
            body = self._body(target, start)
            self._play(agent, dialect, start)
            wanted = agent
            async with self._admitted_to(agent, target, start) as (agent, instance):
                await self._note_call(agent, target.carrier, start)
                await self._connect(instance, body)
            if dialect is not None and start is not None:
                if may_fail_over(agent):
                    self._resumption = AgentFailover(agent, dialect, start, instance=instance, body=body)
                if self._claim is not None and may_reconnect(self._limits, wanted, dialect.name):
                    timeout_s = self._limits.reconnect_timeout
                    self._reconnection = CarrierReconnect(wanted, agent, dialect, start, timeout_s=timeout_s)
            if self._leg is None:
                self._accept()
                await asyncio.sleep(0)  # its 101 is on its way before anything else is
        self._couple(agent, dialect, start)

    def _let_go(self) -> None:
        """What holds this call and is held by it goes now, and waits for no collector."""
        self._upgrade.on_disconnect = self._upgrade.on_shutdown = None
        self.termination.release()
        self._relay = self._hold = self._resumption = self._reconnection = None
        self._leg = self._agent_leg = None

    # The steps, in their order

    def _read_target(self) -> Target:
        """For whom the call is, as far as the URL says it."""
        upgrade = self._upgrade
        if upgrade.fault:
            raise CallEnded(Reasons.bad_request, upgrade.fault)
        if self._active.draining:
            raise CallEnded(Reasons.draining)
        target = read_target(
            upgrade.url,
            upgrade.header("Host"),
            carriers=DIALECTS.keys(),
            regions=self._services.region_codes,
            region=self._services.settings.server.region,
            max_body_bytes=self._limits.max_body_bytes,
        )
        self._log = self._log.bind(carrier=target.carrier, region=target.region)
        return target

    def _accept(self) -> Leg:
        self._leg = self._upgrade.accept(
            max_opening_bytes=self._limits.max_opening_bytes,
            max_buffered_bytes=self._limits.max_early_bytes,
            on_disconnect=self._carrier_gone,
        )
        return self._leg

    async def _read_opening(self, dialect: Dialect) -> Start:
        """The carrier's own account of the call (docs/reference/carriers.md §8.1)."""
        assert self._leg is not None
        opening = Opening(dialect)
        start = None
        try:
            async with asyncio.timeout(self._limits.start_timeout):
                while start is None:
                    start = opening.feed(await self._leg.receive())
        except TimeoutError:
            detail = f"no start message within {self._limits.start_timeout:g} s"
            raise CallEnded(Reasons.bad_opening, detail) from None
        except DialectError as error:
            raise CallEnded(Reasons.bad_opening, str(error)) from None
        self._leg.buffer_messages(self._limits.max_message_bytes)
        self._log = self._log.bind(call_id=start.call_id, stream_id=start.stream_id)
        return start

    def _route(self, target: Target, start: Start | None) -> AgentSettings:
        """The agent: named by path, query, parameter or token (docs/reference/public-api.md), else the
        called number's.
        """
        token = self._shown.token
        names = [*target.named, token.service_host] if token else list(target.named)
        if start is not None:
            names += [start.parameters[key] for key in SERVICE_HOST_PARAMETERS if start.parameters.get(key)]
        directory = self._services.agents
        agent = directory.named(names, target.region)
        if agent is None:
            agent = directory.called(start.to_number if start else None, target.region)
        self._log = self._log.bind(agent=agent.service_host, organization=agent.organization)
        return agent

    async def _prove_caller(self, target: Target, agent: AgentSettings | None) -> None:
        """Who calls, as far as the upgrade shows it: a signature, a call's token, or a session's."""
        self._shown = await prove_upgrade(self._services, self._upgrade, target, agent)
        if self._shown.token is not None:
            await self._be_session(self._shown.token.session_id)

    async def _prove_call(self, agent: AgentSettings, carrier: str, start: Start) -> None:
        """That the call is one that may be here, and has no other socket."""
        prove_start(self._services, carrier, start, agent, self._shown)
        claims = self._shown.claims
        if claims is None:
            return
        self._claim, running = await take_ownership(
            self._services, self._active, carrier, start, agent, claims=claims
        )
        if running is not None:
            assert self._leg is not None
            if self.termination.end is None and await attach_to_call(
                running, self._leg, start, carrier, agent
            ):
                self._leg = None
                raise StreamAttached
            self._claim, _ = await take_ownership(
                self._services, self._active, carrier, start, agent, claims=claims, failed=self._claim
            )
        await self._be_session(self._claim.socket.session_id, known=self._claim.held)

    async def _be_session(self, session_id: str, *, known: bool = True) -> None:
        """The session that this call becomes, and what was asked for where it is `known` to the store."""
        self._active.remove(self)
        self.session_id = session_id
        self._active.add(self)
        self._log = self._log.bind(session=session_id)
        try:
            promised = await self._services.store.session(session_id) if known else None
        except StoreFailed:
            promised = None  # whether a call may be without the store is said when it is admitted
        if promised is not None:
            self._wanted_limits = promised.max_duration, promised.idle_timeout

    def _body(self, target: Target, start: Start | None) -> str | None:
        """What the agent is to be told: from the query, where a carrier has none from parameters, or kept."""
        if target.body is not None or start is None:
            return target.body
        if self._claim is not None and self._claim.body is not None:
            return self._claim.body
        return from_parameters(start.parameters, self._limits.max_body_bytes)

    @asynccontextmanager
    async def _admitted_to(
        self, agent: AgentSettings, target: Target, start: Start | None
    ) -> AsyncIterator[tuple[AgentSettings, str]]:
        """Takes a place, here or where calls flow over to, and gives its agent and instance.

        What goes wrong inside counts against that instance.
        """
        agent, instance = await acquire_or_overflow(
            self._services,
            agent,
            SlotRequest(
                session_id=self.session_id,
                carrier=target.carrier,
                region=target.region,
                start=start,
                is_admitted=self._claim is not None and self._claim.held,
                agent_is_fixed=self._shown.token is not None,
                hold_audio=self._hold,
            ),
        )
        self._admitted = True
        self._log = self._log.bind(agent=agent.service_host, instance=instance)
        try:
            yield agent, instance
        except CallEnded as end:
            if end.reason is Reasons.agent_unreachable:
                self._services.health.mark_unreachable(instance)
            elif end.reason is Reasons.agent_start_timeout:
                self._services.health.record_failure(instance)
            raise

    async def _note_call(self, agent: AgentSettings, carrier: str, start: Start | None) -> None:
        """What its record does not say and somebody will want to know."""
        if start is None:
            return
        accounts = self._services.accounts.of(agent.organization, carrier)
        if len(accounts) > 1 or (self._claim is not None and self._claim.held):
            try:
                await self._services.call_log.record_details(
                    self.session_id, carrier=carrier, account=start.account_id, call_id=start.call_id
                )
            except StoreFailed as error:
                raise CallEnded(Reasons.store_failed, str(error)) from None

    async def _connect(self, instance: str, body: str | None) -> None:
        """The agent's /ws (docs/reference/agent-container.md), once the instance is ready."""
        timeout_s = self._limits.agent_connect_timeout
        try:
            async with asyncio.timeout(timeout_s):
                self._agent_leg = await connect_agent(
                    self._services.health,
                    self._limits,
                    instance,
                    self.session_id,
                    body,
                    on_disconnect=self._agent_gone,
                )
        except TimeoutError:
            raise CallEnded(Reasons.agent_start_timeout, f"no answer within {timeout_s:g} s") from None

    # The end

    async def _finish(self, end: CallEnded) -> None:
        """Writes the one end down, frees the place, tells whoever is still there, says it in one line."""
        if self._hold is not None:
            self._hold.stop()
        end = reason_after_command(self._wish, await final_reason(self._services, self._claim, end))
        ran, traffic = self._relay is not None, traffic_of(self._relay, self._leg)
        if self._admitted:
            ended = SessionEnd(
                self.session_id,
                end,
                self._services.now(),
                ran=ran,
                traffic=traffic,
                first_sound_at=self._first_sound_at,
                completion_status=WS_CONNECTION_CLOSED,
            )
            await save(self._services.store, ended)
        if self._relay is not None:
            await self._relay.closed
        if self._agent_leg is not None:
            code = frames.INTERNAL_ERROR if end.reason.failed else frames.NORMAL_CLOSURE
            self._agent_leg.close(*self._goodbye or (code, end.detail))
        if self._leg is None and self._agent_leg is not None and self._upgrade.is_pending:
            self._accept()  # as its agent has: the end is told by a close on both
        if self._leg is not None:
            self._leg.close(*self._goodbye or (end.reason.close_code, end.detail))
        elif self._relay is None and end.reason.status is not None:
            self._upgrade.refuse(end)
        traffic, seconds = traffic_of(self._relay, self._leg), self._services.now() - self._began_at
        event = "call ended" if ran else "call not begun" if self._admitted else "call refused"
        log_end(self._log, event, end, traffic=traffic, seconds=seconds)
