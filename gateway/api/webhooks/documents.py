# SPDX-License-Identifier: BSD-2-Clause
"""The documents that carriers fetch for an incoming call: `/xml/{carrier}`, and Plivo's `/plivo-xml`.

A call that cannot be served (no slot, draining, unknown agent) is refused with a document made from the
agent's `busy`, which the caller hears. A faulty URL is an HTTP error, for the operator. Each answer is one
log line.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from starlette.responses import Response

from gateway.api.framework.operation import MAX_BODY_BYTES, Access, Context, Operation, Style
from gateway.api.webhooks.carrier_request import (
    DocumentRequest,
    authenticate_any,
    authenticate_request,
    is_authenticated,
    read_document_request,
)
from gateway.api.webhooks.deduplication import take_for
from gateway.auth.call_tokens import Audience
from gateway.auth.media_tokens import TOKEN_S, CallGrant
from gateway.calls.awaited_streams import AwaitedCall
from gateway.calls.bot_session import NotReady
from gateway.calls.session_events import session_events
from gateway.calls.spending import CallRateLimiter
from gateway.calls.stream_history import CallStream
from gateway.carriers.registry import CARRIERS, WITH_DOCUMENTS
from gateway.carriers.stream_documents import StreamTarget, busy_document, stream_document
from gateway.config import AgentSettings, CarrierAccount
from gateway.config.call_handling import Refuse
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.observability.log import log_at
from gateway.store.interface import StoreFailed
from texml.document import Dial, DocumentError, Reject

log = structlog.get_logger(__name__)

RETURN_WAIT_S: Final = 2.0
"""Seconds that the end of a session may take after its carrier has come back for the next document."""

LOST_CHECK_S: Final = 0.1
"""Seconds between checks, meanwhile, whether the session has lost its carrier and waits for it."""


class CallFinished(Exception):  # noqa: N818 - an answer, not a fault
    """The call has had its agent, and may end. `reason`: for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class NextSession:
    """The session that the call's stream will have.

    `takes_over`: whether the carrier has reported the end of a previous stream of the call. `awaited`: the
    call that has its slot already (gateway/calls/awaited_streams.py), None if the stream takes it.
    """

    session_id: str
    takes_over: bool
    awaited: AwaitedCall | None = None


async def document(context: Context, carrier: str | None = None) -> Response:
    """Answer a carrier's request for the document of a call. `carrier`: by default that of the path."""
    carrier = carrier or context.path["carrier"]
    line = log.bind(carrier=carrier)
    try:
        text = await _answer(context, carrier, line)
    except CallEnded as end:
        severity = end.reason.severity(ran=False)
        log_at(line, severity, "document", what="error", reason=end.reason.code, words=end.detail)
        raise
    headers = {"Content-Type": CARRIERS[carrier].documents.content_type, "Cache-Control": "no-store"}
    return Response(text, headers=headers)


async def _answer(context: Context, carrier: str, line: structlog.stdlib.BoundLogger) -> str:
    """Return the document and log it in one line. Raises CallEnded, unlogged, if there is none."""
    if carrier not in WITH_DOCUMENTS:
        raise CallEnded(Reasons.not_found, f"no such carrier; there are {', '.join(sorted(WITH_DOCUMENTS))}")
    settings = context.services.calls.settings
    if settings.server.public_url is None:
        raise CallEnded(Reasons.not_found, "there are no documents without server.public_url")
    request = await read_document_request(context, carrier, settings.limits.max_body_bytes)
    line = line.bind(call_id=request.call.call_id, returns=request.call.returns)
    agent = None
    try:
        agent, account = await _authenticated_agent(context, request)
        line = line.bind(agent=agent.service_host, organization=agent.organization)
        session = await _next_session(context, agent, request, account)
        text = _stream(context, agent, request, session, account)
    except CallFinished as finished:
        text = _goodbye(carrier, CallEnded(Reasons.not_found, finished.reason))
        line.info("document", what="goodbye", words=finished.reason)
    except CallEnded as end:
        if end.reason not in _SPOKEN_REASONS:
            raise
        text = await _refusing_document(context, agent, request, end)
        severity = end.reason.severity(ran=False)
        log_at(line, severity, "document", what="refusal", reason=end.reason.code, words=end.detail)
    else:
        line.info("document", what="stream", session=session.session_id, **_slot(session))
    return text


def _slot(session: NextSession) -> dict[str, bool]:
    """Return the field of the log line that says that the document has taken the slot."""
    return {"admitted": True} if session.awaited is not None else {}


_SPOKEN_REASONS: Final = (
    Reasons.unknown_agent,
    Reasons.wrong_region,
    Reasons.at_capacity,
    Reasons.draining,
    Reasons.store_failed,
    Reasons.too_many_returns,
    Reasons.carrier_cannot,
)
"""Reasons that the caller hears in a document; all others are HTTP errors for the operator."""


async def _authenticated_agent(
    context: Context, request: DocumentRequest
) -> tuple[AgentSettings, CarrierAccount | None]:
    """Return the agent of an authenticated request, and the account that it is of. Raises CallEnded."""
    directory, call = context.services.calls.agents, request.call
    account = None
    if request.organization is not None:  # first, so that a stranger does not learn which agents exist
        account = authenticate_request(context, call.carrier, request.organization)
    try:
        agent = directory.named(request.agents, request.region)
        if agent is None:
            agent = directory.called(call.to_number, request.region)
    except CallEnded as end:
        if request.organization is None and end.reason is Reasons.unknown_agent:
            authenticate_any(context, call.carrier)
        if end.reason in (Reasons.unknown_agent, Reasons.wrong_region):
            _check_unserved(context, request)
        raise
    if request.organization is None:
        account = authenticate_request(context, call.carrier, agent.organization)
    accounts = context.services.calls.accounts
    is_authenticated_call = accounts.requires_authentication(agent.organization, call.carrier)
    if not agent.is_open and not is_authenticated_call:
        raise CallEnded(Reasons.unauthorized, _NO_ACCOUNT)
    header = CARRIERS[call.carrier].body_signature
    # Without a body nothing but the time is signed, and two calls in one second have the same signature.
    if header is not None and is_authenticated_call and context.raw_body:
        try:
            signature = context.request.headers.get(header, "")
            await take_for(context.services.calls, agent.service_host, signature)
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
    return agent, account


_NO_ACCOUNT: Final = "the agent wants a token, and no account proves who asks for one"
"""The same for every agent, also one that does not exist: nobody finds out their names by asking."""


def _check_unserved(context: Context, request: DocumentRequest) -> None:
    """Refuse a request for an agent that is not served here as one for an agent that is.

    Raises CallEnded(unauthorized) if the request is not authenticated and agents require that by default.
    """
    calls, carrier = context.services.calls, request.call.carrier
    organizations = (
        [request.organization]
        if request.organization is not None
        else [organization.name for organization in calls.settings.organizations]
    )
    if any(map(calls.settings.is_closed_by_default, organizations)) and not is_authenticated(
        context, carrier
    ):
        raise CallEnded(Reasons.unauthorized, _NO_ACCOUNT)


async def _next_session(
    context: Context, agent: AgentSettings, request: DocumentRequest, account: CarrierAccount | None
) -> NextSession:
    """Return the call's next session. Raises CallFinished if it needs none, CallEnded if it can have none."""
    try:
        return await _admitted_session(context, agent, request, account)
    except StoreFailed as error:
        raise CallEnded(Reasons.store_failed, str(error)) from None


async def _admitted_session(
    context: Context, agent: AgentSettings, request: DocumentRequest, account: CarrierAccount | None
) -> NextSession:
    services, call = context.services, request.call
    if call.returns > agent.max_returns:
        raise CallEnded(Reasons.too_many_returns)
    previous = await _previous_stream(context, agent, request) if call.returns else None
    if services.active.draining and not (
        previous is not None and await services.calls.streams.is_lost(previous.session_id)
    ):
        raise CallEnded(Reasons.draining)  # the call has no session that waits for a stream
    try:
        # Only a carrier that has proven itself takes a slot, for a call that has had no stream.
        if agent.admits_at_document and account is not None and previous is None:
            awaited = await _session_with_slot(context, agent, request, account)
            if awaited is not None:
                return awaited
        with suppress(NotReady):  # the call's stream waits for the instance
            await services.bots.check(agent)
    except CallEnded as full:
        # A repeated webhook, or a call that comes back from a gateway that died, has its slot already.
        # Queue and overflow are handled on the call's stream.
        may_wait = agent.queue_size > 0 or not isinstance(agent.overflow, Refuse)
        if full.reason is not Reasons.at_capacity or not (
            may_wait or await _holds_slot(context, agent, request)
        ):
            raise
    return NextSession(services.calls.new_id(), takes_over=previous is not None)


async def _session_with_slot(
    context: Context, agent: AgentSettings, request: DocumentRequest, account: CarrierAccount
) -> NextSession | None:
    """Take the call's slot now, and return its session. None if its stream has to take the slot.

    Raises CallEnded: at_capacity; carrier_cannot if the document cannot be written, before a slot is taken.
    """
    call, streams = request.call, context.services.calls.awaited
    if call.call_id is None:
        return None
    awaited = AwaitedCall(call.carrier, call.call_id, call.from_number, call.to_number)
    session = NextSession(streams.session_id(agent, awaited), takes_over=False, awaited=awaited)
    _stream(context, agent, request, session, account)
    most = context.services.calls.settings.limits.awaited_per_organization
    return session if await streams.take(agent, awaited, most) else None


async def _previous_stream(
    context: Context, agent: AgentSettings, request: DocumentRequest
) -> CallStream | None:
    """Return the stream that the call comes back from; None if it has had none.

    A call whose session failed, whose gateway died, or whose session waits for another stream
    (carrier_reconnect.py) gets a new stream. Raises CallFinished if its session ended well.
    """
    stream = await _last_stream(context, agent, request)
    if stream is None:
        return None
    store = context.services.calls.store
    with session_events(store).waiting(stream.session_id) as over:
        record = await store.session(stream.session_id)
        if record is not None and record.state not in TERMINAL:
            await store.reap(context.services.calls.now())  # its worker may have died just now
            await _until_over_or_lost(context, stream, over)
            record = await store.session(stream.session_id)
    if record is not None and record.state in TERMINAL and record.state is not SessionState.FAILED:
        raise CallFinished("the call has had its agent")
    return stream


async def _until_over_or_lost(context: Context, stream: CallStream, over: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RETURN_WAIT_S
    while not over.done() and (now := loop.time()) < deadline:
        if await context.services.calls.streams.is_lost(stream.session_id):
            return
        await asyncio.wait([over], timeout=min(LOST_CHECK_S, deadline - now))


async def _holds_slot(context: Context, agent: AgentSettings, request: DocumentRequest) -> bool:
    stream = await _last_stream(context, agent, request)
    record = await context.services.calls.store.session(stream.session_id) if stream is not None else None
    return record is not None and record.active


async def _last_stream(context: Context, agent: AgentSettings, request: DocumentRequest) -> CallStream | None:
    call = request.call
    if call.call_id is None:
        return None
    streams = await context.services.calls.streams.all((agent.organization, call.carrier, call.call_id))
    return streams[-1] if streams else None


def _stream(
    context: Context,
    agent: AgentSettings,
    request: DocumentRequest,
    session: NextSession,
    account: CarrierAccount | None,
) -> str:
    """Return the document with the call's stream. `account`: the one that asks for it, if that is known."""
    services, call = context.services, request.call
    # A carrier that reconnects dials the same URL for as long as the call lasts.
    max_call_s = agent.max_session_duration if CARRIERS[call.carrier].profile.reconnects else 0
    token = services.calls.tokens.mint_call(
        Audience(agent.service_host, agent.organization, call.carrier),
        CallGrant(
            call_id=call.call_id,
            session_id=session.session_id,
            admitted=session.awaited is not None,
            awaited=session.awaited is not None,
            takes_over=session.takes_over,
            lasting_s=TOKEN_S + max_call_s,
            # A token that authenticates its upgrade must be bound to its call.
            unsigned_upgrade=account is not None and not account.signs_upgrades and call.call_id is not None,
        ),
    )
    try:
        return stream_document(
            services.calls.accounts,
            agent,
            call,
            StreamTarget(token, session.session_id, services.calls.settings.limits.max_body_bytes),
        )
    except DocumentError as error:
        raise CallEnded(Reasons.carrier_cannot, str(error)) from None


async def _refusing_document(
    context: Context, agent: AgentSettings | None, request: DocumentRequest, end: CallEnded
) -> str:
    """Return the document that refuses the call. Raises `end` if the carrier's documents cannot refuse."""
    call = request.call
    if end.reason is Reasons.too_many_returns:
        return _goodbye(call.carrier, end)
    try:
        if agent is None or not await _may_forward(context, agent):
            return CARRIERS[call.carrier].documents.busy(Reject(), None)
        return busy_document(context.services.calls.accounts, agent, call)
    except DocumentError:
        return _goodbye(call.carrier, end)


async def _may_forward(context: Context, agent: AgentSettings) -> bool:
    """Return False if the agent's `busy` is a number, and too many callers were sent to numbers lately."""
    if not isinstance(agent.busy, Dial):
        return True
    calls = context.services.calls
    organization = calls.settings.find_organization(agent.organization)
    try:
        await CallRateLimiter(calls.store.key_values, calls.now).acquire_forwarding(organization)
    except StoreFailed:
        return True  # the store may be the very reason for which the caller is sent to the number
    except CallEnded as limited:
        log.warning("not forwarded", agent=agent.service_host, words=limited.detail)
        return False
    return True


def _goodbye(carrier: str, end: CallEnded) -> str:
    try:
        return CARRIERS[carrier].documents.hangup()
    except DocumentError:
        raise end from None  # an applet without a document continues with its flow


def _operation(method: str, path: str, carrier: str | None = None) -> Operation:
    return Operation(
        method=method,
        path=path,
        handler=partial(document, carrier=carrier),
        access=Access.NONE,
        style=Style.PCC,
        summary="A call's document",
        tag="Carriers",
        reads_raw=True,
        max_body_bytes=MAX_BODY_BYTES,
        in_schema=False,
    )


DOCUMENTS: Final = (
    _operation("GET", "/xml/{carrier}"),
    _operation("POST", "/xml/{carrier}"),
    *(
        _operation(method, path, carrier.name)
        for carrier in CARRIERS.values()
        for path in carrier.document_paths
        for method in ("GET", "POST")
    ),
)
