# SPDX-License-Identifier: BSD-2-Clause
"""The output of an agent's instances, where the gateway starts them (docs/reference/public-api.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from gateway.agents.stored_agents import StoredAgent
from gateway.api.framework.errors import ApiError
from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.framework.strict_json import rfc3339
from gateway.api.pipecat_cloud.agent_models import current_deployment
from gateway.api.pipecat_cloud.agents import known_agent
from gateway.api.pipecat_cloud.conventions import Documented, ResponseModel, both, missing, refused
from gateway.config import AgentSettings
from gateway.model.session_ids import ulid_of
from gateway.pool.agent_output import AFTER_END_S, OutputQuery, Page, TooManySearches

MAX_LIMIT: Final = 1000
MAX_OFFSET: Final = 10_000
LATEST: Final = 253_402_300_799
"""The last second of the year 9999."""

NO_LOGS: Final = (
    "A gateway does not see what instances print that it did not start: read it where you run them"
)


class LogsQuery(ResponseModel):
    """Filters and page of an agent's output."""

    limit: int = Field(default=10, ge=1, le=MAX_LIMIT, description="Lines on a page.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="Lines before the page.")
    session_id: str | None = Field(
        default=None,
        description="Lines of a session: what its instance printed from when it got its slot to two seconds "
        "after its end. With several sessions on an instance at a time, of those as well.",
    )
    deployment_id: str | None = Field(
        default=None, description="Lines of instances that were started of this deployment."
    )
    query: str | None = Field(default=None, max_length=1000, description="A text in the line, in any case.")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] | None = Field(
        default=None,
        description="The first of these words that the line has, else `INFO`: as the CLI tells it.",
    )
    order: Literal["asc", "desc"] = Field(default="desc", description="`desc`: the newest first.")
    start_time: float | None = Field(
        default=None, ge=0, le=LATEST, allow_inf_nan=False, description="Unix seconds."
    )
    end_time: float | None = Field(
        default=None, ge=0, le=LATEST, allow_inf_nan=False, description="Unix seconds."
    )


class LogTotal(ResponseModel):
    """How many lines match."""

    value: int
    relation: Literal["eq", "gte"] = Field(description="`gte`: at least so many; not everything was read.")


class LogLine(ResponseModel):
    """A line that an instance has printed."""

    log: str
    timestamp: str = Field(description="When it was there, to a second.")
    deployment_id: str | None = Field(description="The deployment that its instance was started of.")


class LogsAnswer(ResponseModel):
    """A page of what the agent's instances have printed."""

    total: LogTotal
    logs: list[LogLine]


async def get_logs(context: Context) -> Answer:
    """`GET /v1/agents/{agent}/logs`: answer with what its instances have printed."""
    request = context.query_as(LogsQuery)
    agent, record = await known_agent(context, context.path["agent"])
    if not agent.command:
        raise refused(501, NO_LOGS)
    query = await _query(context, request, agent, record)
    page = Page((), 0, True) if query is None else await _search(context, query)
    of_the_file = current_deployment(agent, record).id

    def deployment_of(started_at: float) -> str | None:
        return of_the_file if record is None else record.deployment_at(started_at)

    lines = [
        LogLine(log=line.text, timestamp=rfc3339(line.at), deployment_id=deployment_of(line.started_at))
        for line in page.lines
    ]
    total = LogTotal(value=page.total, relation="eq" if page.is_exact else "gte")
    return Answer(200, LogsAnswer(total=total, logs=lines))


async def _search(context: Context, query: OutputQuery) -> Page:
    services = context.services
    try:
        return await services.output.search(Path(services.calls.settings.server.pool_folder), query)
    except TooManySearches:
        raise ApiError(
            429, "429", "Other searches are going on; try again", headers={"Retry-After": "1"}
        ) from None


async def _query(
    context: Context, request: LogsQuery, agent: AgentSettings, record: StoredAgent | None
) -> OutputQuery | None:
    """Return what to search for; None if nothing can be found.

    Raises ApiError: 400 for a session's id that is none, 404 if the agent has no such session.
    """
    since, until, instance = request.start_time or 0.0, request.end_time, ""
    if request.session_id is not None:
        if ulid_of(request.session_id) is None:
            raise refused(400, "A session's id is a UUID, or sess_ and a ULID, and this is neither")
        session = await context.services.calls.store.session(request.session_id)
        if session is None or session.agent != agent.service_host:
            raise missing("The agent has no such session")
        if session.admitted_at is None:
            return None
        instance = session.instance
        since = max(since, session.admitted_at)
        ended_at = session.released_at or session.ended_at
        if ended_at is not None:
            until = min(ended_at + AFTER_END_S, LATEST if until is None else until)
    started = None if request.deployment_id is None else _times_of(request.deployment_id, agent, record)
    return OutputQuery(
        agent.service_host,
        instance=instance,
        since=since,
        until=until,
        started=started,
        text=request.query or "",
        level=request.level or "",
        newest_first=request.order == "desc",
        limit=request.limit,
        offset=request.offset,
    )


def _times_of(
    deployment: str, agent: AgentSettings, record: StoredAgent | None
) -> tuple[tuple[float, float], ...]:
    """Return from when to when a deployment was the current one, each time that it was."""
    if record is None:
        return ((0.0, LATEST),) if deployment == current_deployment(agent, None).id else ()
    ends = [*(turn.at for turn in record.all_turns[1:]), float(LATEST)]
    return tuple(
        (turn.at, end)
        for turn, end in zip(record.all_turns, ends, strict=True)
        if turn.deployment == deployment
    )


_PATHS: Final = ("/agents/{agent}/logs", "/services/{agent}/logs")

AGENT_LOGS: Final[tuple[Operation, ...]] = both(
    "GET",
    _PATHS,
    get_logs,
    Documented(
        "What an agent's instances have printed",
        {200: LogsAnswer, 400: None, 404: None, 501: None},
        query=LogsQuery,
        path_notes={"agent": "The agent's name."},
    ),
)
