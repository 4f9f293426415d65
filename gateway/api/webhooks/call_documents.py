# SPDX-License-Identifier: BSD-2-Clause
"""Documents that carriers fetch during a call.

Carriers that accept no document in a REST request (Plivo, docs/reference/carriers.md §4.5) fetch
`/callbacks/{carrier}/{session_id}/answer` when an outbound call is answered and `…/transfer` when a call is
transferred. All of them fetch `…/transferred` when the call that a transfer made is over.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from starlette.responses import Response

from gateway.api.framework.operation import MAX_BODY_BYTES, Access, Context, Operation, Style
from gateway.api.webhooks.carrier_request import (
    authenticate_any,
    authenticate_request,
    read_fields,
    read_query,
)
from gateway.auth.media_tokens import TOKEN_S
from gateway.calls.outbound.outbound_request import (
    OutboundStream,
    StreamTarget,
    make_stream_document,
    make_stream_url,
)
from gateway.carriers.call_log import CallStatus
from gateway.carriers.registry import CARRIERS, WITH_DOCUMENTS
from gateway.config import CarrierAccount
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord

_CALL_IDS: Final = ("CallSid", "CallUUID")

Handler = Callable[[Context], Coroutine[Any, Any, Response]]


async def answer(context: Context) -> Response:
    """Answer with the document that opens an outbound call's stream, or hangs up if its session is over."""
    record, call_id, account = await _call(context)
    calls, carrier, session_id = context.services.calls, record.carrier, record.session_id
    agent = calls.agents.find(record.agent)
    if agent is None or record.state is not SessionState.STARTING or record.stream_id is not None:
        return document_response(carrier, CARRIERS[carrier].documents.hangup())
    await calls.call_log.record_details(session_id, carrier=carrier, call_id=call_id)
    await calls.call_log.record_status(session_id, CallStatus.ANSWERED)
    unsigned_upgrade = account is not None and not account.signs_upgrades
    target = StreamTarget(agent, carrier, session_id, call_id, TOKEN_S, unsigned_upgrade)
    url = make_stream_url(calls, target)
    numbers = {"from_number": record.from_number, "to_number": record.to_number}
    body = await calls.call_log.body_of(session_id)
    return document_response(
        carrier, make_stream_document(calls, OutboundStream(agent, carrier, url, numbers, body))
    )


async def transfer(context: Context) -> Response:
    """Answer with the document of a requested transfer, or hang up if none was requested."""
    record, *_ = await _call(context)
    document = await context.services.calls.call_log.document_of(record.session_id)
    return document_response(record.carrier, document or CARRIERS[record.carrier].documents.hangup())


async def transferred(context: Context) -> Response:
    """End the session of a transferred call, whose agent may still be connected, and hang up."""
    record, *_ = await _call(context)
    services = context.services
    call_log = services.calls.call_log
    if await call_log.document_of(record.session_id) is not None:  # it was transferred
        await call_log.record_status(record.session_id, CallStatus.COMPLETED)
        await services.calls.commands.stop(record.session_id)
    return document_response(record.carrier, CARRIERS[record.carrier].documents.hangup())


async def _call(context: Context) -> tuple[SessionRecord, str | None, CarrierAccount | None]:
    """Return the session that the path names, the call's id, and the account that asks, if that is known.

    Raises:
        CallEnded: not_found, unauthorized or bad_request.
        StoreFailed: the store did not answer.
    """
    carrier = context.path["carrier"]
    if carrier not in WITH_DOCUMENTS:
        raise CallEnded(Reasons.not_found, "no such carrier is known here")
    record = await context.services.calls.store.session(context.path["session_id"])
    account = None
    if record is None:
        authenticate_any(context, carrier)
    else:
        account = authenticate_request(context, carrier, record.organization)
    fields = await read_fields(context, carrier) if context.request.method == "POST" else read_query(context)
    call_ids = {value for name, value in fields if name in _CALL_IDS and value}
    if len(call_ids) > 1:
        raise CallEnded(Reasons.bad_request, "a field is given twice, and says two things")
    call_id = call_ids.pop() if call_ids else None
    if record is None or record.carrier != carrier:
        raise CallEnded(Reasons.not_found, "no such call is known here")
    known = (await context.services.calls.call_log.of(record.session_id)).call_id or record.call_id
    if known is not None and call_id is not None and call_id != known:
        raise CallEnded(Reasons.not_found, "no such call is known here")
    return record, call_id or known, account


def document_response(carrier: str, text: str) -> Response:
    """Return an answer with a document of the carrier's."""
    return Response(text, media_type=CARRIERS[carrier].documents.content_type)


def _operations(action: str, handler: Handler, summary: str) -> list[Operation]:
    return [
        Operation(
            method=method,
            path=f"/callbacks/{{carrier}}/{{session_id}}/{action}",
            handler=handler,
            access=Access.NONE,
            style=Style.PCC,
            summary=summary,
            tag="Carriers",
            reads_raw=True,
            max_body_bytes=MAX_BODY_BYTES,
            in_schema=False,
        )
        for method in ("GET", "POST")
    ]


CALL_DOCUMENTS: Final = (
    *_operations("answer", answer, "What becomes of an answered call out"),
    *_operations("transfer", transfer, "Where a transferred call goes"),
    *_operations("transferred", transferred, "A transferred call is over"),
)
