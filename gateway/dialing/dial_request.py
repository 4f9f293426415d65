# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier is asked for a call out: whom to call, and which stream the answered call goes to.

The stream's URL carries a token that is good for the admitted session alone (carriers.md §2.1: in the path,
which every carrier delivers). Carriers that take a document in the request are given it; Plivo asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from gateway.calls.body import with_numbers
from gateway.carriers.answers import Asked, back_url
from gateway.carriers.habits import HABITS
from gateway.carriers.rest import DialRequest
from gateway.config import AgentSettings
from gateway.dialing.dial_wish import DialWish
from gateway.errors import CallEnd, Endings
from texml.errors import DocumentError
from texml.plan import read_tail
from texml.registry import WRITERS
from texml.stream import Stream

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

TOKEN_SLACK_S: Final = 120.0
"""How much longer a token is good than its call may wait in line and ring."""


def dial_request(board: Switchboard, wish: DialWish, session_id: str) -> DialRequest:
    """The request for one call. Raises CallEnd(bad_request) where the carrier could not carry it."""
    agent, carrier = wish.agent, wish.account.carrier
    callbacks = board.accounts.url(f"/callbacks/{carrier}/{session_id}", "https", agent.region)
    lasting_s = 2 * wish.timeout_s + TOKEN_SLACK_S
    stream_url = stream_url_of(board, agent, carrier, session_id, call_id=None, lasting_s=lasting_s)
    document = None
    if WRITERS[carrier].inline_limit:
        document = document_of(
            board, agent, carrier, stream_url, from_number=wish.from_number, to_number=wish.to
        )
    return DialRequest(
        to=wish.to,
        from_number=wish.from_number,
        answer_url=f"{callbacks}/answer",
        stream_url=stream_url,
        document=document,
        status_callback=callbacks,
        ring_timeout_s=round(wish.timeout_s),
        time_limit_s=agent.max_session_duration,
        session_id=session_id,
        machine_detection=wish.machine_detection,
    )


def document_of(
    board: Switchboard,
    agent: AgentSettings,
    carrier: str,
    stream_url: str,
    *,
    from_number: str | None,
    to_number: str | None,
) -> str:
    """What becomes of a call out that is answered. Raises CallEnd(bad_request) as `dial_request`."""
    writer = WRITERS[carrier]
    numbers = {"from_number": from_number, "to_number": to_number}
    parameters = (
        {} if HABITS[carrier].tells_numbers else {name: each for name, each in numbers.items() if each}
    )
    back = back_url(board.accounts, agent, Asked(carrier, None, from_number, to_number))
    try:
        document = writer.connect(Stream(stream_url, parameters), read_tail(agent.after), back)
        return writer.inline(document) if writer.inline_limit else document
    except DocumentError as error:
        raise CallEnd(Endings.bad_request, str(error)) from None


def stream_url_of(
    board: Switchboard,
    agent: AgentSettings,
    carrier: str,
    session_id: str,
    *,
    call_id: str | None,
    lasting_s: float,
) -> str:
    """Where the stream of a session goes that was admitted already."""
    # A carrier that reconnects dials the same URL as long as the call lasts.
    longest_s = agent.max_session_duration if HABITS[carrier].reconnects else 0
    token = board.tokens.mint_call(
        agent.service_host,
        agent.organization,
        carrier,
        call_id=call_id,
        session_id=session_id,
        lasting_s=lasting_s + longest_s,
    )
    path = f"/ws/{carrier}/{agent.service_host}/{token}"
    if HABITS[carrier].keeps_query:
        path = f"/ws/{carrier}?{urlencode({'serviceHost': agent.service_host, 'token': token})}"
    return board.accounts.url(path, "wss", agent.region)


def body_for(body: str | None, carrier: str, from_number: str, to_number: str, max_bytes: int) -> str | None:
    """The agent's body, base64 of JSON; with the numbers where nothing else tells them to it."""
    habits = HABITS[carrier]
    if habits.tells_numbers or not habits.keeps_query:
        return body
    return with_numbers(body, {"from": from_number, "to": to_number}, max_bytes)
