# SPDX-License-Identifier: BSD-2-Clause
"""Status callbacks of incoming calls: `/callbacks/{carrier}`, with the query of the call's document.

The operator enters the URL at the carrier, beside that of the document. A call that is over before its stream
has come gives back the slot that its document took (gateway/calls/awaited_streams.py), in place of keeping it
until the stream is overdue. Nothing else depends on it: what it says of any other call is not used.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.background import BackgroundTask
from starlette.responses import Response

from gateway.api.framework.operation import MAX_BODY_BYTES, Access, Context, Operation, Style
from gateway.api.webhooks.carrier_request import (
    authenticate_any,
    authenticate_request,
    read_document_request,
)
from gateway.api.webhooks.status_callbacks import read_event
from gateway.calls.command_bus import CallCommand
from gateway.carriers.registry import CARRIERS, WITH_DOCUMENTS
from gateway.model.reasons import CallEnded, Reasons
from gateway.observability.log import log_at
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

_WHAT: Final = "incoming"


async def incoming_callback(context: Context) -> Response:
    """Handle one callback. Only an authenticated one has an effect."""
    calls, carrier = context.services.calls, context.path["carrier"]
    read_callback = CARRIERS[carrier].read_callback if carrier in WITH_DOCUMENTS else None
    if read_callback is None:
        raise CallEnded(Reasons.not_found, "nothing of this kind is called back")
    line = log.bind(carrier=carrier, what=_WHAT)
    try:
        request = await read_document_request(context, carrier, calls.settings.limits.max_body_bytes)
        organization = request.organization
        if organization is None:
            organization = _organization(context, request.call.to_number)
        account = None
        if organization is None:
            authenticate_any(context, carrier)
        else:
            account = authenticate_request(context, carrier, organization)
        event = await read_event(context, carrier, read_callback, is_for_stream=False)
    except CallEnded as end:
        severity = end.reason.severity(ran=False)
        log_at(line, severity, "callback refused", reason=end.reason.code, words=end.detail)
        raise
    if organization is None or account is None or event.call_id is None:
        return Response(status_code=200)
    if event.status is None or not event.status.final:
        return Response(status_code=200)
    session_id = await calls.awaited.find(organization, carrier, event.call_id)
    if session_id is None:
        return Response(status_code=200)
    line.info("call moved", session=session_id, call_id=event.call_id, status=str(event.status))
    return Response(status_code=200, background=BackgroundTask(_send_carrier_ended, context, session_id))


def _organization(context: Context, number: str | None) -> str | None:
    """Return the organisation of the agent that the called number is configured for, or None."""
    try:
        return context.services.calls.agents.called(number, None).organization
    except CallEnded:
        return None


async def _send_carrier_ended(context: Context, session_id: str) -> None:
    try:
        await context.services.calls.commands.send(session_id, CallCommand.CARRIER_ENDED)
    except StoreFailed as error:
        log.warning("store", error=str(error))


def _operation(method: str) -> Operation:
    return Operation(
        method=method,
        path="/callbacks/{carrier}",
        handler=incoming_callback,
        access=Access.NONE,
        style=Style.PCC,
        summary="What a carrier tells of an incoming call",
        tag="Carriers",
        reads_raw=True,
        max_body_bytes=MAX_BODY_BYTES,
        in_schema=False,
    )


INCOMING_CALLBACKS: Final = (_operation("GET"), _operation("POST"))
