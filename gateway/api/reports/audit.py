# SPDX-License-Identifier: BSD-2-Clause
"""`GET /v1/audit`: the management calls of an organisation's keys, as dispatch.py records them."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from gateway.api.framework.operation import Access, Answer, Context, Operation, Style
from gateway.api.framework.strict_json import rfc3339
from gateway.api.sessions.session_models import MAX_OFFSET, QueryMoment
from gateway.store.history import ManagementCall

LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999."""


class AuditQuery(BaseModel):
    """The times and the page."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    since: QueryMoment | None = Field(
        default=None, alias="from", description="Only calls at this time or later."
    )
    to: QueryMoment | None = Field(default=None, description="Only calls before this time.")
    limit: int = Field(default=100, ge=1, le=1000, description="The number of calls on a page.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="The number of newer calls to skip.")


class AuditEntry(BaseModel):
    """One call that changed something, or was refused."""

    at: str = Field(description="When it was answered.", examples=["2026-01-31T09:30:00.250Z"])
    key: str = Field(description="The id of its key, as the list of API keys and the log have it.")
    method: str = Field(examples=["DELETE"])
    path: str = Field(description="Without the query.", examples=["/v1/agents/support"])
    status: int = Field(description="The status of the answer.", examples=[200])
    request_id: str = Field(description="As in the answer's `X-Request-Id` and in the log.")
    client: str = Field(description="The address that it came from.", examples=["192.0.2.7"])


class AuditPage(BaseModel):
    """A page of calls, the newest first."""

    data: list[AuditEntry]
    total: int = Field(description="The number of all calls of these times.")
    limit: int
    offset: int
    has_more: bool


async def audit(context: Context) -> Answer:
    """`GET /v1/audit`: answer with the management calls of the key's organisation."""
    query = context.query_as(AuditQuery)
    calls, total = await context.services.calls.store.history.management_calls(
        context.caller.organization,
        query.since.timestamp() if query.since else 0.0,
        query.to.timestamp() if query.to else LATEST,
        limit=query.limit,
        offset=query.offset,
    )
    page = AuditPage(
        data=[_entry(call) for call in calls],
        total=total,
        limit=query.limit,
        offset=query.offset,
        has_more=query.offset + len(calls) < total,
    )
    return Answer(200, page)


def _entry(call: ManagementCall) -> AuditEntry:
    return AuditEntry(
        at=rfc3339(call.at),
        key=call.key_id,
        method=call.method,
        path=call.path,
        status=call.status,
        request_id=call.request_id,
        client=call.peer,
    )


AUDIT: Final[tuple[Operation, ...]] = (
    Operation(
        "GET",
        "/v1/audit",
        audit,
        Access.PRIVATE,
        Style.ENVELOPE,
        "List the changes that were made with the organisation's keys, the newest first",
        "Reports",
        query=AuditQuery,
        answers={200: AuditPage},
        description="Requests with a private key that change agents, keys, properties or a running session, "
        "also those that were refused. Kept for `[store] audit_days`.",
    ),
)
