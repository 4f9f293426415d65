# SPDX-License-Identifier: BSD-2-Clause
"""The session as a resource of its own: `/v1/sessions`.

The same sessions as behind Pipecat Cloud's contract (public-api.md), for clients that do not come from there.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect, Request

from gateway.api import idempotency
from gateway.api.operation import Access, Answer, Context, Operation, Style
from gateway.api.refusals import Refusal, not_found
from gateway.api.session_models import (
    ListQuery,
    NewSession,
    Report,
    Session,
    SessionPage,
    ShowQuery,
    Status,
)
from gateway.api.session_starts import service_host, start
from gateway.api.session_view import TELEPHONY, status_of, summary, view
from gateway.api.strict_json import dump
from gateway.api.times import utc_text
from gateway.calls.ends import end_watch
from gateway.sessions.lifecycle import TERMINAL, State
from gateway.sessions.session import SessionRecord

MAX_REPORT_BYTES: Final = 3_000_000
"""A transcript of 5,000 entries with a few sentences in each. Reading much more would be heard in calls."""

MAX_ACTIVE: Final = 100_000
"""More than a machine carries; for lists of sessions whose status the store cannot tell apart."""

_TAG: Final = "Sessions"
_OF_THE_STORE: Final = {
    Status.CREATED: State.CREATED,
    Status.ENDED: State.ENDED,
    Status.FAILED: State.FAILED,
    Status.CANCELED: State.CANCELED,
}
"""What the store can look for; of those that are active only their records say whether they are ending."""


async def create(context: Context) -> Answer:
    """`POST /v1/sessions`."""
    wanted = context.body_as(NewSession)
    key = idempotency.key_of(context.request.headers, Style.ENVELOPE)

    async def produce() -> Answer:
        session_id, transport = await start(context, wanted)
        record = await _record(context, session_id)
        body = view(record, context.services.now(), transport)
        return Answer(201, body, {"Location": f"/v1/sessions/{session_id}"})

    if key is None:
        return await produce()
    fingerprint = idempotency.fingerprint_of(b"POST /v1/sessions", context.raw_body)
    return await idempotency.once(
        context.services, context.caller.organization, key, fingerprint, produce, style=Style.ENVELOPE
    )


async def show(context: Context) -> Answer:
    """`GET /v1/sessions/{session_id}`."""
    query = context.query_as(ShowQuery)
    record = await _known(context)
    if query.wait_for_completion and record.state not in TERMINAL:
        record = await _over_or_late(context, query.timeout_seconds)
    return await _shown(context, record)


async def list_sessions(context: Context) -> Answer:
    """`GET /v1/sessions`."""
    query = context.query_as(ListQuery)
    records, total = await _page(context, query)
    now = context.services.now()
    page = SessionPage(
        data=[summary(record, now) for record in records],
        total=total,
        limit=query.limit,
        offset=query.offset,
        has_more=query.offset + len(records) < total,
    )
    return Answer(200, page)


async def stop(context: Context) -> Answer:
    """`POST /v1/sessions/{session_id}/stop`: as good for one that is over as for one that runs."""
    record = await _known(context)
    if record.state not in TERMINAL:
        await context.services.store.request_stop(record.session_id, context.services.now())
    return await _shown(context, await _known(context))


async def complete(context: Context) -> Answer:
    """`POST /v1/sessions/{session_id}/complete`: what the agent's side reports, once, while it runs."""
    report = context.body_as(Report)
    record = await _known(context)
    transcript = None
    if report.transcript is not None:
        transcript = dump(
            [
                {"role": entry.role, "text": entry.text, "timestamp": utc_text(entry.timestamp)}
                for entry in report.transcript
            ]
        ).decode()
    results = None if report.results is None else dump(report.results).decode()
    services = context.services
    kept = await services.store.complete(
        record.session_id, transcript, report.duration_seconds, results, services.now()
    )
    record = await _known(context)
    if not kept:
        if record.completed_at is not None:
            raise Refusal(409, "already_completed", "The session was completed already")
        raise Refusal(409, "session_not_active", f"The session is {record.state}, and not active")
    return await _shown(context, record)


# What the handlers share


async def _record(context: Context, session_id: str) -> SessionRecord:
    record = await context.services.store.session(session_id)
    if record is None or record.organization != context.caller.organization:
        raise not_found("There is no such session", Style.ENVELOPE)
    return record


async def _known(context: Context) -> SessionRecord:
    """The session of the path, if the caller may know of it."""
    return await _record(context, context.path["session_id"])


async def _shown(context: Context, record: SessionRecord) -> Answer:
    call = None
    if record.transport == TELEPHONY:
        call = await context.services.board.call_book.of(record.session_id)
    return Answer(200, view(record, context.services.now(), call=call))


async def _over_or_late(context: Context, timeout_s: float) -> SessionRecord:
    """The session once it is over, or after `timeout_s`. Raises ClientDisconnect as soon as nobody waits."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    gone = asyncio.create_task(_gone(context.request))
    try:
        while True:
            with end_watch(context.services.store).waiting(context.path["session_id"]) as over:
                record = await _known(context)
                left = deadline - loop.time()
                if record.state in TERMINAL or left <= 0:
                    return record
                await asyncio.wait([over, gone], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientDisconnect
    finally:
        gone.cancel()
        await asyncio.wait([gone])


async def _gone(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _page(context: Context, query: ListQuery) -> tuple[list[SessionRecord], int]:
    organization = context.caller.organization
    store = context.services.store
    agent = None if query.agent is None else service_host(query.agent, organization)
    created_from = None if query.created_from is None else query.created_from.timestamp()
    created_before = None if query.created_before is None else query.created_before.timestamp()
    if query.status is None or query.status in _OF_THE_STORE:
        return await store.sessions(
            agent=agent,
            organization=organization,
            state=None if query.status is None else _OF_THE_STORE[query.status],
            created_from=created_from,
            created_before=created_before,
            limit=query.limit,
            offset=query.offset,
        )
    active, _ = await store.sessions(
        agent=agent,
        organization=organization,
        active=True,
        created_from=created_from,
        created_before=created_before,
        limit=MAX_ACTIVE,
    )
    matching = [record for record in active if status_of(record) is query.status]
    return matching[query.offset : query.offset + query.limit], len(matching)


_ID_NOTE: Final = {"session_id": "The session's id, as it was answered or as the agent was told it."}

SESSIONS: Final = (
    Operation(
        "POST",
        "/v1/sessions",
        create,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Start a session",
        _TAG,
        body=NewSession,
        answers={201: Session, 400: None, 404: None, 409: None, 413: None, 502: None, 503: None, 504: None},
        description="Secrets of the transport are in this answer and in no other.",
        request_headers={
            idempotency.HEADER: "The same key with the same body is answered the same for 24 hours, and "
            "starts nothing again; with another body it is refused (409)."
        },
    ),
    Operation(
        "GET",
        "/v1/sessions",
        list_sessions,
        Access.PRIVATE,
        Style.ENVELOPE,
        "List sessions, the newest first",
        _TAG,
        query=ListQuery,
        answers={200: SessionPage},
    ),
    Operation(
        "GET",
        "/v1/sessions/{session_id}",
        show,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Show a session, or wait until it is over",
        _TAG,
        query=ShowQuery,
        answers={200: Session},
        path_notes=_ID_NOTE,
    ),
    Operation(
        "POST",
        "/v1/sessions/{session_id}/stop",
        stop,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Stop a session",
        _TAG,
        answers={200: Session},
        description="Whichever worker carries it. A session that is over already stays as it is.",
        path_notes=_ID_NOTE,
    ),
    Operation(
        "POST",
        "/v1/sessions/{session_id}/complete",
        complete,
        Access.PRIVATE,
        Style.ENVELOPE,
        "Report what came of a session",
        _TAG,
        body=Report,
        answers={200: Session, 409: None},
        max_body_bytes=MAX_REPORT_BYTES,
        description="Once, while the session is active; it goes on until one of its sides ends it.",
        path_notes=_ID_NOTE,
    ),
)
