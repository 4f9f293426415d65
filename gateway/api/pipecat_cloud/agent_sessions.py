# SPDX-License-Identifier: BSD-2-Clause
"""An agent's sessions: list, get, stop (docs/reference/public-api.md, "Management")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import Field, JsonValue

from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.framework.passed_texts import stored_text, with_texts
from gateway.api.framework.strict_json import rfc3339_or_none
from gateway.api.framework.turns import in_turns
from gateway.api.pipecat_cloud.agent_models import current_deployment
from gateway.api.pipecat_cloud.agents import known_agent
from gateway.api.pipecat_cloud.conventions import Documented, ResponseModel, both, missing, refused
from gateway.api.pipecat_cloud.deployment_models import agent_id
from gateway.api.pipecat_cloud.resource_models import ResourceMetrics, resource_metrics
from gateway.calls.session_end import HTTP_COMPLETED, HTTP_ERROR, WS_CONNECTION_CLOSED
from gateway.model.json_text import JsonText, dump_array
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import REASONS, Party, Reasons
from gateway.model.session import MEDIA_SOCKETS, SessionRecord
from gateway.model.session_ids import ulid_of
from gateway.pool.session_resources import SessionResources, stored_resources
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
"""The end states that `pipecatcloud` 1.4.0 knows."""


class AgentSession(ResponseModel):
    """A session of an agent. Times are in UTC; null means "not yet" or "never"."""

    session_id: str
    service_id: str
    organization_id: str
    deployment_id: str | None = Field(
        description="The deployment that was current when it got its slot; null if unknown."
    )
    created_at: str
    updated_at: str
    ended_at: str | None
    bot_start_seconds: float | None = Field(
        description="Seconds from the session's admission to the start of its agent."
    )
    cold_start: bool | None = Field(description="Null if it is unknown.")
    completion_status: str | None = Field(
        description="`HTTP_COMPLETED`, `HTTP_ERROR`, `WS_CONNECTION_CLOSED`, or an HTTP status such as `504`."
    )
    end_state: EndState | None = Field(description="Null while the session waits for its socket.")
    metadata: JsonValue = Field(default=None, description="The client's own, unchanged.")


class AgentSessionsAnswer(ResponseModel):
    """A page of sessions, the newest first."""

    total_count: int = Field(alias="total_count", description="The number of matches on all pages.")
    sessions: list[AgentSession]


class SessionEvent(ResponseModel):
    """A step in a session's life."""

    event_code: Literal["SESSION_START_INITIATED", "REQUEST_ARRIVED_AT_BOT", "SESSION_COMPLETED"]
    event_ts: str


class AgentSessionDetail(AgentSession):
    """A session of an agent, with its steps."""

    resource_metrics: ResourceMetrics | None = Field(
        description="What the session's instance has used, if the gateway started it; null while it runs."
    )
    meeting_ids: list[str] = Field(default_factory=list, description="Always empty.")
    events: list[SessionEvent]


class StopAnswer(ResponseModel):
    """The session is being ended."""

    status: Literal["terminated"] = "terminated"
    session_id: str = Field(alias="session_id")


def bot_start_seconds(record: SessionRecord) -> float | None:
    """Return the seconds from a session's admission to the start of its agent; None if it did not start."""
    if record.started_at is None or record.admitted_at is None:
        return None
    return round(max(0.0, record.started_at - record.admitted_at), 3)


def completion_status(record: SessionRecord) -> str | None:
    """Return how the agent's request or socket ended; None if it did not end or did not exist."""
    if record.completion_status is not None or record.ended_at is None:
        return record.completion_status
    reason = REASONS.get(record.reason or "")
    if record.state is SessionState.FAILED and reason is not None and reason.status is not None:
        return str(reason.status)
    if record.started_at is None:
        return None
    if record.transport in MEDIA_SOCKETS:
        return WS_CONNECTION_CLOSED
    return HTTP_ERROR if record.state is SessionState.FAILED else HTTP_COMPLETED


def end_state(record: SessionRecord) -> EndState | None:
    """Return the session's end state as the CLI names it; None before its socket has come."""
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


DeploymentOf = Callable[[SessionRecord], str | None]
"""Tells the id of the deployment that a session of an agent began on."""


async def _known_agent(context: Context) -> tuple[str, DeploymentOf]:
    """Return the service host of the agent that the path names, and what tells its sessions' deployments.

    Raises ApiError: 404 if there is none.
    """
    agent, stored = await known_agent(context, context.path["agent"])
    if stored is None:
        of_the_file = current_deployment(agent, None).id
        return agent.service_host, lambda _: of_the_file
    return agent.service_host, lambda record: stored.deployment_at(record.admitted_at or record.created_at)


def _fields(record: SessionRecord, deployment_of: DeploymentOf) -> dict[str, object]:
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
        "deployment_id": deployment_of(record),
        "created_at": rfc3339_or_none(record.created_at),
        "updated_at": rfc3339_or_none(latest),
        "ended_at": rfc3339_or_none(record.ended_at),
        "bot_start_seconds": bot_start_seconds(record),
        "cold_start": None if record.start_type is None else record.start_type == "cold",
        "completion_status": completion_status(record),
        "end_state": end_state(record),
    }


def session_summary(record: SessionRecord, deployment_of: DeploymentOf) -> JsonText:
    """Return a session as lists show it, an AgentSession."""
    summary = AgentSession.model_validate(_fields(record, deployment_of))
    return with_texts(summary, {"metadata": stored_text(record.metadata)})


def session_detail(
    record: SessionRecord, deployment_of: DeploymentOf, resources: SessionResources | None
) -> JsonText:
    """Return a session with its steps, an AgentSessionDetail."""
    steps = (
        ("SESSION_START_INITIATED", record.created_at),
        ("REQUEST_ARRIVED_AT_BOT", record.started_at),
        ("SESSION_COMPLETED", record.ended_at),
    )
    events = [{"event_code": code, "event_ts": rfc3339_or_none(at)} for code, at in steps if at is not None]
    detail = AgentSessionDetail.model_validate(
        {
            **_fields(record, deployment_of),
            "events": events,
            "resource_metrics": resources and resource_metrics(record.session_id, resources),
        }
    )
    return with_texts(detail, {"metadata": stored_text(record.metadata)})


MAX_LIMIT: Final = 1000
LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999."""

SESSIONS_A_TURN: Final = 10
"""Sessions of a page that are written in one turn."""

SCAN_PAGE: Final = 500
MAX_SCANNED: Final = 10_000
"""Sessions, the newest first, that are examined for a filter that the store does not have."""

_KINDS: Final[dict[EndState, dict[str, Any]]] = {
    "active": {"active": True},
    "completed": {"state": SessionState.ENDED},
    "ended_before_agent_start": {"state": SessionState.CANCELED},
    "agent_start_timeout": {"state": SessionState.FAILED},
    "terminated": {"active": False},
    "agent_error": {"state": SessionState.FAILED},
    "unknown": {"state": SessionState.FAILED},
}
"""Filters of the store that include all sessions with an end state."""


class SessionsQuery(ResponseModel):
    """Filters and page of the list of sessions."""

    limit: int = Field(default=10, ge=1, le=MAX_LIMIT, description="Sessions on a page.")
    offset: int = Field(default=0, ge=0, le=1_000_000_000, description="Sessions before the page.")
    start_time: float | None = Field(
        default=None,
        ge=0,
        le=LATEST,
        allow_inf_nan=False,
        description="Created at this time or later, in Unix seconds.",
    )
    end_time: float | None = Field(
        default=None,
        ge=0,
        le=LATEST,
        allow_inf_nan=False,
        description="Created before this time, in Unix seconds.",
    )
    status: Literal["active", "ended", "all"] = Field(
        default="all", description="`active` holds a slot, `ended` is over."
    )
    start_type: Literal["cold", "warm", "all"] = Field(
        default="all", description="The start type; sessions without a known one match only `all`."
    )
    start_time_min: float | None = Field(
        default=None,
        ge=0,
        le=LATEST,
        allow_inf_nan=False,
        description="The shortest start, in seconds.",
    )
    start_time_max: float | None = Field(
        default=None, ge=0, le=LATEST, allow_inf_nan=False, description="The longest start, in seconds."
    )
    end_state: EndState | None = Field(default=None, description="The end state; the CLI's filter.")
    deployment_id: str | None = Field(default=None, description="The id of a deployment.")

    @property
    def needs_scan(self) -> bool:
        """Whether the store lacks a filter, so that each session must be examined."""
        return (
            self.end_state not in (None, "active")
            or bool(self.start_time_min)
            or bool(self.start_time_max)
            or self.deployment_id is not None
        )

    def store_filter(self, agent: str) -> SessionFilter:
        """Return the store's filter. A state and `active` that exclude each other match nothing."""
        filters = SessionFilter(
            agent=agent,
            created_from=self.start_time,
            created_before=self.end_time,
            start_type=None if self.start_type == "all" else self.start_type,
            active={"active": True, "ended": False, "all": None}[self.status],
        )
        if self.end_state is None:
            return filters
        kind = _KINDS[self.end_state]
        if filters.active is None:
            filters = replace(filters, active=kind.get("active"))
        elif kind.get("active", filters.active) != filters.active:
            kind = {"state": SessionState.CREATED}  # a state that no active or ended session has
        return replace(filters, state=kind.get("state"))

    def matches(self, record: SessionRecord, deployment_of: DeploymentOf) -> bool:
        """Return True if the session passes the filters that the store lacks.

        A bound of 0 is none, as documented.
        """
        if self.deployment_id is not None and deployment_of(record) != self.deployment_id:
            return False
        if self.end_state is not None and end_state(record) != self.end_state:
            return False
        if not self.start_time_min and not self.start_time_max:
            return True
        start_seconds = bot_start_seconds(record)
        if start_seconds is None:
            return False
        return (self.start_time_min or 0.0) <= start_seconds <= (self.start_time_max or LATEST)


async def list_sessions(context: Context) -> Answer:
    """`GET /v1/agents/{agent}/sessions`: list sessions, the newest first."""
    query = context.query_as(SessionsQuery)
    agent, deployment_of = await _known_agent(context)
    store = context.services.calls.store
    if query.needs_scan:
        records, total = await _scan(store, query, agent, deployment_of)
    else:
        records, total = await store.sessions(
            query.store_filter(agent), limit=query.limit, offset=query.offset
        )
    page = await in_turns(records, lambda record: session_summary(record, deployment_of), SESSIONS_A_TURN)
    answer = AgentSessionsAnswer(total_count=total, sessions=[])
    return Answer(200, with_texts(answer, {"sessions": dump_array(page)}))


async def _scan(
    store: Store, query: SessionsQuery, agent: str, deployment_of: DeploymentOf
) -> tuple[list[SessionRecord], int]:
    """Return the page, and the number of matches among the newest MAX_SCANNED sessions."""
    page: list[SessionRecord] = []
    total = 0
    for offset in range(0, MAX_SCANNED, SCAN_PAGE):
        records, count = await store.sessions(query.store_filter(agent), limit=SCAN_PAGE, offset=offset)
        for record in (each for each in records if query.matches(each, deployment_of)):
            if total >= query.offset and len(page) < query.limit:
                page.append(record)
            total += 1
        if offset + SCAN_PAGE >= count:
            break
    return page, total


async def _session(context: Context) -> tuple[SessionRecord, DeploymentOf]:
    """Return the session that the path names, and what tells its deployment.

    Raises ApiError: 400 if its id is no UUID, 404 if there is none.
    """
    session_id = context.path["session_id"]
    if ulid_of(session_id) is None:
        raise refused(400, "A session's id is a UUID, or sess_ and a ULID, and this is neither")
    agent, deployment_of = await _known_agent(context)
    record = await context.services.calls.store.session(session_id)
    if record is None or record.agent != agent:
        raise missing("The agent has no such session")
    return record, deployment_of


async def get_session(context: Context) -> Answer:
    """`GET /v1/agents/{agent}/sessions/{session_id}`: answer with a session and its steps."""
    record, deployment_of = await _session(context)
    calls = context.services.calls
    resources = await stored_resources(calls.store.key_values, record.session_id, calls.now())
    return Answer(200, session_detail(record, deployment_of, resources))


async def stop_session(context: Context) -> Answer:
    """`DELETE /v1/agents/{agent}/sessions/{session_id}`: end a session at once, on any worker."""
    record, _ = await _session(context)
    services = context.services
    if not await services.calls.commands.stop(record.session_id):
        raise missing("The session is over already")
    return Answer(200, StopAnswer(session_id=record.session_id))


_NOTES: Final = {
    "agent": "The agent's name.",
    "session_id": "A UUID, as `sessionId` has it, or the same id as `sess_` and a ULID.",
}
_LIST: Final = ("/agents/{agent}/sessions", "/services/{agent}/sessions")
_SESSION: Final = ("/agents/{agent}/sessions/{session_id}", "/services/{agent}/sessions/{session_id}")

AGENT_SESSIONS: Final[tuple[Operation, ...]] = (
    *both(
        "GET",
        _LIST,
        list_sessions,
        Documented(
            "An agent's sessions, the newest first",
            {200: AgentSessionsAnswer, 404: None},
            query=SessionsQuery,
            path_notes={"agent": _NOTES["agent"]},
        ),
    ),
    *both(
        "GET",
        _SESSION,
        get_session,
        Documented(
            "A session of an agent", {200: AgentSessionDetail, 400: None, 404: None}, path_notes=_NOTES
        ),
    ),
    *both(
        "DELETE",
        _SESSION,
        stop_session,
        Documented("Stops a session of an agent", {200: StopAnswer, 400: None, 404: None}, path_notes=_NOTES),
    ),
)
