# SPDX-License-Identifier: BSD-2-Clause
"""Where a call goes for which its agent has no place, nor one in the line, or not in time.

    the agent → its line → another agent, and its line → a number, a message, or neither → refused

Another agent's own overflow is followed too, but no agent is asked twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from gateway.calls.capacity import acquire_slot, call_details
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.target import Target
from gateway.carriers.rest_interface import CarrierFailed
from gateway.config import AgentSettings
from gateway.config.values import RECORDING
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import TELEPHONY_OPTIONS, SessionResult, Traffic
from gateway.store.interface import StoreFailed
from serializers.events import Start
from texml.errors import DocumentError
from texml.registry import WRITERS

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

log = structlog.get_logger(__name__)

NO_PLACE: Final = "no place was free"

PROMISE_S: Final = 300.0
"""How long a carrier has to ask where its transferred call goes."""


async def acquire_or_overflow(
    services: CallServices,
    agent: AgentSettings,
    target: Target,
    start: Start | None,
    session_id: str,
    *,
    held: bool,
    stays: bool,
    hold: HoldAudio | None,
) -> tuple[AgentSettings, str]:
    """The agent that takes the session, and the URL of its instance.

    `held`, `session_id`: as for `take_place`. `stays`: the session was promised to this very agent. `hold`:
    what the caller hears; None for one that can hear nothing yet, which does not wait either.
    Raises CallEnded as `take_place` does, and transferred.
    """
    asked: set[str] = set()
    while True:
        asked.add(agent.service_host)
        try:
            instance = await acquire_slot(services, agent, target, start, session_id, held=held, hold=hold)
        except CallEnded as full:
            if full.reason is not Reasons.at_capacity or start is None or hold is None:
                raise
            if agent.overflow.endswith(RECORDING):
                await hold.play(agent.overflow)
                raise
            if agent.overflow.startswith("+"):
                if await _transfer(services, agent, target, start, session_id=session_id, hold=hold):
                    raise CallEnded(Reasons.transferred, NO_PLACE) from None
                raise
            other = None if stays else services.agents.find(agent.overflow)
            if other is None or other.service_host in asked:
                raise
            log.info("call flows over", session=session_id, agent=agent.service_host, to=other.service_host)
            agent = other
        else:
            if hold is not None:
                hold.keep_speech(agent)
            return agent, instance


async def _transfer(
    services: CallServices,
    agent: AgentSettings,
    target: Target,
    start: Start,
    *,
    session_id: str,
    hold: HoldAudio,
) -> bool:
    """Has the carrier send the call to the agent's number; whether it does.

    A carrier that takes no document in the request asks for it by the session's id
    (docs/reference/carriers.md §4.5), so there has to be a session, if only a promised one.
    """
    carrier, to = target.carrier, agent.overflow
    rest = services.clients.first(services.accounts.of(agent.organization, carrier), start.account_id)
    if rest is None or "transfer" in rest.cannot:
        log.warning("not transferred: no account that could", session=session_id, carrier=carrier)
        return False
    try:
        callbacks = services.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", target.region)
        document = WRITERS[carrier].transfer(to, caller_id=None, action=None, timeout_s=None)
        inline = WRITERS[carrier].inline(document) if WRITERS[carrier].inline_limit else None
        if inline is None and await services.store.session(session_id) is None:
            now = services.now()
            details = call_details(agent, target, start, session_id)
            await services.store.promise(details, TELEPHONY_OPTIONS, now, now + PROMISE_S)
        if inline is None:
            await services.call_log.keep_document(session_id, document)
        hold.stop()
        await rest.transfer(
            start.call_id, to, document=inline, document_url=f"{callbacks}/transfer", caller_id=None
        )
    except CarrierFailed as failure:
        log.warning("not transferred", session=session_id, kind=failure.kind, words=failure.detail)
        return False
    except (DocumentError, StoreFailed, ValueError) as error:
        log.warning("not transferred", session=session_id, words=str(error))
        return False
    if inline is None:
        services.store.ended(session_id, _result(services.now()))
    return True


def _result(now: float) -> SessionResult:
    reason = Reasons.transferred
    return SessionResult(
        state=SessionState.CANCELED,
        ended_at=now,
        reason=reason.code,
        side=reason.side,
        detail=NO_PLACE,
        close_code=reason.close_code,
        traffic=Traffic(),
        first_agent_sound_at=None,
    )
