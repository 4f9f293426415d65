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

from gateway.api.carrier_proof import prove_anybodys, prove_request
from gateway.api.carrier_request import Question, read_question
from gateway.api.operation import Access, Context, Operation, Style
from gateway.calls.bots import NotReady
from gateway.calls.ends import end_watch
from gateway.carriers.answers import busy_document, stream_document
from gateway.carriers.habits import HABITS
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.sessions.call_sockets import CallSocket
from gateway.sessions.lifecycle import TERMINAL, State
from gateway.sessions.store import StoreFailed
from gateway.sessions.tokens import TOKEN_S
from texml.errors import DocumentError
from texml.plan import Reject
from texml.registry import WRITERS

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
    except CallEnd as end:
        line.info("document", what="error", reason=end.ending.code, words=end.words)
        raise
    headers = {"Content-Type": WRITERS[carrier].content_type, "Cache-Control": "no-store"}
    return Response(text, headers=headers)


async def _answer(context: Context, carrier: str, line: structlog.stdlib.BoundLogger) -> str:
    """The document, told in one line. Raises CallEnd where there is none; then nothing is told."""
    if carrier not in WRITERS:
        raise CallEnd(Endings.not_found, f"no such carrier; there are {', '.join(sorted(WRITERS))}")
    settings = context.services.settings
    if settings.server.public_url is None:
        raise CallEnd(Endings.not_found, "there are no documents without [server] public_url")
    question = read_question(context, carrier, settings.limits.max_body_bytes)
    line = line.bind(call_id=question.asked.call_id, returns=question.asked.returns)
    agent = None
    try:
        agent = await _proven_agent(context, question)
        line = line.bind(agent=agent.service_host, organization=agent.organization)
        course = await _course(context, agent, question)
        text = _stream(context, agent, question, course)
    except Over as over:
        text = _goodbye(carrier, CallEnd(Endings.not_found, over.reason))
        line.info("document", what="goodbye", words=over.reason)
    except CallEnd as end:
        if end.ending not in _KINDLY:
            raise
        text = _refusal(context, agent, question, end)
        line.info("document", what="refusal", reason=end.ending.code, words=end.words)
    else:
        line.info("document", what="stream", session=course.session_id)
    return text


_KINDLY: Final = (
    Endings.unknown_agent,
    Endings.wrong_region,
    Endings.at_capacity,
    Endings.draining,
    Endings.store_failed,
    Endings.too_many_returns,
    Endings.carrier_cannot,
)
"""What a caller is told and not the operator."""


async def _proven_agent(context: Context, question: Question) -> AgentSettings:
    """The agent, for a request that is the carrier's. Raises CallEnd."""
    directory, asked = context.services.directory, question.asked
    if question.organization is not None:  # a stranger learns nothing, not even which agents there are
        prove_request(context, asked.carrier, question.organization)
    try:
        agent = directory.named(question.named, question.region)
        if agent is None:
            agent = directory.called(asked.to_number, question.region)
    except CallEnd as end:
        if question.organization is None and end.ending is Endings.unknown_agent:
            prove_anybodys(context, asked.carrier)
        raise
    if question.organization is None:
        prove_request(context, asked.carrier, agent.organization)
    accounts = context.services.board.accounts
    if agent.websocket_auth == "token" and not accounts.wants_proof(agent.organization, asked.carrier):
        words = f"{agent.service_host} wants a token, and no account proves who asks for one"
        raise CallEnd(Endings.unauthorized, words)
    return agent


async def _course(context: Context, agent: AgentSettings, question: Question) -> Course:
    """How the call goes on. Raises Over where it does not, CallEnd where it cannot."""
    try:
        return await _next(context, agent, question)
    except StoreFailed as error:
        raise CallEnd(Endings.store_failed, str(error)) from None


async def _next(context: Context, agent: AgentSettings, question: Question) -> Course:
    services, asked = context.services, question.asked
    if asked.returns > agent.max_returns:
        raise CallEnd(Endings.too_many_returns)
    earlier = await _come_back(context, agent, question) if asked.returns else None
    if services.board.draining:
        raise CallEnd(Endings.draining)
    try:
        with suppress(NotReady):  # the call's socket waits for the instance
            await services.bots.expect_place(agent)
    except CallEnd as full:
        # A webhook that is repeated, or a call that comes back from a gateway that died, has its place.
        # Where it may wait or flow over, that is done on its stream.
        goes_on = agent.queue_size > 0 or agent.overflow != "refuse"
        if full.ending is not Endings.at_capacity or not (
            goes_on or await _holds_place(context, agent, question)
        ):
            raise
    return Course(services.new_id(), takes_over=earlier is not None)


async def _come_back(context: Context, agent: AgentSettings, question: Question) -> CallSocket | None:
    """The stream that the call comes back from, None where it has had none.

    Raises Over where its session ended well. One whose session failed, or whose gateway died, goes on, and so
    does one whose session waits for another stream (reconnect.py).
    """
    socket = await _last_socket(context, agent, question)
    if socket is None:
        return None
    store = context.services.store
    with end_watch(store).waiting(socket.session_id) as over:
        record = await store.session(socket.session_id)
        if record is not None and record.state not in TERMINAL:
            await store.reap(context.services.now())  # its worker may have died just now
            await _until_over_or_lost(context, socket, over)
            record = await store.session(socket.session_id)
    if record is not None and record.state in TERMINAL and record.state is not State.FAILED:
        raise Over("the call has had its agent")
    return socket


async def _until_over_or_lost(context: Context, socket: CallSocket, over: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + RETURN_WAIT_S
    while not over.done() and (now := loop.time()) < until:
        if await context.services.board.call_sockets.is_lost(socket.session_id):
            return
        await asyncio.wait([over], timeout=min(LOOK_S, until - now))


async def _holds_place(context: Context, agent: AgentSettings, question: Question) -> bool:
    socket = await _last_socket(context, agent, question)
    record = await context.services.store.session(socket.session_id) if socket is not None else None
    return record is not None and record.active


async def _last_socket(context: Context, agent: AgentSettings, question: Question) -> CallSocket | None:
    asked = question.asked
    if asked.call_id is None:
        return None
    call = agent.organization, asked.carrier, asked.call_id
    sockets = await context.services.board.call_sockets.all(call)
    return sockets[-1] if sockets else None


def _stream(context: Context, agent: AgentSettings, question: Question, course: Course) -> str:
    services, asked = context.services, question.asked
    # A carrier that reconnects dials the same URL as long as the call lasts.
    longest_s = agent.max_session_duration if HABITS[asked.carrier].reconnects else 0
    token = services.tokens.mint_call(
        agent.service_host,
        agent.organization,
        asked.carrier,
        call_id=asked.call_id,
        session_id=course.session_id,
        held=False,
        takes_over=course.takes_over,
        lasting_s=TOKEN_S + longest_s,
    )
    try:
        return stream_document(
            services.board.accounts,
            agent,
            asked,
            token=token,
            session_id=course.session_id,
            max_body_bytes=services.settings.limits.max_body_bytes,
        )
    except DocumentError as error:
        raise CallEnd(Endings.carrier_cannot, str(error)) from None


def _refusal(context: Context, agent: AgentSettings | None, question: Question, end: CallEnd) -> str:
    """What the caller gets instead. Raises the end itself where the carrier's document can say nothing."""
    asked = question.asked
    if end.ending is Endings.too_many_returns:
        return _goodbye(asked.carrier, end)
    try:
        if agent is None:
            return WRITERS[asked.carrier].busy(Reject(), None)
        return busy_document(context.services.board.accounts, agent, asked)
    except DocumentError:
        return _goodbye(asked.carrier, end)


def _goodbye(carrier: str, end: CallEnd) -> str:
    try:
        return WRITERS[carrier].goodbye()
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
    _operation("GET", "/plivo-xml", "plivo"),
    _operation("POST", "/plivo-xml", "plivo"),
)
