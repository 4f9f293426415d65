# SPDX-License-Identifier: BSD-2-Clause
"""News of a call of WhatsApp: all of one call go to one instance (docs/reference/carriers.md §7).

`connect` starts a session there, which holds its place until `terminate`
(gateway/calls/whatsapp_call.py), whichever worker hears of it.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

import structlog
from starlette.responses import Response

from gateway.api.framework.operation import Context
from gateway.api.webhooks.deduplication import SharedCall
from gateway.api.webhooks.whatsapp_events import CallEvent
from gateway.api.webhooks.whatsapp_forward import JSON, ForwardResult, post, post_within
from gateway.calls.whatsapp_call import WhatsAppCall, WhatsAppSession, end_session
from gateway.config import AgentSettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions

log = structlog.get_logger(__name__)

DOCUMENT_KIND: Final = "whatsapp"
LEASE_S: Final = 60.0
"""How much longer a call is known that is being started than its agent may take."""
KEPT_S: Final = 86_400.0
"""How long a call's id is known; longer than any call, so that an event that is repeated starts nothing."""
POLL_S: Final = 0.05
"""How often an event looks whether its call, which another event is starting, has its instance."""

_INSTANCE: Final = "instance"
_SESSION: Final = "session"
_BEGAN_AT: Final = "began_at"
_OVER: Final = "over"


class CallEventHandler:
    """One body's news of one call."""

    def __init__(
        self, context: Context, agent: AgentSettings, call: CallEvent, holding: list[WhatsAppCall]
    ) -> None:
        self._context = context
        self._services = context.services
        self._agent = agent
        self._call = call
        self._holding = holding
        self._known = SharedCall(context.services, DOCUMENT_KIND, agent.service_host, call.call_id)
        self._patience_s = context.services.settings.limits.agent_connect_timeout
        self._log = log.bind(agent=agent.service_host, organization=agent.organization)

    async def answer(self) -> Response:
        if self._call.connects:
            session_id = self._services.new_id()
            claimed = {_SESSION: session_id}
            if await self._known.claim(claimed, self._patience_s + LEASE_S):
                return await self._connect(session_id)
            if not self._call.terminates:
                return _ignored("connect of a call that is known")
        held = await self._running()
        if held is None:
            return _ignored("event of a call that is not known, or is over")
        return await self._tell(held)

    async def _connect(self, session_id: str) -> Response:
        """Starts the session. Where that fails nothing is left, and Meta may try again."""
        services, done = self._services, False
        try:
            if services.active.draining:
                raise CallEnded(Reasons.draining)
            held = await self._admit(session_id)
            told = await self._begin(held)
            done = True
        finally:
            if not done:
                await self._known.forget()
        services.store.mark_running(session_id, services.now())
        await self._known.keep(_document(held), KEPT_S)
        longest_s = float(self._agent.max_session_duration)
        self._holding.append(WhatsAppCall(services.calls, services.active, held, longest_s))
        if self._call.terminates:
            await self._end(held)
        return told.response()

    async def _admit(self, session_id: str) -> WhatsAppSession:
        services, agent = self._services, self._agent
        details = CallDetails(
            session_id=session_id,
            agent=agent.service_host,
            organization=agent.organization,
            region=agent.region,
            carrier="whatsapp",
            call_id=self._call.call_id,
            stream_id=None,
            from_number=self._call.from_number,
            to_number=self._call.to_number,
        )
        options = SessionOptions(transport="whatsapp")
        began_at = services.now()
        instance = await services.calls.capacity.acquire(agent, details, options)
        return WhatsAppSession(session_id, agent.service_host, agent.organization, instance, began_at)

    async def _begin(self, held: WhatsAppSession) -> ForwardResult:
        """Has the agent take the call. Raises CallEnded, and the session is over then."""
        services = self._services
        end = CallEnded(Reasons.draining, "the gateway stops")  # what cancels this
        done = False
        try:
            async with asyncio.timeout(self._patience_s):
                await services.health.wait_until_started(held.instance)
                told = await post(self._context, held.instance, held.session_id)
            if not told.good:
                raise CallEnded(Reasons.agent_failed, f"/whatsapp answered {told.status}")
            done = True
        except TimeoutError:
            detail = f"the agent did not take the call within {self._patience_s:g} s"
            end = CallEnded(Reasons.agent_start_timeout, detail)
            raise end from None
        except CallEnded as failure:
            end = failure
            raise
        finally:
            if not done:
                await end_session(services.store, held, end, services.now(), ran=False)
        return told

    async def _running(self) -> WhatsAppSession | None:
        """The session of a call that was begun; waits for one that is beginning. None where it is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        while (known := await self._known.get()) is not None and not known.get(_OVER):
            if _INSTANCE in known:
                return WhatsAppSession(
                    known[_SESSION],
                    self._agent.service_host,
                    self._agent.organization,
                    known[_INSTANCE],
                    known[_BEGAN_AT],
                )
            if loop.time() >= until:
                raise CallEnded(Reasons.agent_start_timeout, "the call's session is still being started")
            await asyncio.sleep(POLL_S)
        return None

    async def _tell(self, held: WhatsAppSession) -> Response:
        try:
            told = await post_within(self._context, self._patience_s, held.instance, held.session_id)
        except CallEnded as failure:
            if not self._call.terminates:
                raise
            # Whether or not the agent has heard of it, there is no call any more.
            reason = failure.reason.code
            self._log.warning("whatsapp call ended unheard", session=held.session_id, reason=reason)
            told = ForwardResult(HTTPStatus.OK, JSON, b'{"status":"success"}')
        if self._call.terminates:
            await self._end(held)
        return told.response()

    async def _end(self, held: WhatsAppSession) -> None:
        services = self._services
        await self._known.keep(_document(held) | {_OVER: True}, KEPT_S)
        end = CallEnded(Reasons.caller_hangup)
        await end_session(services.store, held, end, services.now(), ran=True)


def _document(held: WhatsAppSession) -> dict[str, Any]:
    """What every worker is to know of a session."""
    return {_SESSION: held.session_id, _INSTANCE: held.instance, _BEGAN_AT: held.began_at}


def _ignored(what: str) -> Response:
    """Meta sends again what is not answered with 200 (docs/reference/carriers.md §7), and nothing would
    come of it.
    """
    log.info("whatsapp event ignored", words=what)
    return Response(b'{"status":"ignored"}', media_type=JSON)
