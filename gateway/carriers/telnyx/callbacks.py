# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's callbacks: events of Call Control in JSON, and forms of TeXML (docs/reference/carriers.md §3.4,
§3.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import (
    CallbackEvent,
    CallbackRequest,
    json_fields,
    read_call_id,
    read_detail,
    read_time,
    read_twilio_form,
)

_STATUS_BY_EVENT: Final[Mapping[str, CallStatus]] = {
    "call.initiated": CallStatus.QUEUED,
    "call.ringing": CallStatus.RINGING,
    "call.answered": CallStatus.ANSWERED,
    "call.bridged": CallStatus.ANSWERED,
}
_STATUS_BY_CAUSE: Final[Mapping[str, CallStatus]] = {
    "normal_clearing": CallStatus.COMPLETED,
    "time_limit": CallStatus.COMPLETED,
    "user_busy": CallStatus.BUSY,
    "timeout": CallStatus.NO_ANSWER,
    "no_answer": CallStatus.NO_ANSWER,
    "originator_cancel": CallStatus.CANCELED,
}
"""By `hangup_cause` of `call.hangup`. Every other cause is a failure."""

STREAM_ENDED: Final = "streaming.stopped"
STREAM_FAILED: Final = "streaming.failed"
GATHERED: Final = "call.gather.ended"


def read_callback(request: CallbackRequest) -> CallbackEvent:
    """Read a callback. Its fields may be those of TeXML in a form or in JSON, or an event of Call Control.

    Raises ValueError if its body is JSON, but neither.
    """
    if isinstance(request.document, dict) and "CallSid" in request.document:
        return read_twilio_form(json_fields(request.document), is_for_stream=request.is_for_stream)
    if request.document is None:
        return read_twilio_form(request.fields, is_for_stream=request.is_for_stream)
    return _read_event(request.document)


def _read_event(document: Any) -> CallbackEvent:
    data = document.get("data") if isinstance(document, dict) else None
    data = data if isinstance(data, dict) else {}
    payload, name = data.get("payload"), data.get("event_type")
    if not isinstance(payload, dict) or not isinstance(name, str):
        raise ValueError("it is no event of Call Control: data.event_type and data.payload are missing")
    is_stream = name.startswith("streaming.")
    status, detail = _status(name, payload)
    return CallbackEvent(
        call_id=read_call_id(payload.get("call_control_id")),
        status=status,
        at=read_time(data.get("occurred_at")),
        detail=read_detail(payload.get("failure_reason") if is_stream else detail),
        stream_event=read_detail(name) if is_stream else None,
        stream_failed=name == STREAM_FAILED,
        stream_ended=name in (STREAM_ENDED, STREAM_FAILED),
        # A call that was dialed with Call Control has no document: without its stream it stays silent.
        has_document=False,
        key=str(payload.get("digits") or "") if name == GATHERED else None,
    )


def _status(event: str, payload: Mapping[str, Any]) -> tuple[CallStatus | None, object]:
    """Return the status that an event stands for, None if it is another kind of event, and the cause."""
    if event == "call.hangup":
        cause = payload.get("hangup_cause")
        if not isinstance(cause, str):
            return CallStatus.COMPLETED, cause
        return _STATUS_BY_CAUSE.get(cause, CallStatus.FAILED), cause
    if event.startswith("call.machine.") and str(payload.get("result", "")).startswith("machine"):
        return CallStatus.MACHINE, None
    return _STATUS_BY_EVENT.get(event), None
