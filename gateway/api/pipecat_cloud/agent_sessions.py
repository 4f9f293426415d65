# SPDX-License-Identifier: BSD-2-Clause
"""An agent's sessions: list, one, stop (docs/reference/public-api.md, "Management")."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import Field, JsonValue

from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.framework.timestamps import rfc3339_or_none
from gateway.api.pipecat_cloud.agent_models import agent_id
from gateway.api.pipecat_cloud.agents import known_agent
from gateway.api.pipecat_cloud.conventions import ResponseModel, both, missing, refused
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import REASONS, Party, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import SessionFilter, Store

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


class AgentSession(ResponseModel):
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


class AgentSessionsAnswer(ResponseModel):
    """A page of sessions, the newest first."""

    total_count: int = Field(alias="total_count", description="How many match, on all pages.")
    sessions: list[AgentSession]


class SessionEvent(ResponseModel):
    """A step in a session's life."""

    event_code: Literal["SESSION_START_INITIATED", "REQUEST_ARRIVED_AT_BOT", "SESSION_COMPLETED"]
    event_ts: str


class AgentSessionDetail(AgentSession):
    """A session of an agent, with its steps."""

    resource_metrics: None = Field(default=None, description="A gateway does not see the agent's machine.")
    meeting_ids: list[str] = Field(default_factory=list, description="Always empty.")
    events: list[SessionEvent]


class StopAnswer(ResponseModel):
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
    reason = REASONS.get(record.reason or "")
    if record.state is SessionState.FAILED and reason is not None and reason.status is not None:
        return str(reason.status)
    return WS_CONNECTION_CLOSED if record.transport in _SOCKETS and record.started_at is not None else None


def end_state(record: SessionRecord) -> EndState | None:
    """How the session went, in the CLI's words."""
    if record.ended_at is None:
        return "active" if record.active else None
    if record.reason == Reasons.stopped.code:
        return "terminated"
    if record.state is SessionState.ENDED:
        return "completed"
    if record.state is SessionState.CANCELED:
        return "ended_before_agent_start"
    if record.reason == Reasons.agent_start_timeout.code:
        return "agent_start_timeout"
    return "agent_error" if record.side is Party.AGENT else "unknown"


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


MAX_LIMIT: Final = 1000
LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999."""

SCAN_PAGE: Final = 500
SCAN_MOST: Final = 10_000
"""Sessions, the newest first, that are looked at for a filter the store does not have."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_KINDS: Final[dict[EndState, dict[str, Any]]] = {
    "active": {"active": True},
    "completed": {"state": SessionState.ENDED},
    "ended_before_agent_start": {"state": SessionState.CANCELED},
    "agent_start_timeout": {"state": SessionState.FAILED},
    "terminated": {"active": False},
    "agent_error": {"state": SessionState.FAILED},
    "unknown": {"state": SessionState.FAILED},
}
"""Among which sessions those of an end state are, in the store's words."""


class SessionsQuery(ResponseModel):
    """Which sessions, and which page of them."""

    limit: int = Field(default=10, ge=1, le=MAX_LIMIT, description="Sessions on a page.")
    offset: int = Field(default=0, ge=0, le=1_000_000_000, description="Sessions before the page.")
    start_time: float | None = Field(
        default=None, ge=0, le=LATEST, allow_inf_nan=False, description="Made then or later, Unix seconds."
    )
    end_time: float | None = Field(
        default=None, ge=0, le=LATEST, allow_inf_nan=False, description="Made before then, Unix seconds."
    )
    status: Literal["active", "ended", "all"] = Field(
        default="all", description="`active` holds a place, `ended` is over."
    )
    start_type: Literal["cold", "warm", "all"] = Field(
        default="all", description="Sessions of which it is known."
    )
    start_time_min: float | None = Field(
        default=None,
        ge=0,
        le=LATEST,
        allow_inf_nan=False,
        description="Seconds that the start took at least.",
    )
    start_time_max: float | None = Field(
        default=None, ge=0, le=LATEST, allow_inf_nan=False, description="Seconds that the start took at most."
    )
    end_state: EndState | None = Field(default=None, description="How it went; the CLI's filter.")
    deployment_id: str | None = Field(
        default=None, description="A gateway deploys nothing, so no session matches."
    )

    @property
    def scans(self) -> bool:
        """Whether it takes looking at each session."""
        return (
            self.end_state not in (None, "active") or bool(self.start_time_min) or bool(self.start_time_max)
        )

    def in_store(self, agent: str) -> SessionFilter:
        """What the store can filter by. A state and `active` that exclude each other match nothing."""
        wanted = SessionFilter(
            agent=agent,
            created_from=self.start_time,
            created_before=self.end_time,
            start_type=None if self.start_type == "all" else self.start_type,
            active={"active": True, "ended": False, "all": None}[self.status],
        )
        if self.end_state is None:
            return wanted
        kind = _KINDS[self.end_state]
        if wanted.active is None:
            wanted = replace(wanted, active=kind.get("active"))
        elif kind.get("active", wanted.active) != wanted.active:
            kind = {"state": SessionState.CREATED}  # which no active or ended session is in
        return replace(wanted, state=kind.get("state"))

    def matches(self, record: SessionRecord) -> bool:
        """What the store cannot filter by. 0 is no bound, as documented."""
        if self.end_state is not None and end_state(record) != self.end_state:
            return False
        if not self.start_time_min and not self.start_time_max:
            return True
        took = bot_start_seconds(record)
        if took is None:
            return False
        return (self.start_time_min or 0.0) <= took <= (self.start_time_max or LATEST)


async def list_sessions(context: Context) -> Answer:
    """`GET /v1/agents/{agent}/sessions`."""
    query = context.query_as(SessionsQuery)
    agent, _ = await known_agent(context, context.path["agent"])
    store = context.services.store
    if query.deployment_id is not None:
        records: list[SessionRecord] = []
        total = 0
    elif query.scans:
        records, total = await _scan(store, query, agent.service_host)
    else:
        records, total = await store.sessions(
            query.in_store(agent.service_host), limit=query.limit, offset=query.offset
        )
    page = [in_list(record) for record in records]
    return Answer(200, AgentSessionsAnswer(total_count=total, sessions=page))


async def _scan(store: Store, query: SessionsQuery, agent: str) -> tuple[list[SessionRecord], int]:
    """The page, and how many match of the newest SCAN_MOST."""
    found: list[SessionRecord] = []
    total = 0
    for offset in range(0, SCAN_MOST, SCAN_PAGE):
        records, there_are = await store.sessions(query.in_store(agent), limit=SCAN_PAGE, offset=offset)
        for record in filter(query.matches, records):
            if total >= query.offset and len(found) < query.limit:
                found.append(record)
            total += 1
        if offset + SCAN_PAGE >= there_are:
            break
    return found, total


async def _session(context: Context) -> SessionRecord:
    """The session that the path names. Raises ApiError: 400, 404."""
    session_id = context.path["session_id"].lower()
    if not _UUID.fullmatch(session_id):
        raise refused(400, "A session's id is a UUID, and this is none")
    agent, _ = await known_agent(context, context.path["agent"])
    record = await context.services.store.session(session_id)
    if record is None or record.agent != agent.service_host:
        raise missing("The agent has no such session")
    return record


async def one_session(context: Context) -> Answer:
    """`GET /v1/agents/{agent}/sessions/{session_id}`."""
    return Answer(200, in_detail(await _session(context)))


async def stop_session(context: Context) -> Answer:
    """`DELETE /v1/agents/{agent}/sessions/{session_id}`: whichever worker carries it ends it at once."""
    record = await _session(context)
    services = context.services
    if not await services.store.request_stop(record.session_id, services.now()):
        raise missing("The session is over already")
    return Answer(200, StopAnswer(session_id=record.session_id))


_NOTES: Final = {"agent": "The agent's name.", "session_id": "A UUID, as `sessionId` has it."}
_PATH: Final = "/{agent}/sessions"

AGENT_SESSIONS: Final[tuple[Operation, ...]] = (
    *both(
        "GET",
        f"/agents{_PATH}",
        f"/services{_PATH}",
        list_sessions,
        "An agent's sessions, the newest first",
        answers={200: AgentSessionsAnswer, 404: None},
        query=SessionsQuery,
        path_notes={"agent": _NOTES["agent"]},
    ),
    *both(
        "GET",
        f"/agents{_PATH}/{{session_id}}",
        f"/services{_PATH}/{{session_id}}",
        one_session,
        "A session of an agent",
        answers={200: AgentSessionDetail, 400: None, 404: None},
        path_notes=_NOTES,
    ),
    *both(
        "DELETE",
        f"/agents{_PATH}/{{session_id}}",
        f"/services{_PATH}/{{session_id}}",
        stop_session,
        "Stops a session of an agent",
        answers={200: StopAnswer, 400: None, 404: None},
        path_notes=_NOTES,
    ),
)
