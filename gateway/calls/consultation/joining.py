# SPDX-License-Identifier: BSD-2-Clause
"""The callbacks of a consultation's call: its announcement, the key that takes it, and how it goes.

They reach any worker, late, twice, and in any order (consultation_state.py).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gateway.calls.command_bus import CallCommand
from gateway.calls.consultation.consultation import RESULTS, conference_name
from gateway.calls.consultation.consultation_log import ConsultationLog, Decision, Step
from gateway.calls.control import CallNotActive, MovedCall, move_call, running_call
from gateway.calls.services import CallServices
from gateway.carriers.call_log import CallStatus
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed, JoiningRest
from gateway.model.reasons import CallEnded
from gateway.model.session import SessionRecord
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

UNATTENDED_S: Final = 3.0
"""Seconds after the end of a consulted call in which the worker that runs the consultation ends it."""

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
        consulted_id = (await services.call_log.of(consultation_id)).call_id
        moved = MovedCall("", for_caller, None, time_limit_s, join_with=consulted_id)
        await move_call(services, record, call, moved)
    except (CallNotActive, CallEnded) as failure:
        line.warning("not transferred", words=str(failure))
        await consultations.note(consultation_id, Step.NOT_MOVED)
        return writer.hangup()
    try:
        await consultations.note(consultation_id, Step.MOVED)
        status = (await services.call_log.of(consultation_id)).status
    except StoreFailed as error:  # the caller waits in the conference all the same
        line.warning("store", error=str(error))
        return document
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


async def announce(services: CallServices, record: SessionRecord, consultation_id: str) -> None:
    """Speak the announcement to the called person who has answered, through a carrier that is asked to.

    A failure is logged, not raised: the consultation ends when its time is over.
    """
    line = log.bind(session=record.session_id, consultation=consultation_id, carrier=record.carrier)
    try:
        client = (await running_call(services, record, "transfer")).client
        call_id = (await services.call_log.of(consultation_id)).call_id
        text = await services.call_log.document_of(consultation_id)
        consultations = ConsultationLog(services.store, services.call_log, services.now)
        if Step.DECIDED in (await consultations.get(consultation_id)).steps:
            return
        if isinstance(client, JoiningRest) and call_id is not None and text is not None:
            await client.announce(call_id, text)
    except CarrierFailed as failed:
        line.warning("carrier failed", kind=failed.kind, words=failed.detail)
    except (CallNotActive, CallEnded, StoreFailed) as error:
        line.warning("not announced", words=str(error))


async def end_if_unattended(
    services: CallServices, record: SessionRecord, consultation_id: str, status: CallStatus
) -> None:
    """End a consultation whose call is over, if the worker that runs it is lost and does not.

    The caller is given back to the agent. A failure is logged, not raised.
    """
    consultations = ConsultationLog(services.store, services.call_log, services.now)
    try:
        with (
            services.store.notifications.subscribe(
                Topic.SESSION_CHANGED, key=consultation_id, urgent=True
            ) as changes,
            suppress(TimeoutError),
        ):
            async with asyncio.timeout(UNATTENDED_S):
                while Step.ENDED not in (await consultations.get(consultation_id)).steps:
                    await changes.wait()
        found = await consultations.get(consultation_id)
        is_being_moved = found.is_taken and not {Step.MOVED, Step.NOT_MOVED} & found.steps.keys()
        if Step.ENDED in found.steps or is_being_moved:
            return
        await consultations.decide(consultation_id, Decision.GIVEN_UP)
        result = "joined" if Step.MOVED in found.steps else RESULTS[status]
        if await consultations.note(consultation_id, Step.ENDED, result):
            await services.commands.send(record.session_id, CallCommand.RESUME)
    except StoreFailed as error:
        log.warning("store", session=record.session_id, consultation=consultation_id, error=str(error))


async def follow_key(services: CallServices, record: SessionRecord, consultation_id: str, key: str) -> None:
    """Do what the key says that a called person has pressed, through a carrier that takes no documents.

    A failure is logged, not raised.
    """
    line = log.bind(session=record.session_id, consultation=consultation_id, carrier=record.carrier)
    try:
        if key == TAKING_KEY:
            await take(services, record, consultation_id)
            return
        await decline(services, record, consultation_id)
        client = (await running_call(services, record, "transfer")).client
        call_id = (await services.call_log.of(consultation_id)).call_id
        if call_id is not None:
            await client.hang_up(call_id)
    except CarrierFailed as failed:
        line.warning("not hung up", kind=failed.kind, words=failed.detail)
    except (CallNotActive, CallEnded, StoreFailed) as error:
        line.warning("not hung up", words=str(error))
