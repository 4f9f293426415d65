# SPDX-License-Identifier: BSD-2-Clause
"""What carriers tell of a call or of its stream, read into one shape.

docs/reference/carriers.md §2.4, §2.6, §3.4, §4.4, §5.3. Pure. Reading is loose: names and words differ
between a carrier's own pages, and what is not understood moves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from gateway.carriers.call_log import CallStatus

MAX_DETAIL: Final = 200
"""Characters of a carrier's own words that are kept."""
MAX_ID: Final = 256

_WORDS: Final[Mapping[str, CallStatus]] = {
    "queued": CallStatus.QUEUED,
    "initiated": CallStatus.QUEUED,
    "ringing": CallStatus.RINGING,
    "in-progress": CallStatus.ANSWERED,
    "answered": CallStatus.ANSWERED,
    "completed": CallStatus.COMPLETED,
    "busy": CallStatus.BUSY,
    "no-answer": CallStatus.NO_ANSWER,
    "timeout": CallStatus.NO_ANSWER,  # Plivo's
    "failed": CallStatus.FAILED,
    "canceled": CallStatus.CANCELED,
    "cancel": CallStatus.CANCELED,
}
_TELNYX_EVENTS: Final[Mapping[str, CallStatus]] = {
    "call.initiated": CallStatus.QUEUED,
    "call.ringing": CallStatus.RINGING,
    "call.answered": CallStatus.ANSWERED,
    "call.bridged": CallStatus.ANSWERED,
}
_TELNYX_CAUSES: Final[Mapping[str, CallStatus]] = {
    "normal_clearing": CallStatus.COMPLETED,
    "time_limit": CallStatus.COMPLETED,
    "user_busy": CallStatus.BUSY,
    "timeout": CallStatus.NO_ANSWER,
    "no_answer": CallStatus.NO_ANSWER,
    "originator_cancel": CallStatus.CANCELED,
}
"""Of `call.hangup`; every other cause is a failure."""

_STREAM_ERRORS: Final = frozenset({"stream-error", "stream-failed", "failed", "streaming.failed"})
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class CallbackEvent:
    """What one callback says. None: nothing of it.

    `at`: Unix seconds. `detail`: the carrier's own words, printable. `stream_event`: of the stream, in the
    carrier's word; `stream_failed`: whether that is that it could not be opened, or broke, `stream_over`:
    whether there is none any more. `has_document`: whether a document says how the call goes on without its
    stream.
    """

    call_id: str | None = None
    status: CallStatus | None = None
    sequence: int | None = None
    at: float | None = None
    detail: str | None = None
    stream_event: str | None = None
    stream_failed: bool = False
    stream_over: bool = False
    has_document: bool = True


def read_fields(fields: Mapping[str, str], *, of_stream: bool) -> CallbackEvent:
    """A form's fields, from any carrier. `of_stream`: whether they were asked for the stream's sake."""
    call_id = fields.get("CallSid") or fields.get("CallUUID")
    sequence = fields.get("SequenceNumber", "")
    event = fields.get("StreamEvent") or (fields.get("Event") if of_stream else None)
    reason = fields.get("StreamError") or fields.get("StatusReason")
    causes = ("HangupCauseName", "SipResponseCode", "StatusReason", "DisconnectedBy")
    detail = reason if event else next((fields[name] for name in causes if fields.get(name)), None)
    return CallbackEvent(
        call_id=call_id if call_id and len(call_id) <= MAX_ID else None,
        status=None if of_stream or event else _status(fields),
        sequence=int(sequence) if _WHOLE_NUMBER.fullmatch(sequence) else None,
        at=_time(fields.get("Timestamp")),
        detail=_printable(detail),
        stream_event=_printable(event),
        stream_failed=event in _STREAM_ERRORS or bool(fields.get("StreamError")),
    )


def read_event(event: Any) -> CallbackEvent:
    """Telnyx's Call Control envelope, parsed from JSON. Raises ValueError where it is none."""
    data = event.get("data") if isinstance(event, dict) else None
    data = data if isinstance(data, dict) else {}
    payload, name = data.get("payload"), data.get("event_type")
    if not isinstance(payload, dict) or not isinstance(name, str):
        raise ValueError("it is no event of Call Control: data.event_type and data.payload are missing")
    call_id = payload.get("call_control_id")
    status = _TELNYX_EVENTS.get(name)
    detail = None
    if name == "call.hangup":
        cause = payload.get("hangup_cause")
        status = (
            _TELNYX_CAUSES.get(cause, CallStatus.FAILED) if isinstance(cause, str) else CallStatus.COMPLETED
        )
        detail = cause
    elif name.startswith("call.machine.") and str(payload.get("result", "")).startswith("machine"):
        status = CallStatus.MACHINE
    is_stream = name.startswith("streaming.")
    return CallbackEvent(
        call_id=call_id if isinstance(call_id, str) and call_id and len(call_id) <= MAX_ID else None,
        status=status,
        at=_time(data.get("occurred_at")),
        detail=_printable(payload.get("failure_reason") if is_stream else detail),
        stream_event=_printable(name) if is_stream else None,
        stream_failed=name in _STREAM_ERRORS,
        stream_over=name in ("streaming.stopped", "streaming.failed"),
        has_document=False,
    )


def _status(fields: Mapping[str, str]) -> CallStatus | None:
    """Exotel says `EventType` beside a `Status`; Twilio and Plivo have fields of their own for a machine."""
    answered_by = fields.get("AnsweredBy", "")
    if answered_by.startswith("machine") or answered_by == "fax" or fields.get("Machine") == "true":
        return CallStatus.MACHINE
    event = fields.get("EventType", "")
    if event in ("answered", "ringing"):
        return _WORDS[event]
    return _WORDS.get((fields.get("CallStatus") or fields.get("Status") or "").lower())


def _time(text: object) -> float | None:
    """RFC 3339 (Telnyx), RFC 2822 (Twilio), or nothing that could be relied on."""
    if not isinstance(text, str):
        return None
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
    try:
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except OverflowError:
        return None


def _printable(text: object) -> str | None:
    return _UNPRINTABLE.sub("?", text[:MAX_DETAIL]) if isinstance(text, str) and text else None
