# SPDX-License-Identifier: BSD-2-Clause
"""The session resource, `/v1/sessions`.

It has the same sessions as Pipecat Cloud's contract (docs/reference/public-api.md), for all other clients.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request

from gateway.api.framework import idempotency
from gateway.api.framework.errors import ApiError, not_found
from gateway.api.framework.operation import Access, Answer, Context, LargeMember, Operation, Style
from gateway.api.framework.passed_texts import with_texts
from gateway.api.framework.strict_json import rfc3339_or_none, utc_text
from gateway.api.framework.turns import in_turns
from gateway.api.sessions.session_models import (
    RESULTS_BYTES,
    TELEPHONY,
    TRANSCRIPT_ENTRIES,
    DailyTransport,
    ListQuery,
    NewSession,
    Report,
    Session,
    SessionPage,
    ShowQuery,
    Status,
    TranscriptEntry,
    TransportView,
)
from gateway.api.sessions.session_views import CallReport, Seen, session_summary, session_view, status_of
from gateway.calls.consultation.consultation_log import ConsultationLog
from gateway.calls.deferred_command import played_so_far
from gateway.calls.session_events import session_events
from gateway.calls.session_start import SessionRequest, StartedSession, start_session
from gateway.config import AgentSettings
from gateway.model import addresses
from gateway.model.json_text import JsonText, dump, dump_array
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import SessionFilter


def service_host(agent: str, organization: str) -> str:
    """Return the service host, AGENT.ORG, of an agent that is named by it or by its name alone."""
    return agent if "." in agent else addresses.service_host(agent, organization)


async def start(context: Context, new: NewSession) -> tuple[str, TransportView]:
    """Start a session. Return its id and its transport, secrets included.

    Raises ApiError, CallEnded or StoreFailed; nothing is left of the session then.
    """
    transport = new.transport
    daily = transport if isinstance(transport, DailyTransport) else None
    session_request = SessionRequest(
        agent=_agent(context, new.agent),
        transport=transport.type,
        body=new.body,
        room_properties=daily.room_properties if daily else None,
        token_properties=daily.token_properties if daily else None,
        metadata=None if new.metadata is None else dump(new.metadata).decode(),
        idle_timeout=new.idle_timeout_seconds,
        max_duration=new.max_duration_seconds,
        key_id=context.caller.key_id,
    )
    session = await start_session(
        context.services.session_start, session_request, context.request.scope.get("server")
    )
    return session.session_id, TransportView(
        type=transport.type,
        url=session.room_url or _socket_url(session),
        token=session.room_token or session.ws_token,
        expires_at=rfc3339_or_none(session.expires_at),
    )


def _agent(context: Context, named: str) -> AgentSettings:
    """Return an agent of the key's organisation.

    Raises CallEnded (unknown_agent), also for another's agent.
    """
    own = context.caller.organization
    name, organization = addresses.split_service_host(service_host(named, own))
    if organization != own:
        raise CallEnded(Reasons.unknown_agent, "there is no agent of this name")
    return context.services.calls.agents.of_organization(own, name)


def _socket_url(session: StartedSession) -> str | None:
    """Return the URL of the media socket, including the body that its token is bound to."""
    if session.ws_url is None or session.body is None:
        return session.ws_url
    return f"{session.ws_url}?body={quote(session.body, safe='')}"


MAX_NEW_BYTES: Final = 1_100_000
"""1,000,000 for `body` and the rest for other members."""

MAX_REPORT_BYTES: Final = 3_000_000
"""A transcript of 5,000 entries of a few sentences."""

ENTRIES_A_TURN: Final = 50
SESSIONS_A_TURN: Final = 10
"""Entries of a report, and sessions of a page, that are written in one turn."""

MAX_ACTIVE: Final = 100_000
"""More sessions than a machine carries: the limit of lists whose status the store does not distinguish."""

_TAG: Final = "Sessions"
_STORE_STATES: Final = {
    Status.ENDED: SessionState.ENDED,
    Status.FAILED: SessionState.FAILED,
    Status.CANCELED: SessionState.CANCELED,
}
"""Statuses that the store can filter by. Those of sessions that are not over differ only in their records."""


async def create(context: Context) -> Answer:
    """`POST /v1/sessions`: start a session, or repeat the answer to the same `Idempotency-Key`."""
    new = context.body_as(NewSession)
    key = idempotency.key_of(context.request.headers, Style.ENVELOPE)

    async def work() -> Answer:
        session_id, transport = await start(context, new)
        record = await _record(context, session_id)
        body = session_view(record, _seen(context), transport)
        return Answer(201, body, {"Location": f"/v1/sessions/{session_id}"})

    if key is None:
        return await work()
    fingerprint = idempotency.fingerprint_of(b"POST /v1/sessions", context.raw_body)
    request = idempotency.IdempotentRequest(context.caller.organization, key, fingerprint)
    return await idempotency.run_once(context.services, request, work)


async def show(context: Context) -> Answer:
    """`GET /v1/sessions/{session_id}`: answer with the session, on request at its end."""
    query = context.query_as(ShowQuery)
    record = await _session(context)
    if query.wait_for_completion and record.state not in TERMINAL:
        record = await _wait_until_over(context, query.timeout_seconds)
    return await _answer(context, record)


async def list_sessions(context: Context) -> Answer:
    """`GET /v1/sessions`: list sessions, the newest first."""
    query = context.query_as(ListQuery)
    records, total = await _page(context, query)
    seen = _seen(context)
    data = await in_turns(records, lambda record: session_summary(record, seen), SESSIONS_A_TURN)
    page = SessionPage(
        data=[],
        total=total,
        limit=query.limit,
        offset=query.offset,
        has_more=query.offset + len(records) < total,
    )
    return Answer(200, with_texts(page, {"data": dump_array(data)}))


async def stop(context: Context) -> Answer:
    """`POST /v1/sessions/{session_id}/stop`: stop a session; no error if it is over already."""
    record = await _session(context)
    if record.state not in TERMINAL:
        await context.services.calls.commands.stop(record.session_id)
    return await _answer(context, await _session(context))


async def complete(context: Context) -> Answer:
    """`POST /v1/sessions/{session_id}/complete`: store the agent's report, once."""
    report = context.body_as(Report)
    record = await _reportable(context)
    transcript = None
    if report.transcript is not None:
        entries = await in_turns(report.transcript, _entry_text, ENTRIES_A_TURN)
        transcript = dump_array(entries).raw.decode()
    results = None if report.results is None else dump(report.results).decode()
    services = context.services
    stored = await services.calls.store.complete(
        record.session_id, transcript, report.duration_seconds, results, services.calls.now()
    )
    record = await _session(context)
    if not stored:
        raise _not_reportable(record)
    return await _answer(context, record)


async def _reportable(context: Context) -> SessionRecord:
    """Return the session that the path names. Raises ApiError: 404, or 409 if it takes no report."""
    record = await _session(context)
    if record.completed_at is not None or record.state in TERMINAL:
        raise _not_reportable(record)
    return record


def _not_reportable(record: SessionRecord) -> ApiError:
    if record.completed_at is not None:
        return ApiError(409, "already_completed", "The session was completed already")
    return ApiError(409, "session_not_active", f"The session is {record.state}, and not active")


def _entry_text(entry: TranscriptEntry) -> JsonText:
    at = None if entry.timestamp is None else utc_text(entry.timestamp)
    value = {"role": entry.role, "text": entry.text, "timestamp": at}
    return JsonText(dump(value))


async def _record(context: Context, session_id: str) -> SessionRecord:
    """Return a session of the key's organisation. Raises ApiError (404), StoreFailed."""
    record = await context.services.calls.store.session(session_id)
    if record is None or record.organization != context.caller.organization:
        raise not_found("There is no such session", Style.ENVELOPE)
    return record


async def _session(context: Context) -> SessionRecord:
    """Return the session that the path names. Raises ApiError (404), StoreFailed."""
    return await _record(context, context.path["session_id"])


async def _answer(context: Context, record: SessionRecord) -> Answer:
    calls = context.services.calls
    state = consultation = None
    if record.transport == TELEPHONY:
        consultations = ConsultationLog(calls.store, calls.call_log, calls.now)
        state = await calls.call_log.of(record.session_id)
        consultation = await consultations.of_session(record.session_id)
    node = None
    if calls.nodes is not None and record.active:
        node = await calls.nodes.directory.url_of(record.owner)
    report = CallReport(state, consultation, await played_so_far(calls, record), node)
    return Answer(200, session_view(record, _seen(context), call=report))


def _seen(context: Context) -> Seen:
    return Seen(context.services.calls.now(), context.services.calls.health)


async def _wait_until_over(context: Context, timeout_s: float) -> SessionRecord:
    """Return the session at its end, or after `timeout_s` seconds.

    Raises ClientDisconnect if the client leaves.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    disconnect = asyncio.create_task(_wait_for_disconnect(context.request))
    try:
        while True:
            # Wait first, read then: an end between the two is not missed.
            with session_events(context.services.calls.store).waiting(context.path["session_id"]) as over:
                record = await _session(context)
                remaining_s = deadline - loop.time()
                if record.state in TERMINAL or remaining_s <= 0:
                    return record
                await asyncio.wait(
                    [over, disconnect], timeout=remaining_s, return_when=asyncio.FIRST_COMPLETED
                )
            if disconnect.done():
                raise ClientDisconnect
    finally:
        disconnect.cancel()
        await asyncio.wait([disconnect])


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _page(context: Context, query: ListQuery) -> tuple[list[SessionRecord], int]:
    """Return the sessions of the page, and the number of all that match."""
    organization = context.caller.organization
    store = context.services.calls.store
    matching = SessionFilter(
        agent=None if query.agent is None else service_host(query.agent, organization),
        organization=organization,
        created_from=None if query.created_from is None else query.created_from.timestamp(),
        created_before=None if query.created_before is None else query.created_before.timestamp(),
    )
    if query.status is None or query.status in _STORE_STATES:
        state = None if query.status is None else _STORE_STATES[query.status]
        return await store.sessions(replace(matching, state=state), limit=query.limit, offset=query.offset)
    records: list[SessionRecord] = []
    if query.status is not Status.CREATED:
        records, _ = await store.sessions(replace(matching, active=True), limit=MAX_ACTIVE)
    if query.status in (Status.CREATED, Status.QUEUED):
        pending, _ = await store.sessions(replace(matching, state=SessionState.CREATED), limit=MAX_ACTIVE)
        records = sorted([*records, *pending], key=lambda record: record.created_at, reverse=True)
    health = context.services.calls.health
    records = [record for record in records if status_of(record, health) is query.status]
    return records[query.offset : query.offset + query.limit], len(records)


_ID_NOTE: Final = {
    "session_id": "The session's id, as in the start's answer or in the agent's headers; or its `ulid`."
}

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
        max_body_bytes=MAX_NEW_BYTES,
        large=(LargeMember("body", "body", b"true", MAX_NEW_BYTES),),
        answers={201: Session, 400: None, 404: None, 409: None, 413: None, 502: None, 503: None, 504: None},
        description="Only this answer has the transport's secrets.",
        request_headers={
            idempotency.HEADER: "A repeated key with the same body gets the same answer for 24 hours and "
            "starts nothing; with another body it is refused (409)."
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
        audited=True,
        answers={200: Session},
        description="On any worker. A session that is over stays unchanged.",
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
        check=_reportable,
        large=(
            LargeMember(
                "transcript",
                "transcript",
                b'[{"role":"user","text":"","timestamp":"2026-01-31T09:30:00Z"}]',
                MAX_REPORT_BYTES,
                entry=TranscriptEntry,
                max_entries=TRANSCRIPT_ENTRIES,
            ),
            LargeMember("results", "results", b"true", RESULTS_BYTES),
        ),
        description="Once, while the session is active. It continues until one of its sides ends it.",
        path_notes=_ID_NOTE,
    ),
)
