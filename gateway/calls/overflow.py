# SPDX-License-Identifier: BSD-2-Clause
"""Overflow: what happens to a call whose agent has no free slot, or none in time.

    the agent → its queue → another agent, and its queue → a number, a recording, or neither → refused

The overflow of the other agent is followed too, but no agent is tried twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from gateway.calls.awaited_streams import SlotGivenBack
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.services import CallServices
from gateway.calls.session_end import SessionEnd, save
from gateway.calls.spending import CallRateLimiter
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed
from gateway.config import AgentSettings
from gateway.config.call_handling import OtherAgent, Recording, TransferTo
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import TELEPHONY_OPTIONS, CallDetails, SessionOptions
from gateway.store.interface import StoreFailed
from serializers.events import Start
from texml.document import DocumentError

log = structlog.get_logger(__name__)

NO_SLOT: Final = "no place was free"
"""The detail of the end of a call that was transferred instead."""

TRANSFER_DOCUMENT_S: Final = 300.0
"""Seconds in which the carrier of a transferred call must fetch the document that says where it goes."""


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """An incoming media stream that needs a slot.

    `carrier`, `region`: as the stream's URL names them. `start`: the carrier's opening message; None for a
    client without a dialect. `is_admitted`: the session was dialed, so it has its slot already. `is_awaited`:
    its document has taken the slot, and `without_slot` makes another session of it if that was given back,
    and returns its id.
    `agent_is_fixed`: the session was created for this very agent, and may not overflow to another.
    `hold_audio`: what the caller hears meanwhile; None if the caller can hear nothing yet: such a call waits
    in no queue and does not overflow. `on_queued`: called when the call enters a queue.
    """

    session_id: str
    carrier: str
    region: str
    start: Start | None
    is_admitted: bool
    is_awaited: bool
    without_slot: Callable[[], Awaitable[str]]
    agent_is_fixed: bool
    hold_audio: HoldAudio | None
    on_queued: Callable[[], None]

    def details(self, agent: AgentSettings) -> CallDetails:
        """Return what the store records of the call, if `agent` takes it."""
        start = self.start
        return CallDetails(
            session_id=self.session_id,
            agent=agent.service_host,
            organization=agent.organization,
            region=self.region,
            carrier=self.carrier,
            call_id=start.call_id if start else None,
            stream_id=start.stream_id if start else None,
            from_number=start.from_number if start else None,
            to_number=start.to_number if start else None,
        )


async def acquire_or_overflow(
    services: CallServices, agent: AgentSettings, request: SlotRequest
) -> tuple[AgentSettings, str]:
    """Take a slot on `agent`, or on the agent that its calls overflow to.

    Returns the agent that took the session and the URL of its instance. Raises CallEnded: at_capacity,
    unauthorized, unknown_agent, store_failed; transferred if the carrier sends the call to a number instead.
    """
    hold = request.hold_audio
    tried: set[str] = set()
    if request.is_awaited:
        try:
            instance = await services.awaited.attach(request.details(agent))
        except SlotGivenBack:
            request = replace(request, session_id=await request.without_slot(), is_admitted=False)
        else:
            return _now_of(services, agent, hold), instance
    while True:
        tried.add(agent.service_host)
        try:
            instance = await _acquire(services, agent, request)
        except CallEnded as end:
            if end.reason is not Reasons.at_capacity or request.start is None or hold is None:
                raise
            overflow = agent.overflow
            if isinstance(overflow, Recording):
                await hold.play(overflow)
                raise
            if isinstance(overflow, TransferTo):
                if await _transfer(services, agent, overflow.number, request):
                    raise CallEnded(Reasons.transferred, NO_SLOT) from None
                raise
            other = None
            if isinstance(overflow, OtherAgent) and not request.agent_is_fixed:
                other = services.agents.find(overflow.service_host)
            if other is None or services.agents.gateway_in(other.region) or other.service_host in tried:
                raise
            log.info(
                "call flows over",
                session=request.session_id,
                agent=agent.service_host,
                to=other.service_host,
            )
            agent = other
        else:
            return _now_of(services, agent, hold), instance


def _now_of(services: CallServices, agent: AgentSettings, hold: HoldAudio | None) -> AgentSettings:
    """Return the agent that has the call as it is now, if it was changed while the call waited."""
    agent = services.agents.find(agent.service_host) or agent
    if hold is not None:
        hold.keep_speech(agent)
    return agent


async def _acquire(services: CallServices, agent: AgentSettings, request: SlotRequest) -> str:
    details = request.details(agent)
    if request.is_admitted:
        return await services.capacity.attach_stream(details)
    options = SessionOptions(transport="telephony" if request.start else "websocket")
    hold = request.hold_audio

    def on_queued() -> None:
        assert hold is not None
        hold.discard_speech()
        request.on_queued()

    return await services.capacity.acquire(
        agent, details, options, on_queued=None if hold is None else on_queued
    )


async def _transfer(services: CallServices, agent: AgentSettings, number: str, request: SlotRequest) -> bool:
    """Have the carrier transfer the call to the agent's overflow number. Return True if it did.

    A carrier that takes no document in the request fetches it by the session's id
    (docs/reference/carriers.md §4.5), so there must be a session, if only a pending one.
    """
    start, hold = request.start, request.hold_audio
    assert start is not None
    assert hold is not None
    carrier, session_id = request.carrier, request.session_id
    client = services.clients.first(services.accounts.of(agent.organization, carrier), start.account_id)
    if client is None or "transfer" in client.unsupported:
        log.warning("not transferred: no account that could", session=session_id, carrier=carrier)
        return False
    try:
        organization = services.settings.find_organization(agent.organization)
        await CallRateLimiter(services.store.key_values, services.now).acquire_forwarding(organization)
        callbacks = services.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", request.region)
        writer = CARRIERS[carrier].documents
        limit_s = agent.max_session_duration
        document = writer.transfer(number, caller_id=None, action=None, timeout_s=None, time_limit_s=limit_s)
        inline = writer.inline(document) if writer.inline_limit else None
        if inline is None and await services.store.session(session_id) is None:
            now = services.now()
            details = request.details(agent)
            await services.store.create_pending(details, TELEPHONY_OPTIONS, now, now + TRANSFER_DOCUMENT_S)
        if inline is None:
            await services.call_log.save_document(session_id, document)
        hold.stop()
        await client.transfer(
            start.call_id,
            number,
            document=inline,
            document_url=f"{callbacks}/transfer",
            caller_id=None,
            time_limit_s=limit_s,
        )
    except CarrierFailed as failure:
        log.warning("not transferred", session=session_id, kind=failure.kind, words=failure.detail)
        return False
    except CallEnded as limited:
        log.warning("not transferred", session=session_id, words=limited.detail)
        return False
    except (DocumentError, StoreFailed, ValueError) as error:
        log.warning("not transferred", session=session_id, words=str(error))
        return False
    if inline is None:
        end = CallEnded(Reasons.transferred, NO_SLOT)
        await save(services.store, SessionEnd(session_id, end, services.now(), ran=False))
    return True
