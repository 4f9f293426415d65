# SPDX-License-Identifier: BSD-2-Clause
"""A session as the store knows it, put as the session resource shows it."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter

from gateway.api.framework.timestamps import rfc3339, rfc3339_or_none
from gateway.api.sessions.session_models import (
    CallView,
    Failure,
    ReportedEntry,
    Session,
    SessionSummary,
    Status,
    TransportView,
    Usage,
)
from gateway.carriers.call_log import CallState
from gateway.model.lifecycle import SessionState
from gateway.model.session import SessionRecord

REDACTED: Final = "[redacted]"

_TRANSCRIPT: Final = TypeAdapter(list[ReportedEntry])
TELEPHONY: Final = "telephony"


def status_of(record: SessionRecord) -> Status:
    """The store writes no `ending`: it is a session that was asked to stop and has not."""
    if record.active and record.stop_requested_at is not None:
        return Status.ENDING
    return Status(record.state)


def summary(record: SessionRecord, now: float) -> SessionSummary:
    """What is shown in lists. `now`: Unix seconds."""
    return SessionSummary(**_common(record, now))


def view(
    record: SessionRecord,
    now: float,
    transport: TransportView | None = None,
    call: CallState | None = None,
) -> Session:
    """All of a session. `transport`: with its secrets, for who started it. `call`: of a telephone call."""
    common = _common(record, now)
    if transport is not None:
        common["transport"] = transport
    return Session(
        **common,
        call=None if call is None else _call(record, call),
        reported_seconds=record.reported_seconds,
        transcript=None if record.transcript is None else _TRANSCRIPT.validate_json(record.transcript),
        results=_value(record.results),
    )


def _common(record: SessionRecord, now: float) -> dict[str, Any]:
    failed = record.state is SessionState.FAILED
    return {
        "id": record.session_id,
        "agent": record.agent,
        "status": status_of(record),
        "created_at": rfc3339(record.created_at),
        "started_at": rfc3339_or_none(record.started_at),
        "first_audio_at": rfc3339_or_none(record.first_agent_sound_at),
        "ended_at": rfc3339_or_none(record.ended_at),
        "failed_at": rfc3339_or_none(record.ended_at if failed else None),
        "completed_at": rfc3339_or_none(record.completed_at),
        "end_reason": record.reason,
        "failure": Failure(code=record.reason or "", message=record.detail or "") if failed else None,
        "usage": _usage(record, now),
        "transport": _redacted(record),
        "idle_timeout_seconds": record.idle_timeout,
        "max_duration_seconds": record.max_duration,
        "metadata": _value(record.metadata),
    }


def _usage(record: SessionRecord, now: float) -> Usage:
    seconds = 0.0
    if record.started_at is not None:
        until = now if record.ended_at is None else record.ended_at
        seconds = round(max(0.0, until - record.started_at), 3)
    return Usage(seconds=seconds, frames_in=record.frames_in, frames_out=record.frames_out)


def _call(record: SessionRecord, call: CallState) -> CallView:
    return CallView(
        id=record.call_id or call.call_id,
        status=None if call.status is None else str(call.status),
        answered_at=rfc3339_or_none(call.answered_at),
    )


def _redacted(record: SessionRecord) -> TransportView:
    """What opens a room or a socket was told to who started the session; its record does not have it."""
    if record.transport == TELEPHONY:
        return TransportView(type=TELEPHONY, carrier=record.carrier)
    if record.transport == "websocket":
        until = rfc3339_or_none(record.promised_until)
        return TransportView(type="websocket", url=REDACTED, token=REDACTED, expires_at=until)
    if record.transport == "daily":
        return TransportView(type="daily", url=REDACTED, token=REDACTED)
    return TransportView(type=record.transport)


def _value(text: str | None) -> JsonValue:
    """JSON text of ours, read."""
    if text is None:
        return None
    value: JsonValue = json.loads(text)
    return value
