# SPDX-License-Identifier: BSD-2-Clause
"""An agent's sessions: list, one, stop (public-api.md, "Management")."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from pydantic import Field

from gateway.api.agent_session_models import (
    AgentSessionDetail,
    AgentSessionsAnswer,
    EndState,
    StopAnswer,
    bot_start_seconds,
    end_state,
    in_detail,
    in_list,
)
from gateway.api.agents import known_agent
from gateway.api.operation import Answer, Context, Operation
from gateway.api.spelling import Told, both, missing, refused
from gateway.sessions.lifecycle import State
from gateway.sessions.session import SessionRecord
from gateway.sessions.store import Store

MAX_LIMIT: Final = 1000
LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999."""

SCAN_PAGE: Final = 500
SCAN_MOST: Final = 10_000
"""Sessions, the newest first, that are looked at for a filter the store does not have."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_KINDS: Final[dict[EndState, dict[str, Any]]] = {
    "active": {"active": True},
    "completed": {"state": State.ENDED},
    "ended_before_agent_start": {"state": State.CANCELED},
    "agent_start_timeout": {"state": State.FAILED},
    "terminated": {"active": False},
    "agent_error": {"state": State.FAILED},
    "unknown": {"state": State.FAILED},
}
"""Among which sessions those of an end state are, in the store's words."""


class SessionsQuery(Told):
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

    def in_store(self, agent: str) -> dict[str, Any]:
        """What the store can filter by. A state and `active` that exclude each other match nothing."""
        wanted: dict[str, Any] = {
            "agent": agent,
            "created_from": self.start_time,
            "created_before": self.end_time,
            "start_type": None if self.start_type == "all" else self.start_type,
            "active": {"active": True, "ended": False, "all": None}[self.status],
        }
        if self.end_state is None:
            return wanted
        kind = _KINDS[self.end_state]
        if wanted["active"] is None:
            wanted["active"] = kind.get("active")
        elif kind.get("active", wanted["active"]) != wanted["active"]:
            kind = {"state": State.CREATED}  # which no active or ended session is in
        return {**wanted, "state": kind.get("state")}

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
            **query.in_store(agent.service_host), limit=query.limit, offset=query.offset
        )
    page = [in_list(record) for record in records]
    return Answer(200, AgentSessionsAnswer(total_count=total, sessions=page))


async def _scan(store: Store, query: SessionsQuery, agent: str) -> tuple[list[SessionRecord], int]:
    """The page, and how many match of the newest SCAN_MOST."""
    found: list[SessionRecord] = []
    total = 0
    for offset in range(0, SCAN_MOST, SCAN_PAGE):
        records, there_are = await store.sessions(**query.in_store(agent), limit=SCAN_PAGE, offset=offset)
        for record in filter(query.matches, records):
            if total >= query.offset and len(found) < query.limit:
                found.append(record)
            total += 1
        if offset + SCAN_PAGE >= there_are:
            break
    return found, total


async def _session(context: Context) -> SessionRecord:
    """The session that the path names. Raises Refusal: 400, 404."""
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
