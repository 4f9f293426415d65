# SPDX-License-Identifier: BSD-2-Clause
"""A stored session as the answers of the session resource show it (session_models.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.agents.instance_health import Health, InstanceHealth
from gateway.api.framework.passed_texts import stored_text, with_texts
from gateway.api.framework.strict_json import rfc3339, rfc3339_or_none
from gateway.api.sessions.session_models import (
    TELEPHONY,
    CallView,
    ConsultationView,
    Failure,
    Session,
    SessionSummary,
    Status,
    TransportView,
    Usage,
)
from gateway.calls.consultation.consultation_log import ConsultationRecord, Step
from gateway.carriers.call_log import CallState
from gateway.model.json_text import JsonText
from gateway.model.lifecycle import SessionState
from gateway.model.session import SessionRecord
from gateway.model.session_ids import ulid_of

REDACTED: Final = "[redacted]"

_NOT_THERE: Final = frozenset({Health.STARTING, Health.UNREACHABLE})
"""Instances that a start waits for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """This worker's view besides the store. `now`: Unix seconds."""

    now: float
    health: InstanceHealth


def status_of(record: SessionRecord, health: InstanceHealth) -> Status:
    """Return a session's status.

    `ending`: also that of an active session of which a stop was requested just now. `queued`: it waits for a
    slot, or has one on an instance that is not there yet.
    """
    if record.active and record.stop_requested_at is not None:
        return Status.ENDING
    if record.queued or _waits_for_instance(record, health):
        return Status.QUEUED
    return Status(record.state)


def _waits_for_instance(record: SessionRecord, health: InstanceHealth) -> bool:
    if record.state is not SessionState.STARTING or health.of(record.instance) not in _NOT_THERE:
        return False
    return record.transport != TELEPHONY or record.stream_id is not None  # the telephone does not ring


@dataclass(frozen=True, slots=True)
class CallReport:
    """The call of a session. `state`: of a telephone call. `heard_ms`: None for what the record has.

    `node`: the address of its machine.
    """

    state: CallState | None
    consultation: ConsultationRecord | None = None
    heard_ms: int | None = None
    node: str | None = None


def session_summary(record: SessionRecord, seen: Seen) -> JsonText:
    """Return a session as lists show it, a SessionSummary."""
    return with_texts(SessionSummary(**_shared_fields(record, seen)), _client_texts(record))


def session_view(
    record: SessionRecord,
    seen: Seen,
    transport: TransportView | None = None,
    call: CallReport | None = None,
) -> JsonText:
    """Return the whole session, a Session.

    `transport`: with secrets, for the answer to the start; `call`: its telephone call.
    """
    fields = _shared_fields(record, seen)
    if transport is not None:
        fields["transport"] = transport
    session = Session(
        **fields,
        call=None if call is None or call.state is None else _call(record, call.state),
        consultation=None if call is None or call.consultation is None else _consultation(call.consultation),
        heard_ms=record.heard_ms if call is None or call.heard_ms is None else call.heard_ms,
        node=None if call is None else call.node,
        reported_seconds=record.reported_seconds,
        transcript=None,
        results=None,
    )
    reported = {"transcript": stored_text(record.transcript), "results": stored_text(record.results)}
    return with_texts(session, {**_client_texts(record), **reported})


def _client_texts(record: SessionRecord) -> dict[str, JsonText | None]:
    """Return what the client sent and gets back: the text, which may be any JSON, is not parsed."""
    return {"metadata": stored_text(record.metadata)}


def _shared_fields(record: SessionRecord, seen: Seen) -> dict[str, Any]:
    failed = record.state is SessionState.FAILED
    return {
        "id": record.session_id,
        "ulid": ulid_of(record.session_id),
        "agent": record.agent,
        "status": status_of(record, seen.health),
        "created_at": rfc3339(record.created_at),
        "started_at": rfc3339_or_none(record.started_at),
        "first_audio_at": rfc3339_or_none(record.first_agent_sound_at),
        "ended_at": rfc3339_or_none(record.ended_at),
        "failed_at": rfc3339_or_none(record.ended_at if failed else None),
        "completed_at": rfc3339_or_none(record.completed_at),
        "ending_at": rfc3339_or_none(record.ending_at),
        "released_at": rfc3339_or_none(record.released_at),
        "released_by": record.released_by,
        "end_reason": record.reason,
        "failure": Failure(code=record.reason or "", message=record.detail or "") if failed else None,
        "usage": Usage(
            seconds=round(record.used_seconds(seen.now), 3),
            frames_in=record.frames_in,
            frames_out=record.frames_out,
        ),
        "transport": _redacted(record),
        "idle_timeout_seconds": record.idle_timeout,
        "max_duration_seconds": record.max_duration,
        "metadata": None,
    }


def _consultation(consultation: ConsultationRecord) -> ConsultationView:
    steps, call = consultation.steps, consultation.call
    result = steps.get(Step.ENDED)
    status = "ringing"
    if Step.MOVED in steps:
        status, result = "joined", "joined"
    elif result is not None:
        status = "ended"
    elif consultation.is_taken:
        status = "joining"
    elif call.status is not None and call.status.answered:
        status = "announcing"
    return ConsultationView(id=consultation.consultation_id, status=status, result=result)


def _call(record: SessionRecord, call: CallState) -> CallView:
    return CallView(
        id=record.call_id or call.call_id,
        status=None if call.status is None else str(call.status),
        answered_at=rfc3339_or_none(call.answered_at),
    )


def _redacted(record: SessionRecord) -> TransportView:
    """Return the transport without its secrets, which only the answer to the start has."""
    if record.transport == TELEPHONY:
        return TransportView(type=TELEPHONY, carrier=record.carrier)
    if record.transport == "websocket":
        until = rfc3339_or_none(record.promised_until)
        return TransportView(type="websocket", url=REDACTED, token=REDACTED, expires_at=until)
    if record.transport == "daily":
        return TransportView(type="daily", url=REDACTED, token=REDACTED)
    return TransportView(type=record.transport)
