# SPDX-License-Identifier: BSD-2-Clause
"""An agent's sessions as Pipecat Cloud's clients read them (public-api.md, "Management")."""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import Field, JsonValue

from gateway.api.agent_models import agent_id
from gateway.api.spelling import Told
from gateway.api.times import rfc3339_or_none
from gateway.errors import ENDINGS, Endings, Side
from gateway.sessions.lifecycle import State
from gateway.sessions.session import SessionRecord

EndState = Literal[
    "active",
    "completed",
    "ended_before_agent_start",
    "agent_start_timeout",
    "terminated",
    "agent_error",
    "unknown",
]
"""The words of `pipecatcloud` 1.4.0 for how a session went."""

WS_CONNECTION_CLOSED: Final = "WS_CONNECTION_CLOSED"
_SOCKETS: Final = ("telephony", "websocket")


class AgentSession(Told):
    """A session of an agent. Times end with a Z; null is "not yet" or "never"."""

    session_id: str
    service_id: str
    organization_id: str
    deployment_id: None = Field(default=None, description="A gateway deploys nothing.")
    created_at: str
    updated_at: str
    ended_at: str | None
    bot_start_seconds: float | None = Field(
        description="From the place that was taken to the agent that runs."
    )
    cold_start: bool | None = Field(description="Null where it is not known.")
    completion_status: str | None = Field(
        description="`HTTP_COMPLETED`, `HTTP_ERROR`, `WS_CONNECTION_CLOSED`, or an HTTP status such as `504`."
    )
    end_state: EndState | None = Field(description="Null of a session that waits for its socket.")
    metadata: JsonValue = Field(default=None, description="The client's own, as it was given.")


class AgentSessionsAnswer(Told):
    """A page of sessions, the newest first."""

    total_count: int = Field(alias="total_count", description="How many match, on all pages.")
    sessions: list[AgentSession]


class SessionEvent(Told):
    """A step in a session's life."""

    event_code: Literal["SESSION_START_INITIATED", "REQUEST_ARRIVED_AT_BOT", "SESSION_COMPLETED"]
    event_ts: str


class AgentSessionDetail(AgentSession):
    """A session of an agent, with its steps."""

    resource_metrics: None = Field(default=None, description="A gateway does not see the agent's machine.")
    meeting_ids: list[str] = Field(default_factory=list, description="Always empty.")
    events: list[SessionEvent]


class StopAnswer(Told):
    """The session is being ended."""

    status: Literal["terminated"] = "terminated"
    session_id: str = Field(alias="session_id")


def bot_start_seconds(record: SessionRecord) -> float | None:
    """From the place that was taken to the agent that runs, in seconds; None where it does not."""
    if record.started_at is None or record.admitted_at is None:
        return None
    return round(max(0.0, record.started_at - record.admitted_at), 3)


def completion_status(record: SessionRecord) -> str | None:
    """How the agent's request or socket ended; None where it did not, or never was."""
    if record.completion_status is not None or record.ended_at is None:
        return record.completion_status
    ending = ENDINGS.get(record.reason or "")
    if record.state is State.FAILED and ending is not None and ending.status is not None:
        return str(ending.status)
    return WS_CONNECTION_CLOSED if record.transport in _SOCKETS and record.started_at is not None else None


def end_state(record: SessionRecord) -> EndState | None:
    """How the session went, in the CLI's words."""
    if record.ended_at is None:
        return "active" if record.active else None
    if record.reason == Endings.stopped.code:
        return "terminated"
    if record.state is State.ENDED:
        return "completed"
    if record.state is State.CANCELED:
        return "ended_before_agent_start"
    if record.reason == Endings.agent_start_timeout.code:
        return "agent_start_timeout"
    return "agent_error" if record.side is Side.AGENT else "unknown"


def _fields(record: SessionRecord) -> dict[str, object]:
    latest = max(
        at
        for at in (
            record.created_at,
            record.admitted_at,
            record.started_at,
            record.completed_at,
            record.ended_at,
        )
        if at is not None
    )
    return {
        "session_id": record.session_id,
        "service_id": agent_id(record.agent),
        "organization_id": record.organization,
        "created_at": rfc3339_or_none(record.created_at),
        "updated_at": rfc3339_or_none(latest),
        "ended_at": rfc3339_or_none(record.ended_at),
        "bot_start_seconds": bot_start_seconds(record),
        "cold_start": None if record.start_type is None else record.start_type == "cold",
        "completion_status": completion_status(record),
        "end_state": end_state(record),
        "metadata": None if record.metadata is None else json.loads(record.metadata),
    }


def in_list(record: SessionRecord) -> AgentSession:
    """A session in a list."""
    return AgentSession.model_validate(_fields(record))


def in_detail(record: SessionRecord) -> AgentSessionDetail:
    """One session."""
    steps = (
        ("SESSION_START_INITIATED", record.created_at),
        ("REQUEST_ARRIVED_AT_BOT", record.started_at),
        ("SESSION_COMPLETED", record.ended_at),
    )
    events = [{"event_code": code, "event_ts": rfc3339_or_none(at)} for code, at in steps if at is not None]
    return AgentSessionDetail.model_validate({**_fields(record), "events": events})
