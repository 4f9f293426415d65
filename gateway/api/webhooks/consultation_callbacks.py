# SPDX-License-Identifier: BSD-2-Clause
"""Callbacks of the call to somebody who may take a caller: a warm transfer.

`/callbacks/{carrier}/{session_id}/consultation/{consultation_id}/…`: `announcement` is fetched by carriers
that take no document in a request, `taken` has the key that was pressed, and the rest reports how it goes.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.background import BackgroundTask
from starlette.responses import Response

from gateway.api.framework.operation import MAX_BODY_BYTES, Access, Context, Operation, Style
from gateway.api.webhooks.call_documents import document_response
from gateway.api.webhooks.carrier_request import (
    authenticate_any,
    authenticate_request,
    read_fields,
    read_query,
)
from gateway.api.webhooks.status_callbacks import read_event
from gateway.calls.consultation.consultation_log import ConsultationLog, Step
from gateway.calls.consultation.joining import (
    TAKING_KEY,
    announce,
    decline,
    end_if_unattended,
    follow_key,
    take,
)
from gateway.carriers.call_log import CallStatus
from gateway.carriers.registry import CARRIERS, WITH_DOCUMENTS
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord

log = structlog.get_logger(__name__)

_STATUSES: Final = ("status", "ring", "hangup")


async def callback(context: Context) -> Response:
    """Handle one callback of a consultation's call."""
    record, consultation_id = await _consultation(context)
    match context.path["what"]:
        case "announcement":
            return await _announcement(context, record, consultation_id)
        case "taken":
            return await _taken(context, record, consultation_id)
        case what if what in _STATUSES:
            return await _status(context, record, consultation_id)
    raise CallEnded(Reasons.not_found, "nothing of this kind is called back")


async def _announcement(context: Context, record: SessionRecord, consultation_id: str) -> Response:
    """Answer with the announcement for the called person, who has just answered."""
    call_log = context.services.calls.call_log
    document = await call_log.document_of(consultation_id)
    await call_log.record_status(consultation_id, CallStatus.ANSWERED)
    return document_response(record.carrier, document or CARRIERS[record.carrier].documents.hangup())


async def _taken(context: Context, record: SessionRecord, consultation_id: str) -> Response:
    """Answer with the conference if the right key was pressed, and move the caller there."""
    fields = await _fields(context, record.carrier)
    calls = context.services.calls
    if fields.get("Digits") == TAKING_KEY:
        return document_response(record.carrier, await take(calls, record, consultation_id))
    return document_response(record.carrier, await decline(calls, record, consultation_id))


async def _status(context: Context, record: SessionRecord, consultation_id: str) -> Response:
    read_callback = CARRIERS[record.carrier].read_callback
    if read_callback is None:
        raise CallEnded(Reasons.not_found, "nothing of this kind is called back")
    event = await read_event(context, record.carrier, read_callback, is_for_stream=False)
    call_log = context.services.calls.call_log
    known = (await call_log.of(consultation_id)).call_id
    if known is not None and event.call_id is not None and event.call_id != known:
        raise CallEnded(Reasons.not_found, "no such call is known here")
    if known is None and event.call_id is not None:
        await call_log.record_details(consultation_id, carrier=record.carrier, call_id=event.call_id)
    if event.status is not None:
        await call_log.record_status(consultation_id, event.status, event.sequence, detail=event.detail)
    # What is to be asked of the carrier follows the answer, which it waits for two seconds at most.
    calls, task = context.services.calls, None
    if event.key is not None:
        task = BackgroundTask(follow_key, calls, record, consultation_id, event.key)
    elif event.status is CallStatus.ANSWERED:
        task = BackgroundTask(announce, calls, record, consultation_id)
    elif event.status is not None and event.status.final:
        task = BackgroundTask(end_if_unattended, calls, record, consultation_id, event.status)
    return Response(status_code=200, background=task)


async def _consultation(context: Context) -> tuple[SessionRecord, str]:
    """Return the session and the consultation that the path names, once the request is authenticated.

    Raises:
        CallEnded: not_found, unauthorized or bad_request.
        StoreFailed: the store did not answer.
    """
    carrier, consultation_id = context.path["carrier"], context.path["consultation_id"]
    calls = context.services.calls
    if carrier not in WITH_DOCUMENTS:
        raise CallEnded(Reasons.not_found, "no such carrier is known here")
    record = await calls.store.session(context.path["session_id"])
    if record is None:
        authenticate_any(context, carrier)
    else:
        authenticate_request(context, carrier, record.organization)
    consultations = ConsultationLog(calls.store, calls.call_log, calls.now)
    found = None if record is None else await consultations.of_session(record.session_id)
    if record is None or record.carrier != carrier or found is None:
        raise CallEnded(Reasons.not_found, "no such call is known here")
    if found.consultation_id != consultation_id and Step.ENDED not in (
        (await consultations.get(consultation_id)).steps
    ):
        raise CallEnded(Reasons.not_found, "no such call is known here")
    return record, consultation_id


async def _fields(context: Context, carrier: str) -> dict[str, str]:
    """Return the fields of the request. Raises CallEnded (bad_request) if one says two things."""
    pairs = await read_fields(context, carrier) if context.request.method == "POST" else read_query(context)
    fields: dict[str, str] = {}
    for name, value in pairs:
        if fields.setdefault(name, value) != value:
            raise CallEnded(Reasons.bad_request, "a field is given twice, and says two things")
    return fields


CONSULTATION_CALLBACKS: Final = tuple(
    Operation(
        method=method,
        path="/callbacks/{carrier}/{session_id}/consultation/{consultation_id}/{what}",
        handler=callback,
        access=Access.NONE,
        style=Style.PCC,
        summary="What a carrier tells of the call to somebody who may take a caller",
        tag="Carriers",
        reads_raw=True,
        max_body_bytes=MAX_BODY_BYTES,
        in_schema=False,
    )
    for method in ("GET", "POST")
)
