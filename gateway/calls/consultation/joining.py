# SPDX-License-Identifier: BSD-2-Clause
"""The callbacks of a consultation's call: its announcement, the key that takes it, and how it goes.

They reach any worker, late, twice, and in any order (consultation_state.py).
"""

from __future__ import annotations

from typing import Final

import structlog

from gateway.calls.consultation.consultation import conference_name
from gateway.calls.consultation.consultation_log import ConsultationLog, Decision, Step
from gateway.calls.control import CallNotActive, MovedCall, move_call, running_call
from gateway.calls.services import CallServices
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed
from gateway.model.reasons import CallEnded
from gateway.model.session import SessionRecord

log = structlog.get_logger(__name__)

TAKING_KEY: Final = "1"
"""The key that takes the call."""

MAX_CALL_S: Final = 14_400
"""Seconds that a conference lasts if the session's agent is not known any more."""


async def take(services: CallServices, record: SessionRecord, consultation_id: str) -> str:
    """Join the caller and the called person, who has taken the call. Return the document for the latter.

    Raises StoreFailed.
    """
    consultations = ConsultationLog(services.store, services.call_log, services.now)
    writer = CARRIERS[record.carrier].documents
    agent = services.agents.find(record.agent)
    time_limit_s = MAX_CALL_S if agent is None else agent.max_session_duration
    name = conference_name(consultation_id)
    if await consultations.decide(consultation_id, Decision.TAKEN) is not Decision.TAKEN:
        return writer.hangup()
    document = writer.conference(name, action=None, time_limit_s=time_limit_s)
    if not await consultations.note(consultation_id, Step.MOVING):  # the callback came again
        known = await consultations.get(consultation_id)
        return writer.hangup() if Step.NOT_MOVED in known.steps else document
    line = log.bind(session=record.session_id, consultation=consultation_id, carrier=record.carrier)
    try:
        call = await running_call(services, record, "transfer")
        callbacks = services.accounts.url(
            f"/callbacks/{record.carrier}/{record.session_id}", "https", record.region
        )
        for_caller = writer.conference(name, action=f"{callbacks}/transferred", time_limit_s=time_limit_s)
        await services.call_log.save_document(record.session_id, for_caller)
        await move_call(services, record, call, MovedCall("", for_caller, None, time_limit_s))
    except (CallNotActive, CallEnded) as failure:
        line.warning("not transferred", words=str(failure))
        await consultations.note(consultation_id, Step.NOT_MOVED)
        return writer.hangup()
    await consultations.note(consultation_id, Step.MOVED)
    status = (await services.call_log.of(consultation_id)).status
    if status is not None and status.final:  # nobody is there whom the caller could talk to
        try:
            await call.client.hang_up(call.call_id)
        except CarrierFailed as failed:
            line.warning("not hung up", kind=failed.kind, words=failed.detail)
    return document


async def decline(services: CallServices, record: SessionRecord, consultation_id: str) -> str:
    """Give a consultation up, as the called person wants nothing of it. Return the document for it.

    Raises StoreFailed.
    """
    consultations = ConsultationLog(services.store, services.call_log, services.now)
    await consultations.decide(consultation_id, Decision.GIVEN_UP)
    return CARRIERS[record.carrier].documents.hangup()
