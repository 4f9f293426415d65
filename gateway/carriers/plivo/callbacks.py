# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's status callbacks, for calls and for streams (docs/reference/carriers.md §4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import (
    COMMON_STATUSES,
    CallbackEvent,
    CallbackRequest,
    first_of,
    form_fields,
    read_call_id,
    read_detail,
    read_time,
)

STREAM_FAILED: Final = "failed"

_STATUSES: Final[Mapping[str, CallStatus]] = {
    **COMMON_STATUSES,
    "timeout": CallStatus.NO_ANSWER,
    "cancel": CallStatus.CANCELED,
}


def read_callback(request: CallbackRequest) -> CallbackEvent:
    """Read a callback. Raises ValueError if its body is JSON."""
    fields = form_fields(request)
    # Callbacks for a call have an `Event` too, such as `Ring` or `Hangup`; that is none of the stream's.
    event = first_of(fields, "Event") if request.is_for_stream else None
    detail = (
        first_of(fields, "StatusReason") if event else first_of(fields, "HangupCauseName", "StatusReason")
    )
    return CallbackEvent(
        call_id=read_call_id(fields.get("CallUUID")),
        status=None if request.is_for_stream else _status(fields),
        at=read_time(fields.get("Timestamp")),
        detail=read_detail(detail),
        stream_event=read_detail(event),
        stream_failed=event == STREAM_FAILED,
    )


def _status(fields: Mapping[str, str]) -> CallStatus | None:
    if fields.get("Machine") == "true":
        return CallStatus.MACHINE
    return _STATUSES.get(fields.get("CallStatus", "").lower())
