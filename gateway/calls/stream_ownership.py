# SPDX-License-Identifier: BSD-2-Clause
"""One socket for one call: who may have it when several come (docs/reference/carriers.md §2.1, §3.1, §4.1).

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

from gateway.auth.call_tokens import CallClaims
from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.calls.carrier_reconnect import may_reconnect
from gateway.calls.remote_call import RemoteCall
from gateway.calls.session_events import session_events
from gateway.calls.stream_history import CallStream, TooManyStreams
from gateway.carriers.registry import CARRIERS
from gateway.config import AgentSettings
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.store.interface import StoreFailed
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

TAKE_OVER_S: Final = 5.0
"""How long the earlier socket's session has to end."""

ADMISSION_S: Final = 2.0
"""How long after a socket was taken its session may still be unknown to the store."""

_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class StreamOwnership:
    """A call's socket, taken.

    `call`: organization, carrier, call id. `held`: whether its session holds a place already, as that of a
    call out does; `body` is then what was kept for its agent, base64 of JSON.
    """

    call: tuple[str, str, str]
    socket: CallStream
    held: bool
    body: str | None


async def take_ownership(
    services: CallServices,
    active: ActiveCalls,
    carrier: str,
    start: Start,
    agent: AgentSettings,
    *,
    claims: CallClaims,
    failed: StreamOwnership | None = None,
) -> tuple[StreamOwnership, ActiveCall | RemoteCall | None]:
    """Takes the call's socket: with the running call that goes on with it, else the session that had it ends.

    `failed`: taken before, for a call that could not go on after all. Raises CallEnded: unauthorized,
    duplicate_call, too_many_returns, store_failed.
    """
    call = agent.organization, carrier, start.call_id
    reconnects = CARRIERS[carrier].profile.reconnects
    going_on: ActiveCall | RemoteCall | None = None

    async def judge(known: Sequence[CallStream]) -> str | None:
        nonlocal going_on
        if failed is not None:
            known = [one for one in known if one != failed.socket]
        earlier = known[-1]
        if any(one.nonce == claims.nonce for one in known) and earlier.nonce != claims.nonce:
            raise CallEnded(Reasons.unauthorized, "the token is refused: used already, and another since")
        record = await _record_of(services, earlier, patient=not claims.takes_over)
        if record is not None and record.state not in TERMINAL:
            if not reconnects and not claims.takes_over:
                raise CallEnded(Reasons.duplicate_call)
        elif earlier.nonce == claims.nonce:
            broke = record is None or record.state is SessionState.FAILED
            if not reconnects or not broke:
                raise CallEnded(Reasons.unauthorized, "the token is refused: used already")
        going_on = _running(services, active, record, agent, start) if failed is None else None
        return earlier.session_id if going_on is not None else None

    try:
        if not await services.streams.bind(claims, start.call_id):
            raise CallEnded(Reasons.unauthorized, "the token is refused: for another call")
        socket, earlier = await services.streams.register(call, claims, services.new_id, judge)
        if going_on is not None:
            return StreamOwnership(call, socket, held=False, body=None), going_on
        if earlier is not None:
            await _end(services, active, earlier)
        held = claims.admitted and socket.session_id == claims.session_id
        body = await services.call_log.body_of(socket.session_id) if held else None
    except TooManyStreams:
        raise CallEnded(Reasons.too_many_returns) from None
    except StoreFailed as error:
        raise CallEnded(Reasons.store_failed, str(error)) from None
    return StreamOwnership(call, socket, held, body), None


async def final_reason(services: CallServices, held: StreamOwnership | None, end: CallEnded) -> CallEnded:
    """The end of a call that was stopped: another worker can only ask for a stop, and may have taken over."""
    if held is None or end.reason is not Reasons.stopped:
        return end
    try:
        latest = (await services.streams.all(held.call))[-1:]
    except StoreFailed:
        return end
    return CallEnded(Reasons.taken_over) if latest and latest[0].session_id != held.socket.session_id else end


async def _record_of(services: CallServices, socket: CallStream, *, patient: bool) -> SessionRecord | None:
    """The session of a socket; who is `patient` waits a little for one that is being admitted just now."""
    while (record := await services.store.session(socket.session_id)) is None:
        if not patient or not 0 <= services.now() - socket.at < ADMISSION_S:
            return None
        await asyncio.sleep(_POLL_S)
    return record


def _running(
    services: CallServices,
    active: ActiveCalls,
    record: SessionRecord | None,
    agent: AgentSettings,
    start: Start,
) -> ActiveCall | RemoteCall | None:
    """The call that may go on with a socket that opened so; of another worker's only that one knows."""
    if record is None:
        return None
    call = active.get(record.session_id)
    if call is not None:
        return call if call.can_attach(agent.service_host, start) else None
    if record.state in TERMINAL or not may_reconnect(services.settings.limits, agent, record.carrier):
        return None
    return RemoteCall(record.owner, record.session_id)


async def _end(services: CallServices, active: ActiveCalls, earlier: CallStream) -> None:
    """Ends the session of an earlier socket, wherever it is, and waits until its place is free."""
    session_id = earlier.session_id
    with session_events(services.store).waiting(session_id) as over:
        record = await services.store.session(session_id)
        if record is None or record.state in TERMINAL:
            return
        if not active.terminate(session_id, CallEnded(Reasons.taken_over)):
            await services.store.reap(services.now())  # its worker may have died just now
            await services.store.request_stop(session_id, services.now())
        await asyncio.wait([over], timeout=TAKE_OVER_S)
