# SPDX-License-Identifier: BSD-2-Clause
"""The documents that carriers fetch when a call comes in: `/xml/{carrier}`, and Plivo's `/plivo-xml`.

A call can still be refused kindly here, by what the agent's `busy` says: no place, a gateway that drains, no
such agent. What is wrong with the URL itself is an HTTP error, for whoever typed it in. Each answer is told
in one line.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from starlette.responses import Response

from gateway.api.framework.operation import Access, Context, Operation, Style
from gateway.api.webhooks.carrier_request import (
    DocumentRequest,
    authenticate_any,
    authenticate_request,
    read_document_request,
)
from gateway.auth.call_tokens import Audience
from gateway.auth.media_tokens import TOKEN_S, CallGrant
from gateway.calls.bot_session import NotReady
from gateway.calls.session_events import session_events
from gateway.calls.stream_history import CallStream
from gateway.carriers.registry import CARRIERS, WITH_DOCUMENTS
from gateway.carriers.stream_documents import StreamTarget, busy_document, stream_document
from gateway.config import AgentSettings
from gateway.config.call_handling import Refuse
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from texml.document import DocumentError, Reject

log = structlog.get_logger(__name__)

MAX_FORM_BYTES: Final = 65_536
RETURN_WAIT_S: Final = 2.0
"""How long the end of a session may be later than the carrier that comes back from it."""

LOOK_S: Final = 0.1
"""How often it is seen meanwhile whether the session waits for the carrier."""


class Over(Exception):  # noqa: N818 - an answer, not a fault
    """The call has been where it was to go, and may end. `reason`: why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Course:
    """How a call goes on.

    `session_id`: what it becomes. `takes_over`: whether an earlier stream of the call is over, as its carrier
    says.
    """

    session_id: str
    takes_over: bool


async def document(context: Context, carrier: str | None = None) -> Response:
    """Answers a carrier that asks what to do with a call."""
    carrier = carrier or context.path["carrier"]
    line = log.bind(carrier=carrier)
    try:
        text = await _answer(context, carrier, line)
    except CallEnded as end:
        line.info("document", what="error", reason=end.reason.code, words=end.detail)
        raise
    headers = {"Content-Type": CARRIERS[carrier].documents.content_type, "Cache-Control": "no-store"}
    return Response(text, headers=headers)


async def _answer(context: Context, carrier: str, line: structlog.stdlib.BoundLogger) -> str:
    """The document, told in one line. Raises CallEnded where there is none; then nothing is told."""
    if carrier not in WITH_DOCUMENTS:
        raise CallEnded(Reasons.not_found, f"no such carrier; there are {', '.join(sorted(WITH_DOCUMENTS))}")
    settings = context.services.settings
    if settings.server.public_url is None:
        raise CallEnded(Reasons.not_found, "there are no documents without [server] public_url")
    question = read_document_request(context, carrier, settings.limits.max_body_bytes)
    line = line.bind(call_id=question.asked.call_id, returns=question.asked.returns)
    agent = None
    try:
        agent = await _proven_agent(context, question)
        line = line.bind(agent=agent.service_host, organization=agent.organization)
        course = await _course(context, agent, question)
        text = _stream(context, agent, question, course)
    except Over as over:
        text = _goodbye(carrier, CallEnded(Reasons.not_found, over.reason))
        line.info("document", what="goodbye", words=over.reason)
    except CallEnded as end:
        if end.reason not in _KINDLY:
            raise
        text = _refusal(context, agent, question, end)
        line.info("document", what="refusal", reason=end.reason.code, words=end.detail)
    else:
        line.info("document", what="stream", session=course.session_id)
    return text


_KINDLY: Final = (
    Reasons.unknown_agent,
    Reasons.wrong_region,
    Reasons.at_capacity,
    Reasons.draining,
    Reasons.store_failed,
    Reasons.too_many_returns,
    Reasons.carrier_cannot,
)
"""What a caller is told and not the operator."""


async def _proven_agent(context: Context, question: DocumentRequest) -> AgentSettings:
    """The agent, for a request that is the carrier's. Raises CallEnded."""
    directory, asked = context.services.agents, question.asked
    if question.organization is not None:  # a stranger learns nothing, not even which agents there are
        authenticate_request(context, asked.carrier, question.organization)
    try:
        agent = directory.named(question.named, question.region)
        if agent is None:
            agent = directory.called(asked.to_number, question.region)
    except CallEnded as end:
        if question.organization is None and end.reason is Reasons.unknown_agent:
            authenticate_any(context, asked.carrier)
        raise
    if question.organization is None:
        authenticate_request(context, asked.carrier, agent.organization)
    accounts = context.services.calls.accounts
    if agent.websocket_auth == "token" and not accounts.requires_authentication(
        agent.organization, asked.carrier
    ):
        detail = f"{agent.service_host} wants a token, and no account proves who asks for one"
        raise CallEnded(Reasons.unauthorized, detail)
    return agent


async def _course(context: Context, agent: AgentSettings, question: DocumentRequest) -> Course:
    """How the call goes on. Raises Over where it does not, CallEnded where it cannot."""
    try:
        return await _next(context, agent, question)
    except StoreFailed as error:
        raise CallEnded(Reasons.store_failed, str(error)) from None


async def _next(context: Context, agent: AgentSettings, question: DocumentRequest) -> Course:
    services, asked = context.services, question.asked
    if asked.returns > agent.max_returns:
        raise CallEnded(Reasons.too_many_returns)
    earlier = await _come_back(context, agent, question) if asked.returns else None
    if services.active.draining:
        raise CallEnded(Reasons.draining)
    try:
        with suppress(NotReady):  # the call's socket waits for the instance
            await services.bots.check(agent)
    except CallEnded as full:
        # A webhook that is repeated, or a call that comes back from a gateway that died, has its place.
        # Where it may wait or flow over, that is done on its stream.
        goes_on = agent.queue_size > 0 or not isinstance(agent.overflow, Refuse)
        if full.reason is not Reasons.at_capacity or not (
            goes_on or await _holds_place(context, agent, question)
        ):
            raise
    return Course(services.new_id(), takes_over=earlier is not None)


async def _come_back(context: Context, agent: AgentSettings, question: DocumentRequest) -> CallStream | None:
    """The stream that the call comes back from, None where it has had none.

    Raises Over where its session ended well. One whose session failed, or whose gateway died, goes on, and so
    does one whose session waits for another stream (reconnect.py).
    """
    socket = await _last_socket(context, agent, question)
    if socket is None:
        return None
    store = context.services.store
    with session_events(store).waiting(socket.session_id) as over:
        record = await store.session(socket.session_id)
        if record is not None and record.state not in TERMINAL:
            await store.reap(context.services.now())  # its worker may have died just now
            await _until_over_or_lost(context, socket, over)
            record = await store.session(socket.session_id)
    if record is not None and record.state in TERMINAL and record.state is not SessionState.FAILED:
        raise Over("the call has had its agent")
    return socket


async def _until_over_or_lost(context: Context, socket: CallStream, over: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + RETURN_WAIT_S
    while not over.done() and (now := loop.time()) < until:
        if await context.services.calls.streams.is_lost(socket.session_id):
            return
        await asyncio.wait([over], timeout=min(LOOK_S, until - now))


async def _holds_place(context: Context, agent: AgentSettings, question: DocumentRequest) -> bool:
    socket = await _last_socket(context, agent, question)
    record = await context.services.store.session(socket.session_id) if socket is not None else None
    return record is not None and record.active


async def _last_socket(
    context: Context, agent: AgentSettings, question: DocumentRequest
) -> CallStream | None:
    asked = question.asked
    if asked.call_id is None:
        return None
    call = agent.organization, asked.carrier, asked.call_id
    sockets = await context.services.calls.streams.all(call)
    return sockets[-1] if sockets else None


def _stream(context: Context, agent: AgentSettings, question: DocumentRequest, course: Course) -> str:
    services, asked = context.services, question.asked
    # A carrier that reconnects dials the same URL as long as the call lasts.
    longest_s = agent.max_session_duration if CARRIERS[asked.carrier].profile.reconnects else 0
    token = services.tokens.mint_call(
        Audience(agent.service_host, agent.organization, asked.carrier),
        CallGrant(
            call_id=asked.call_id,
            session_id=course.session_id,
            admitted=False,
            takes_over=course.takes_over,
            lasting_s=TOKEN_S + longest_s,
        ),
    )
    try:
        return stream_document(
            services.calls.accounts,
            agent,
            asked,
            StreamTarget(token, course.session_id, services.settings.limits.max_body_bytes),
        )
    except DocumentError as error:
        raise CallEnded(Reasons.carrier_cannot, str(error)) from None


def _refusal(context: Context, agent: AgentSettings | None, question: DocumentRequest, end: CallEnded) -> str:
    """What the caller gets instead. Raises the end itself where the carrier's document can say nothing."""
    asked = question.asked
    if end.reason is Reasons.too_many_returns:
        return _goodbye(asked.carrier, end)
    try:
        if agent is None:
            return CARRIERS[asked.carrier].documents.busy(Reject(), None)
        return busy_document(context.services.calls.accounts, agent, asked)
    except DocumentError:
        return _goodbye(asked.carrier, end)


def _goodbye(carrier: str, end: CallEnded) -> str:
    try:
        return CARRIERS[carrier].documents.hangup()
    except DocumentError:
        raise end from None  # an applet that gets no document goes on with its flow


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
        max_body_bytes=MAX_FORM_BYTES,
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
