# SPDX-License-Identifier: BSD-2-Clause
"""WhatsApp events of one call, which all go to one instance (docs/reference/carriers.md §7).

`connect` starts a session there, which holds its slot until `terminate` (gateway/calls/whatsapp_call.py). Any
worker may receive either, and `terminate` may come first: then the call is on record as over, and a later
`connect` starts nothing. A call that the agent placed has a slot already, that of the session in which it was
placed, so its events only have to reach that instance (whatsapp_outbound.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from starlette.responses import Response

from gateway.api.framework.operation import Context
from gateway.api.webhooks.deduplication import MIN_INTERVAL_S, SharedCall
from gateway.api.webhooks.whatsapp_events import CallEvent
from gateway.api.webhooks.whatsapp_forward import JSON, ForwardResult, post, post_within
from gateway.api.webhooks.whatsapp_outbound import Recipient, offer_to_all, offer_until_accepted
from gateway.calls.whatsapp_call import WhatsAppCall, WhatsAppSession, end_session, end_unreported
from gateway.config import AgentSettings
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions

log = structlog.get_logger(__name__)

DOCUMENT_KIND: Final = "whatsapp"
LEASE_S: Final = 60.0
"""Seconds, beyond the agent's time to connect, for which a call that is being started is on record."""
RECORD_LIFETIME_S: Final = 86_400.0
"""Seconds for which a call is on record: longer than any call, so that a repeated event starts nothing."""

MAY_HAVE_TAKEN_IT: Final = (Reasons.agent_start_timeout, Reasons.agent_lost, Reasons.draining)
"""The reasons of a start that failed although the agent may have taken the call."""

_INSTANCE: Final = "instance"
_SESSION: Final = "session"
_BEGAN_AT: Final = "began_at"
_OVER: Final = "over"


class CallEventHandler:
    """Handles one event of one call."""

    def __init__(
        self, context: Context, agent: AgentSettings, call: CallEvent, active_calls: list[WhatsAppCall]
    ) -> None:
        """`active_calls`: the list that a call is added to when it starts.

        Its slot is held by this worker.
        """
        self._context = context
        self._services = context.services
        self._agent = agent
        self._call = call
        self._active_calls = active_calls
        self._shared_call = SharedCall(context.services, DOCUMENT_KIND, agent.service_host, call.call_id)
        self._timeout_s = context.services.calls.settings.limits.agent_connect_timeout
        self._log = log.bind(agent=agent.service_host, organization=agent.organization)

    async def answer(self) -> Response:
        """Start, continue or end the call, and return the answer to Meta. Raises CallEnded, StoreFailed."""
        call = self._call
        if call.connects and call.at and call.at <= self._services.calls.now() - RECORD_LIFETIME_S:
            return _ignored("connect of a call that was more than a day ago")
        if call.connects:
            session_id = self._services.calls.new_id()
            if await self._shared_call.claim({_SESSION: session_id}, self._timeout_s + LEASE_S):
                return await (self._connect_outbound() if call.is_outbound else self._connect(session_id))
            if not call.terminates:
                return _ignored("connect of a call that is known")
        while True:
            known = await self._started_call()
            if known is not None:
                return await self._forward(known)
            if await self._is_over():
                return _ignored("event of a call that is over")
            if not call.terminates or await self._shared_call.claim({_OVER: True}, RECORD_LIFETIME_S):
                return await self._answer_unknown()
            # Another worker has just begun to start the call.

    async def _connect(self, session_id: str) -> Response:
        """Start the session. A failure leaves nothing behind, so Meta may repeat the event."""
        services, done = self._services, False
        try:
            if services.active.draining:
                raise CallEnded(Reasons.draining)
            session = await self._admit(session_id)
            result = await self._start(session)
            done = True
        finally:
            if not done:
                await self._shared_call.forget()
        services.calls.store.mark_running(session_id, services.calls.now())
        await self._shared_call.save(_record(session), RECORD_LIFETIME_S)
        max_duration_s = float(self._agent.max_session_duration)
        self._active_calls.append(WhatsAppCall(services.calls, services.active, session, max_duration_s))
        if self._call.terminates:
            await self._end(session)
        return result.response()

    async def _admit(self, session_id: str) -> WhatsAppSession:
        """Take a slot for the session. Raises CallEnded."""
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
        began_at = services.calls.now()
        instance = await services.calls.capacity.acquire_started(agent, details, options)
        return WhatsAppSession(session_id, agent.service_host, agent.organization, instance, began_at)

    async def _start(self, session: WhatsAppSession) -> ForwardResult:
        """Forward the event to the agent, which accepts the call.

        Raises CallEnded; the session is over then.
        """
        services = self._services
        end = CallEnded(Reasons.draining, "the gateway stops")  # the reason if this is cancelled
        done = False
        refused: list[CallEnded] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._post_when_started(session, refused)
            if not result.accepted:
                raise CallEnded(Reasons.agent_failed, f"/whatsapp answered {result.status}")
            done = True
        except TimeoutError:
            detail = f"the agent did not take the call within {self._timeout_s:g} s"
            end = refused[-1] if refused else CallEnded(Reasons.agent_start_timeout, detail)
            raise end from None
        except CallEnded as failure:
            end = failure
            raise
        finally:
            if not done and end.reason in MAY_HAVE_TAKEN_IT:
                await end_unreported(services.calls, session, end, ran=False)
            elif not done:
                await end_session(services.calls.store, session, end, services.calls.now(), ran=False)
        return result

    async def _post_when_started(self, session: WhatsAppSession, refused: list[CallEnded]) -> ForwardResult:
        """Forward the event once the instance answers: a cold one does not at first. Bound the wait.

        `refused`: gets a failure for each time that the instance was not reached.
        """
        health = self._services.calls.health
        await health.wait_until_started(session.instance)
        while True:
            try:
                return await post(self._context, session.instance, session.session_id)
            except CallEnded as failure:
                # What was not sent may be sent again; an instance that is not probed is not waited for.
                unreachable = failure.reason is Reasons.agent_unreachable
                if not unreachable or not health.is_watched(session.instance):
                    raise
                refused.append(failure)
            await health.wait_until_answering(session.instance)

    async def _started_call(self) -> WhatsAppSession | Recipient | None:
        """Return the call, once its agent has it; None if it is not known, or is over.

        Return a Recipient for a call that the agent placed.

        Raises CallEnded(agent_start_timeout) if it is still being started after the agent's time to connect.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        with self._shared_call.subscribe() as changes:
            while (record := await self._shared_call.get()) is not None and not record.get(_OVER):
                if _INSTANCE in record:
                    return self._known_call(record)
                if loop.time() >= deadline:
                    detail = "the call's session is still being started"
                    raise CallEnded(Reasons.agent_start_timeout, detail)
                await changes.wait(deadline - loop.time(), min_interval_s=MIN_INTERVAL_S)
        return None

    def _known_call(self, record: Mapping[str, Any]) -> WhatsAppSession | Recipient:
        instance, session_id = record[_INSTANCE], record[_SESSION]
        if _BEGAN_AT not in record:
            return Recipient(instance, session_id)
        agent = self._agent
        return WhatsAppSession(
            session_id, agent.service_host, agent.organization, instance, record[_BEGAN_AT]
        )

    async def _is_over(self) -> bool:
        record = await self._shared_call.get()
        return record is not None and bool(record.get(_OVER))

    async def _forward(self, known: WhatsAppSession | Recipient) -> Response:
        try:
            result = await post_within(self._context, self._timeout_s, known.instance, known.session_id)
        except CallEnded as failure:
            if not self._call.terminates:
                raise
            # The call is over whether or not the agent has received the event.
            reason = failure.reason.code
            self._log.warning("whatsapp call ended unheard", session=known.session_id, reason=reason)
            result = ForwardResult(HTTPStatus.OK, JSON, b'{"status":"success"}')
            await self._end(known, agent_knows=False)
            return result.response()
        if self._call.terminates:
            await self._end(known)
        return result.response()

    async def _end(self, session: WhatsAppSession | Recipient, *, agent_knows: bool = True) -> None:
        """End the session. `agent_knows`: the agent knows of the end."""
        services = self._services
        if isinstance(session, Recipient):  # the session in which the agent placed the call goes on
            await self._shared_call.save({_OVER: True}, RECORD_LIFETIME_S)
            return
        await self._shared_call.save(_record(session) | {_OVER: True}, RECORD_LIFETIME_S)
        end = CallEnded(Reasons.caller_hangup)
        if agent_knows:
            await end_session(services.calls.store, session, end, services.calls.now(), ran=True)
        elif not await self._has_ended(session):
            await end_unreported(services.calls, session, end, ran=True)

    async def _has_ended(self, session: WhatsAppSession) -> bool:
        """Return True if the session is ending or over. Raises StoreFailed."""
        record = await self._services.calls.store.session(session.session_id)
        return record is None or not record.active or record.state is SessionState.ENDING

    # Calls that the agent placed: no session of theirs, no slot

    async def _connect_outbound(self) -> Response:
        """Bring the answer of the called party to the instance that placed the call. Raises CallEnded."""
        accepted = None
        try:
            accepted = await offer_until_accepted(self._context, self._agent, self._call.callback_data)
        finally:
            if accepted is None:
                await self._shared_call.forget()
        recipient, result = accepted
        record = {_INSTANCE: recipient.instance, _SESSION: recipient.session_id, _OVER: self._call.terminates}
        await self._shared_call.save(record, RECORD_LIFETIME_S)
        self._log.info(
            "whatsapp call out connected", session=recipient.session_id, instance=recipient.instance
        )
        return result.response()

    async def _answer_unknown(self) -> Response:
        """Answer an event of a call that is not known; if it is the end, that is on record by now.

        If the agent placed the call, the event came before `connect`: every instance that may have placed it
        gets the event.
        """
        if self._call.is_outbound:
            result = await offer_to_all(self._context, self._agent, self._call.callback_data)
            if result is not None:
                return result.response()
        if self._call.terminates:
            return _ignored("end of a call that has not begun; it will not begin any more")
        return _ignored("event of a call that is not known")


def _record(session: WhatsAppSession) -> dict[str, Any]:
    """Return the record by which every worker knows the session."""
    return {_SESSION: session.session_id, _INSTANCE: session.instance, _BEGAN_AT: session.began_at}


def _ignored(detail: str) -> Response:
    """Return a 200 for an event without effect: Meta would repeat it after any other answer (§7)."""
    log.info("whatsapp event ignored", words=detail)
    return Response(b'{"status":"ignored"}', media_type=JSON)
