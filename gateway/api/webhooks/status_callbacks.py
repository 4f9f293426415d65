# SPDX-License-Identifier: BSD-2-Clause
"""Carriers' status callbacks: `/callbacks/{carrier}/{session_id}/{what}`.

Callbacks arrive late, twice, out of order, and at any worker. Each gets its answer and one log line, and
changes the call's status at most once (`CallLog.record_status`). An unauthenticated one is 403; only its
organisation is looked up before.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.background import BackgroundTask
from starlette.responses import Response

from gateway.api.framework.operation import MAX_BODY_BYTES, Access, Context, Operation, Style
from gateway.api.framework.strict_json import JsonError, parse
from gateway.api.webhooks.carrier_request import (
    authenticate_any,
    authenticate_request,
    read_fields,
    read_query,
)
from gateway.calls.awaited_streams import awaits_stream
from gateway.calls.command_bus import CallCommand
from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import CallbackEvent, CallbackRequest
from gateway.carriers.carrier import CallbackReader
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed
from gateway.carriers.signatures import JSON, media_type
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.observability.log import log_at
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

CLOCK_SLACK_S: Final = 60.0
MAX_AGE_S: Final = 86_400.0
"""Seconds: a carrier's timestamp counts if it is no older, and no later than CLOCK_SLACK_S from now."""

MAX_SESSION_ID: Final = 64
"""Characters of a session's id in a URL, which is logged; a UUID has 36."""

_STREAM: Final = "stream"
_KINDS: Final = (_STREAM, "status", "ring", "hangup", "machine")
"""Kinds of callback: of a stream (stream_documents.py), or of an outbound call (the carriers' rest.py)."""


async def callback(context: Context) -> Response:
    """Handle one callback."""
    carrier, session_id, kind = (context.path[name] for name in ("carrier", "session_id", "what"))
    read_callback = CARRIERS[carrier].read_callback if carrier in CARRIERS else None
    if read_callback is None or kind not in _KINDS or len(session_id) > MAX_SESSION_ID:
        raise CallEnded(Reasons.not_found, "nothing of this kind is called back")
    record = await context.services.calls.store.session(session_id)
    organization = record.organization if record is not None else _organization(context)
    line = log.bind(carrier=carrier, session=session_id, what=kind)
    try:
        if organization is not None:
            authenticate_request(context, carrier, organization)
        else:
            authenticate_any(context, carrier)
        event = await read_event(context, carrier, read_callback, is_for_stream=kind == _STREAM)
    except CallEnded as end:
        severity = end.reason.severity(ran=False)
        log_at(line, severity, "callback refused", reason=end.reason.code, words=end.detail)
        raise
    if (
        record is None
        or record.carrier != carrier
        or record.organization != (_organization(context) or record.organization)
    ):
        if event.stream_failed:  # a failed handshake leaves no session (docs/reference/carriers.md §2.4)
            line.warning("stream failed", event_of_stream=event.stream_event, words=event.detail)
        else:
            line.info("callback for no call", call_id=event.call_id, event_of_stream=event.stream_event)
        raise CallEnded(Reasons.not_found, "no such call is known here")
    is_over = await _record_event(context, record, event, line)
    if event.call_id is not None and _has_no_agent(record, event):
        # After the answer: the carrier waits for that no longer than two seconds
        # (docs/reference/carriers.md §3.4).
        return Response(status_code=200, background=BackgroundTask(_hang_up, context, record, event.call_id))
    if is_over or (event.stream_failed and awaits_stream(record)):
        return Response(
            status_code=200, background=BackgroundTask(_send_carrier_ended, context, record, line)
        )
    return Response(status_code=200)


async def _record_event(
    context: Context, record: SessionRecord, event: CallbackEvent, line: structlog.stdlib.BoundLogger
) -> bool:
    """Store the event. Return True if it is the first to end a call whose session is still active."""
    call_log, session_id = context.services.calls.call_log, record.session_id
    known = (await call_log.of(session_id)).call_id or record.call_id
    if known is not None and event.call_id is not None and event.call_id != known:
        line.info("callback for another call", call_id=event.call_id)
        raise CallEnded(Reasons.not_found, "no such call is known here")
    if known is None and event.call_id is not None:
        await call_log.record_details(session_id, carrier=record.carrier, call_id=event.call_id)
    line = line.bind(call_id=event.call_id, over=record.state in TERMINAL)
    if event.stream_event is not None:
        write = line.warning if event.stream_failed else line.info
        write("stream", event_of_stream=event.stream_event, words=event.detail)
    if event.status is None:
        if event.stream_event is None:
            line.info("callback says nothing")
        return False
    now = context.services.calls.now()
    is_plausible = event.at is not None and now - MAX_AGE_S <= event.at <= now + CLOCK_SLACK_S
    changed = await call_log.record_status(
        session_id, event.status, event.sequence, event.at if is_plausible else None, detail=event.detail
    )
    if (
        changed
        and event.status.final
        and record.active
        and await call_log.document_of(session_id) is not None
    ):
        # The transferred call is over: its agent (control.py) need not wait any longer.
        await context.services.calls.commands.stop(session_id)
    line.info("call moved" if changed else "callback is late", status=str(event.status), words=event.detail)
    return changed and event.status.final and record.active


def _has_no_agent(record: SessionRecord, event: CallbackEvent) -> bool:
    """Return True if the call runs with neither an agent nor a document: its gateway died or gave it up.

    The callee would hear silence until the carrier's time limit.
    """
    is_lost = record.state in TERMINAL and (
        record.state is not SessionState.ENDED or record.stream_id is None
    )
    return is_lost and not event.has_document and (event.status is CallStatus.ANSWERED or event.stream_ended)


async def _send_carrier_ended(
    context: Context, record: SessionRecord, line: structlog.stdlib.BoundLogger
) -> None:
    """Tell the call's worker not to wait for another stream (carrier_reconnect.py), or for its first."""
    try:
        await context.services.calls.commands.send(record.session_id, CallCommand.CARRIER_ENDED)
    except StoreFailed as error:
        line.warning("store", error=str(error))


async def _hang_up(context: Context, record: SessionRecord, call_id: str) -> None:
    """Hang up an abandoned call through the carrier. A failure is logged, not raised."""
    calls, session_id, carrier = context.services.calls, record.session_id, record.carrier
    line = log.bind(carrier=carrier, session=session_id, call_id=call_id)
    try:
        account = (await calls.call_log.of(session_id)).account
        rest = calls.clients.first(calls.accounts.of(record.organization, carrier), account)
        if rest is None or "hangup" in rest.unsupported:
            return
        await rest.hang_up(call_id)
    except StoreFailed as error:
        line.warning("not hung up", words=str(error))
    except CarrierFailed as failure:
        line.warning("not hung up", kind=failure.kind, words=failure.detail)
    else:
        line.info("hung up", words="nobody was left to talk to")


def _organization(context: Context) -> str | None:
    """Return the organisation that the URL names; None if it names none, several or an unknown one."""
    given = [value for name, value in read_query(context) if name == "org"]
    known = {organization.name for organization in context.services.calls.settings.organizations}
    return given[0] if len(given) == 1 and given[0] in known else None


async def read_event(
    context: Context, carrier: str, read_callback: CallbackReader, *, is_for_stream: bool
) -> CallbackEvent:
    """Return the event in a callback. Raises CallEnded (bad_request)."""
    content_type = context.request.headers.get("Content-Type", "")
    if context.raw_body and media_type(content_type) == JSON:
        try:
            document = parse(context.raw_body)
            if document is None:  # in a CallbackRequest it means that there is none
                raise ValueError("the JSON is null")
            return read_callback(CallbackRequest(document=document, is_for_stream=is_for_stream))
        except (JsonError, ValueError) as error:
            raise CallEnded(Reasons.bad_request, str(error)) from None
    pairs = await read_fields(context, carrier) if context.request.method == "POST" else read_query(context)
    fields: dict[str, str] = {}
    for name, value in pairs:
        if fields.setdefault(name, value) != value:
            raise CallEnded(Reasons.bad_request, "a field is given twice, and says two things")
    return read_callback(CallbackRequest(fields, is_for_stream=is_for_stream))


def _operation(method: str) -> Operation:
    return Operation(
        method=method,
        path="/callbacks/{carrier}/{session_id}/{what}",
        handler=callback,
        access=Access.NONE,
        style=Style.PCC,
        summary="What a carrier tells of a call",
        tag="Carriers",
        reads_raw=True,
        max_body_bytes=MAX_BODY_BYTES,
        in_schema=False,
    )


CALLBACKS: Final = (_operation("GET"), _operation("POST"))
