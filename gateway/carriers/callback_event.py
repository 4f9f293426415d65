# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's status callback: the request, the event it reports, and the readers that carriers share.

docs/reference/carriers.md §2.4, §2.6, §3.4, §4.4, §5.3. Pure. Reading is lenient: a carrier's own pages
differ in names and words, so an unknown word changes no status, and a field that cannot be read counts as
absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Final

from gateway.carriers.call_log import CallStatus

MAX_DETAIL: Final = 200
"""Characters of a carrier's explanation that are stored."""
MAX_ID: Final = 256
"""Characters of the longest call id that is accepted."""

COMMON_STATUSES: Final[Mapping[str, CallStatus]] = MappingProxyType(
    {
        "queued": CallStatus.QUEUED,
        "initiated": CallStatus.QUEUED,
        "ringing": CallStatus.RINGING,
        "in-progress": CallStatus.ANSWERED,
        "answered": CallStatus.ANSWERED,
        "completed": CallStatus.COMPLETED,
        "busy": CallStatus.BUSY,
        "no-answer": CallStatus.NO_ANSWER,
        "failed": CallStatus.FAILED,
        "canceled": CallStatus.CANCELED,
    }
)
"""Twilio's words for a call's status, which other carriers have taken over."""

_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class CallbackRequest:
    """The content of one callback request, after its authentication.

    `fields`: of a form or a query. `document`: the parsed body if that is JSON, else None; then there are no
    fields. `is_for_stream`: whether the callback was requested for a media stream, not for a call.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    document: Any = None
    is_for_stream: bool = False


@dataclass(frozen=True, slots=True)
class CallbackEvent:
    """The content of one callback. None means that the callback does not contain it.

    `at`: the carrier's time of the event in Unix seconds. `detail`: the carrier's explanation, printable.
    `stream_event`: the carrier's name of an event of the stream. `stream_failed`: whether the stream could
    not be opened, or broke. `stream_ended`: whether the stream has ended for good. `has_document`: whether a
    document tells the carrier how the call goes on without its stream. `key`: what was pressed after an
    announcement, "" for nothing.
    """

    call_id: str | None = None
    status: CallStatus | None = None
    sequence: int | None = None
    at: float | None = None
    detail: str | None = None
    stream_event: str | None = None
    stream_failed: bool = False
    stream_ended: bool = False
    has_document: bool = True
    key: str | None = None


STREAM_FAILURES: Final = frozenset({"stream-error", "stream-failed"})
"""`StreamEvent` of a stream that could not be opened, or broke.

Telnyx's own pages have both spellings (§3.4).
"""


def read_twilio_form(fields: Mapping[str, str], *, is_for_stream: bool) -> CallbackEvent:
    """Read the form of a callback as Twilio sends it (§2.4, §2.6), and Telnyx for its TeXML (§3.4)."""
    event = first_of(fields, "StreamEvent")
    detail = first_of(fields, "StreamError") if event else first_of(fields, "SipResponseCode")
    return CallbackEvent(
        call_id=read_call_id(fields.get("CallSid")),
        status=None if is_for_stream or event else _twilio_status(fields),
        sequence=read_sequence(fields.get("SequenceNumber")),
        at=read_time(fields.get("Timestamp")),
        detail=read_detail(detail),
        stream_event=read_detail(event),
        stream_failed=event in STREAM_FAILURES or bool(fields.get("StreamError")),
    )


def _twilio_status(fields: Mapping[str, str]) -> CallStatus | None:
    answered_by = fields.get("AnsweredBy", "")
    if answered_by.startswith("machine") or answered_by == "fax":
        return CallStatus.MACHINE
    return COMMON_STATUSES.get(fields.get("CallStatus", "").lower())


def form_fields(request: CallbackRequest) -> Mapping[str, str]:
    """Return the fields of a callback. Raises ValueError if its body is JSON."""
    if request.document is not None:
        raise ValueError("the callback is JSON and not a form")
    return request.fields


def form_or_json_fields(request: CallbackRequest) -> Mapping[str, str]:
    """Return the fields of a callback that may be JSON in place of a form.

    Raises ValueError if the JSON is no object with fields.
    """
    return request.fields if request.document is None else json_fields(request.document)


def json_fields(document: object) -> dict[str, str]:
    """Return the texts, numbers and booleans of a JSON object as the fields of a form have them.

    Objects and arrays inside it are left out, as is null. Raises ValueError if none is left, or if the
    document is no object.
    """
    if not isinstance(document, dict):
        raise ValueError("the JSON is not an object")
    fields = {
        name: value if isinstance(value, str) else str(value).lower()
        for name, value in document.items()
        if isinstance(value, str | int | float)
    }
    if not fields:
        raise ValueError("the JSON has no fields")
    return fields


def first_of(fields: Mapping[str, str], *names: str) -> str | None:
    """Return the value of the first of the named fields that is present and not empty, else None."""
    return next((fields[name] for name in names if fields.get(name)), None)


def read_call_id(value: object) -> str | None:
    """Return a call id, or None if the value can be none."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ID else None


def read_sequence(text: str | None) -> int | None:
    """Return the carrier's sequence number of a callback, or None if there is none."""
    return int(text) if text and _WHOLE_NUMBER.fullmatch(text) else None


def read_time(text: object) -> float | None:
    """Return Unix seconds from a time as in RFC 3339 or RFC 2822, in UTC if it names no zone; else None."""
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


def read_detail(text: object) -> str | None:
    """Return the carrier's explanation, cut and printable, or None if there is none."""
    return _UNPRINTABLE.sub("?", text[:MAX_DETAIL]) if isinstance(text, str) and text else None
