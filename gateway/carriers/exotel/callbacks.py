# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's status callbacks, for calls out (docs/reference/carriers.md §5.3)."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.carriers.call_log import CallStatus
from gateway.carriers.callback_event import (
    COMMON_STATUSES,
    CallbackEvent,
    CallbackRequest,
    first_of,
    form_or_json_fields,
    read_call_id,
    read_detail,
    read_time,
)


def read_callback(request: CallbackRequest) -> CallbackEvent:
    """Read a callback, whose body may be JSON. Raises ValueError if that is no object with fields."""
    fields = form_or_json_fields(request)
    return CallbackEvent(
        call_id=read_call_id(fields.get("CallSid")),
        status=None if request.is_for_stream else _status(fields),
        at=read_time(fields.get("Timestamp")),
        detail=read_detail(first_of(fields, "StatusReason", "DisconnectedBy")),
    )


def _status(fields: Mapping[str, str]) -> CallStatus | None:
    """Return the call's status. `EventType` counts first: `Status` may still say that the call is queued."""
    event = fields.get("EventType", "")
    if event in ("answered", "ringing"):
        return COMMON_STATUSES[event]
    return COMMON_STATUSES.get((first_of(fields, "CallStatus", "Status") or "").lower())
