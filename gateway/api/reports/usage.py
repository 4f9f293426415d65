# SPDX-License-Identifier: BSD-2-Clause
"""`GET /v1/usage`: what an organisation's sessions used, by day or by agent."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.api.framework.errors import ApiError
from gateway.api.framework.operation import Access, Answer, Context, Operation, Style
from gateway.store.history import DayUsage

MAX_DAYS: Final = 3660
_EPOCH: Final = date(1970, 1, 1)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

K = TypeVar("K", bound=Hashable)


def _day(value: object) -> object:
    """Return a day of a query. Raises ValueError for a time or a number, which pydantic would round."""
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise ValueError("a day is written as in 2026-01-31")
    return value


Day = Annotated[date, BeforeValidator(_day)]


class UsageQuery(BaseModel):
    """The days, and how they are summed up."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    since: Day | None = Field(
        default=None,
        alias="from",
        description="The first day, as in `2026-01-31`, in UTC. Left out: the first of the last day's month.",
    )
    to: Day | None = Field(default=None, description="The last day, which is included. Left out: today.")
    by: Literal["day", "agent"] = Field(default="day", description="One row for each day, or each agent.")


class Total(BaseModel):
    """Sessions, and their seconds."""

    sessions: int = Field(description="Sessions that got a slot.", examples=[12])
    seconds: float = Field(
        description="From the moment when a session got its slot to its end, or until now: starting counts.",
        examples=[745.25],
    )


class DayTotal(Total):
    """The total of one day."""

    day: date = Field(description="The day when the sessions got their slots, in UTC.")


class AgentTotal(Total):
    """The total of one agent."""

    agent: str = Field(description="The service host.", examples=["support.acme"])


class UsageAnswer(BaseModel):
    """The usage from the first to the last day."""

    model_config = ConfigDict(populate_by_name=True)

    since: date = Field(alias="from", description="The first day.")
    to: date = Field(description="The last day.")
    by: Literal["day", "agent"]
    total: Total
    rows: list[DayTotal] | list[AgentTotal] = Field(
        description="Days or agents without a session are left out."
    )


async def usage(context: Context) -> Answer:
    """`GET /v1/usage`: answer with the totals of the key's organisation."""
    query = context.query_as(UsageQuery)
    services = context.services.calls
    last = query.to or datetime.fromtimestamp(services.now(), UTC).date()
    first = query.since or last.replace(day=1)
    if first > last:
        raise ApiError(422, "invalid_parameter", "`from` is after `to`", param="from")
    if last - first > timedelta(MAX_DAYS):
        raise ApiError(422, "invalid_parameter", f"These are more than {MAX_DAYS} days", param="from")
    found = await services.store.history.usage(
        context.caller.organization, (first - _EPOCH).days, (last - _EPOCH).days, services.now()
    )
    rows: list[DayTotal] | list[AgentTotal]
    if query.by == "day":
        by_day = _sums((each.day, each) for each in found)
        rows = [DayTotal(day=_EPOCH + timedelta(day), **sums) for day, sums in sorted(by_day.items())]
    else:
        by_agent = _sums((each.agent, each) for each in found)
        rows = [AgentTotal(agent=agent, **sums) for agent, sums in sorted(by_agent.items())]
    total = _sums(("all", each) for each in found).get("all", {"sessions": 0, "seconds": 0.0})
    return Answer(200, UsageAnswer(**{"from": first}, to=last, by=query.by, total=Total(**total), rows=rows))


def _sums(entries: Iterable[tuple[K, DayUsage]]) -> dict[K, dict[str, Any]]:
    """Return the fields of a Total for each key. Seconds are rounded to the millisecond."""
    sums: dict[K, dict[str, Any]] = {}
    for key, entry in entries:
        total = sums.setdefault(key, {"sessions": 0, "seconds": 0.0})
        total["sessions"] += entry.sessions
        total["seconds"] += entry.seconds
    for total in sums.values():
        total["seconds"] = round(total["seconds"], 3)
    return sums


USAGE: Final[tuple[Operation, ...]] = (
    Operation(
        "GET",
        "/v1/usage",
        usage,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Show what was used, by day or by agent",
        "Reports",
        query=UsageQuery,
        answers={200: UsageAnswer},
        description="Totals stay when the sessions are removed (`[store] retention_days`).",
    ),
)
