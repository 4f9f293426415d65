# SPDX-License-Identifier: BSD-2-Clause
"""One socket for one call: who may have it when several come (carriers.md §2.1, §3.1, §4.1).

A carrier that reconnects opens a second socket because it has lost the first: the second takes over. From
one that does not, a second socket is nobody's while the first lives. A token is good once, but for a carrier
that reconnects, which dials the URL that it has again; after a call that ended well nothing goes on.

Who takes over goes on with the session where it can (reconnect.py), whichever worker has it (handover.py).
Else that ends, and the second socket is a session of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.calls.ends import end_watch
from gateway.calls.handover import Elsewhere
from gateway.calls.reconnect import may_reconnect
from gateway.carriers.habits import HABITS
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.sessions.call_sockets import CallSocket, TooManySockets
from gateway.sessions.call_tokens import CallClaims
from gateway.sessions.lifecycle import TERMINAL, State
from gateway.sessions.session import SessionRecord
from gateway.sessions.store import StoreFailed
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.call import Call
    from gateway.calls.switchboard import Switchboard

TAKE_OVER_S: Final = 5.0
"""How long the earlier socket's session has to end."""

ADMISSION_S: Final = 2.0
"""How long after a socket was taken its session may still be unknown to the store."""

_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Claim:
    """A call's socket, taken.

    `call`: organization, carrier, call id. `held`: whether its session holds a place already, as that of a
    call out does; `body` is then what was kept for its agent, base64 of JSON.
    """

    call: tuple[str, str, str]
    socket: CallSocket
    held: bool
    body: str | None


async def claim(
    board: Switchboard,
    carrier: str,
    start: Start,
    agent: AgentSettings,
    claims: CallClaims,
    *,
    failed: Claim | None = None,
) -> tuple[Claim, Call | Elsewhere | None]:
    """Takes the call's socket: with the running call that goes on with it, else the session that had it ends.

    `failed`: taken before, for a call that could not go on after all. Raises CallEnd: unauthorized,
    duplicate_call, too_many_returns, store_failed.
    """
    call = agent.organization, carrier, start.call_id
    reconnects = HABITS[carrier].reconnects
    going_on: Call | Elsewhere | None = None

    async def judge(known: Sequence[CallSocket]) -> str | None:
        nonlocal going_on
        if failed is not None:
            known = [one for one in known if one != failed.socket]
        earlier = known[-1]
        if any(one.nonce == claims.nonce for one in known) and earlier.nonce != claims.nonce:
            raise CallEnd(Endings.unauthorized, "the token is refused: used already, and another since")
        record = await _record_of(board, earlier, patient=not claims.takes_over)
        if record is not None and record.state not in TERMINAL:
            if not reconnects and not claims.takes_over:
                raise CallEnd(Endings.duplicate_call)
        elif earlier.nonce == claims.nonce:
            broke = record is None or record.state is State.FAILED
            if not reconnects or not broke:
                raise CallEnd(Endings.unauthorized, "the token is refused: used already")
        going_on = _running(board, record, agent, start) if failed is None else None
        return earlier.session_id if going_on is not None else None

    try:
        if not await board.call_sockets.bind(claims, start.call_id):
            raise CallEnd(Endings.unauthorized, "the token is refused: for another call")
        socket, earlier = await board.call_sockets.take(call, claims, board.new_id, judge)
        if going_on is not None:
            return Claim(call, socket, held=False, body=None), going_on
        if earlier is not None:
            await _end(board, earlier)
        held = claims.held and socket.session_id == claims.session_id
        body = await board.call_book.body_of(socket.session_id) if held else None
    except TooManySockets:
        raise CallEnd(Endings.too_many_returns) from None
    except StoreFailed as error:
        raise CallEnd(Endings.store_failed, str(error)) from None
    return Claim(call, socket, held, body), None


async def truth(board: Switchboard, held: Claim | None, end: CallEnd) -> CallEnd:
    """The end of a call that was stopped: another worker can only ask for a stop, and may have taken over."""
    if held is None or end.ending is not Endings.stopped:
        return end
    try:
        latest = (await board.call_sockets.all(held.call))[-1:]
    except StoreFailed:
        return end
    return CallEnd(Endings.taken_over) if latest and latest[0].session_id != held.socket.session_id else end


async def _record_of(board: Switchboard, socket: CallSocket, *, patient: bool) -> SessionRecord | None:
    """The session of a socket; who is `patient` waits a little for one that is being admitted just now."""
    while (record := await board.store.session(socket.session_id)) is None:
        if not patient or not 0 <= board.now() - socket.at < ADMISSION_S:
            return None
        await asyncio.sleep(_POLL_S)
    return record


def _running(
    board: Switchboard, record: SessionRecord | None, agent: AgentSettings, start: Start
) -> Call | Elsewhere | None:
    """The call that may go on with a socket that opened so; of another worker's only that one knows."""
    if record is None:
        return None
    call = board.call_of(record.session_id)
    if call is not None:
        return call if call.may_go_on(agent.service_host, start) else None
    if record.state in TERMINAL or not may_reconnect(board.settings.limits, agent, record.carrier):
        return None
    return Elsewhere(record.owner, record.session_id)


async def _end(board: Switchboard, earlier: CallSocket) -> None:
    """Ends the session of an earlier socket, wherever it is, and waits until its place is free."""
    session_id = earlier.session_id
    with end_watch(board.store).waiting(session_id) as over:
        record = await board.store.session(session_id)
        if record is None or record.state in TERMINAL:
            return
        if not board.end_call(session_id, CallEnd(Endings.taken_over)):
            await board.store.reap(board.now())  # its worker may have died just now
            await board.store.request_stop(session_id, board.now())
        await asyncio.wait([over], timeout=TAKE_OVER_S)
