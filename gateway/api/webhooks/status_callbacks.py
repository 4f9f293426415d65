# SPDX-License-Identifier: BSD-2-Clause
"""What carriers tell of calls: `/callbacks/{carrier}/{session_id}/{what}`.

Callbacks come late, twice, out of order, and to any worker; each has its answer and one log line, and moves
the call once (`CallLog.record_status`). One that is not proven is 403 before anything is looked at but whose
it is.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.background import BackgroundTask
from starlette.responses import Response

from gateway.api.framework.operation import Access, Context, Operation, Style
from gateway.api.framework.strict_json import JsonError, parse
from gateway.api.webhooks.carrier_request import (
    authenticate_any,
    authenticate_request,
    read_fields,
    read_query,
)
from gateway.calls.command_bus import CallCommand
from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import CallbackEvent, CallbackRequest
from gateway.carriers.carrier import CallbackReader
from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

MAX_CALLBACK_BYTES: Final = 65_536
CLOCK_SLACK_S: Final = 60.0
OLDEST_S: Final = 86_400.0
"""What a carrier says of its own time is believed within these."""

_STREAM: Final = "stream"
_WHATS: Final = (_STREAM, "status", "ring", "hangup", "machine")
"""What callbacks are asked for: of the stream (answers.py), of a call out (the carriers' REST modules)."""


async def callback(context: Context) -> Response:
    """Takes one callback."""
    carrier, session_id, what = (context.path[name] for name in ("carrier", "session_id", "what"))
    read_callback = CARRIERS[carrier].read_callback if carrier in CARRIERS else None
    if read_callback is None or what not in _WHATS:
        raise CallEnded(Reasons.not_found, "nothing of this kind is called back")
    record = await context.services.store.session(session_id)
    organization = record.organization if record is not None else _organization(context)
    line = log.bind(carrier=carrier, session=session_id, what=what)
    try:
        if organization is not None:
            authenticate_request(context, carrier, organization)
        else:
            authenticate_any(context, carrier)
        told = _read(context, read_callback, is_for_stream=what == _STREAM)
    except CallEnded as end:
        line.info("callback refused", reason=end.reason.code, words=end.detail)
        raise
    if (
        record is None
        or record.carrier != carrier
        or record.organization != (_organization(context) or record.organization)
    ):
        if told.stream_failed:  # a handshake that failed leaves no session (docs/reference/carriers.md §2.4)
            line.warning("stream failed", event_of_stream=told.stream_event, words=told.detail)
        else:
            line.info("callback for no call", call_id=told.call_id, event_of_stream=told.stream_event)
        raise CallEnded(Reasons.not_found, "no such call is known here")
    over = await _take(context, record, told, line)
    if told.call_id is not None and _is_left_alone(record, told):
        # Once the carrier has its answer: it waits for that no longer than two seconds
        # (docs/reference/carriers.md §3.4).
        return Response(status_code=200, background=BackgroundTask(_hang_up, context, record, told.call_id))
    if over:
        return Response(status_code=200, background=BackgroundTask(_tell_over, context, record, line))
    return Response(status_code=200)


async def _take(
    context: Context, record: SessionRecord, told: CallbackEvent, line: structlog.stdlib.BoundLogger
) -> bool:
    """Whether the carrier says for the first time that a call is over whose session is not."""
    book, session_id = context.services.calls.call_log, record.session_id
    known = (await book.of(session_id)).call_id or record.call_id
    if known is not None and told.call_id is not None and told.call_id != known:
        line.info("callback for another call", call_id=told.call_id)
        raise CallEnded(Reasons.not_found, "no such call is known here")
    if known is None and told.call_id is not None:
        await book.record_details(session_id, carrier=record.carrier, call_id=told.call_id)
    line = line.bind(call_id=told.call_id, over=record.state in TERMINAL)
    if told.stream_event is not None:
        say = line.warning if told.stream_failed else line.info
        say("stream", event_of_stream=told.stream_event, words=told.detail)
    if told.status is None:
        if told.stream_event is None:
            line.info("callback says nothing")
        return False
    now = context.services.now()
    believed = told.at is not None and now - OLDEST_S <= told.at <= now + CLOCK_SLACK_S
    moved = await book.record_status(
        session_id, told.status, told.sequence, told.at if believed else None, detail=told.detail
    )
    if moved and told.status.final and record.active and await book.document_of(session_id) is not None:
        # It was transferred, and is over there: an agent that was kept (control.py) may go.
        await context.services.store.request_stop(session_id, now)
    line.info("call moved" if moved else "callback is late", status=str(told.status), words=told.detail)
    return moved and told.status.final and record.active


def _is_left_alone(record: SessionRecord, told: CallbackEvent) -> bool:
    """Whether a call runs that has neither an agent nor a document: its gateway died, or gave it up.

    Whoever answered it would hear nothing until the carrier's longest time is over.
    """
    lost = record.state in TERMINAL and (record.state is not SessionState.ENDED or record.stream_id is None)
    return lost and not told.has_document and (told.status is CallStatus.ANSWERED or told.stream_ended)


async def _tell_over(context: Context, record: SessionRecord, line: structlog.stdlib.BoundLogger) -> None:
    """Nobody waits for another socket of a call that is over (reconnect.py)."""
    try:
        await context.services.calls.commands.send(record.session_id, CallCommand.CARRIER_ENDED)
    except StoreFailed as error:
        line.warning("store", error=str(error))


async def _hang_up(context: Context, record: SessionRecord, call_id: str) -> None:
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
    """The organisation that the URL names, where there is one of this name."""
    given = [value for name, value in read_query(context) if name == "org"]
    known = {organization.name for organization in context.services.settings.organizations}
    return given[0] if len(given) == 1 and given[0] in known else None


def _read(context: Context, read_callback: CallbackReader, *, is_for_stream: bool) -> CallbackEvent:
    """Read the callback. Raises CallEnded(bad_request)."""
    content_type = context.request.headers.get("Content-Type", "")
    if context.raw_body and content_type.partition(";")[0].strip().lower() == "application/json":
        try:
            request = CallbackRequest(document=parse(context.raw_body), is_for_stream=is_for_stream)
            return read_callback(request)
        except (JsonError, ValueError) as error:
            raise CallEnded(Reasons.bad_request, str(error)) from None
    pairs = read_fields(context) if context.request.method == "POST" else read_query(context)
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
        max_body_bytes=MAX_CALLBACK_BYTES,
        in_schema=False,
    )


CALLBACKS: Final = (_operation("GET"), _operation("POST"))
