# SPDX-License-Identifier: BSD-2-Clause
"""The session as a resource of its own: `/v1/sessions`.

The same sessions as behind Pipecat Cloud's contract (docs/reference/public-api.md), for clients that do not
come from there.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request

from gateway.api.framework import idempotency
from gateway.api.framework.errors import ApiError, not_found
from gateway.api.framework.operation import Access, Answer, Context, Operation, Style
from gateway.api.framework.strict_json import dump
from gateway.api.framework.timestamps import rfc3339_or_none, utc_text
from gateway.api.sessions.session_models import (
    DailyTransport,
    ListQuery,
    NewSession,
    Report,
    Session,
    SessionPage,
    ShowQuery,
    Status,
    TransportView,
)
from gateway.api.sessions.session_view import TELEPHONY, status_of, summary, view
from gateway.calls.session_events import session_events
from gateway.calls.session_start import SessionRequest, StartedSession, start_session
from gateway.config import AgentSettings
from gateway.model import addresses
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import SessionFilter


def service_host(agent: str, organization: str) -> str:
    """`AGENT.ORG` of an agent that may be named by its name alone."""
    return agent if "." in agent else addresses.service_host(agent, organization)


async def start(context: Context, wanted: NewSession) -> tuple[str, TransportView]:
    """Starts what is wanted: the session's id, and how its caller comes to it, secrets included.

    Raises ApiError, CallEnded, StoreFailed; what was made for it is gone then.
    """
    transport = wanted.transport
    rooms = transport if isinstance(transport, DailyTransport) else None
    wish = SessionRequest(
        agent=_agent(context, wanted.agent),
        transport=transport.type,
        body=wanted.body,
        room_properties=rooms.room_properties if rooms else None,
        token_properties=rooms.token_properties if rooms else None,
        metadata=None if wanted.metadata is None else dump(wanted.metadata).decode(),
        idle_timeout=wanted.idle_timeout_seconds,
        max_duration=wanted.max_duration_seconds,
    )
    begun = await start_session(context.services.session_start, wish, context.request.scope.get("server"))
    return begun.session_id, TransportView(
        type=transport.type,
        url=begun.room_url or _socket_url(begun),
        token=begun.room_token or begun.ws_token,
        expires_at=rfc3339_or_none(begun.expires_at),
    )


def _agent(context: Context, named: str) -> AgentSettings:
    """The agent of the caller's organisation; another's is as unknown as one that is not there."""
    own = context.caller.organization
    name, organization = addresses.split_service_host(service_host(named, own))
    if organization != own:
        raise CallEnded(Reasons.unknown_agent, "there is no agent of this name")
    return context.services.agents.of_organization(own, name)


def _socket_url(begun: StartedSession) -> str | None:
    """Where the socket goes, whole: with the body to which its token is bound."""
    if begun.ws_url is None or begun.body is None:
        return begun.ws_url
    return f"{begun.ws_url}?body={quote(begun.body, safe='')}"


MAX_REPORT_BYTES: Final = 3_000_000
"""A transcript of 5,000 entries with a few sentences in each. Reading much more would be heard in calls."""

MAX_ACTIVE: Final = 100_000
"""More than a machine carries; for lists of sessions whose status the store cannot tell apart."""

_TAG: Final = "Sessions"
_OF_THE_STORE: Final = {
    Status.CREATED: SessionState.CREATED,
    Status.ENDED: SessionState.ENDED,
    Status.FAILED: SessionState.FAILED,
    Status.CANCELED: SessionState.CANCELED,
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
    return await idempotency.run_once(
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
            raise ApiError(409, "already_completed", "The session was completed already")
        raise ApiError(409, "session_not_active", f"The session is {record.state}, and not active")
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
        call = await context.services.calls.call_log.of(record.session_id)
    return Answer(200, view(record, context.services.now(), call=call))


async def _over_or_late(context: Context, timeout_s: float) -> SessionRecord:
    """The session once it is over, or after `timeout_s`. Raises ClientDisconnect as soon as nobody waits."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    gone = asyncio.create_task(_gone(context.request))
    try:
        while True:
            with session_events(context.services.store).waiting(context.path["session_id"]) as over:
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
    matching = SessionFilter(
        agent=None if query.agent is None else service_host(query.agent, organization),
        organization=organization,
        created_from=None if query.created_from is None else query.created_from.timestamp(),
        created_before=None if query.created_before is None else query.created_before.timestamp(),
    )
    if query.status is None or query.status in _OF_THE_STORE:
        state = None if query.status is None else _OF_THE_STORE[query.status]
        return await store.sessions(replace(matching, state=state), limit=query.limit, offset=query.offset)
    active, _ = await store.sessions(replace(matching, active=True), limit=MAX_ACTIVE)
    found = [record for record in active if status_of(record) is query.status]
    return found[query.offset : query.offset + query.limit], len(found)


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
