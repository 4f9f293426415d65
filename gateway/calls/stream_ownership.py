# SPDX-License-Identifier: BSD-2-Clause
"""One media stream for one call: which one owns the call when several come.

A carrier that reconnects opens a second stream because it has lost the first one: the second takes over. If
the carrier does not reconnect, a second stream is refused as long as the first one lives
(docs/reference/carriers.md §2.1, §3.1, §4.1). A call token is valid once, except for a carrier that
reconnects, which dials the same URL again. After a call that ended well, nothing continues.

The stream that takes over continues the call's session if it can (carrier_reconnect.py), whichever worker has
it (remote_call.py). Otherwise that session ends, and the stream becomes a session of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.auth.call_tokens import CallClaims
from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.calls.remote_call import RemoteCall
from gateway.calls.services import CallServices
from gateway.calls.session_events import session_events
from gateway.calls.stream_history import CallKey, CallStream, TooManyStreams
from gateway.carriers.registry import CARRIERS
from gateway.config import AgentSettings, Limits
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.nodes.nodes import Nodes
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Topic
from serializers.events import Start
from texml.document import Redirect

TAKE_OVER_S: Final = 5.0
"""How long the earlier stream's session has to end."""

ADMISSION_S: Final = 2.0
"""How long after its registration a stream's session may still be missing in the store."""


@dataclass(frozen=True, slots=True)
class StreamOwnership:
    """The registration of a stream as the one that its call has now.

    `is_admitted`: the stream's session has its slot already, as that of an outbound call has; `body` is then
    what was stored for its agent, base64 of JSON. `is_awaited`: the slot was taken with the call's document.
    """

    call: CallKey
    stream: CallStream
    is_admitted: bool
    body: str | None
    is_awaited: bool = False


@dataclass(frozen=True, slots=True)
class StreamOpening:
    """A carrier's stream that was opened with a call token, and the agent that it is for.

    `only_continues`: it is refused unless a call that is active continues on it.
    """

    carrier: str
    start: Start
    agent: AgentSettings
    claims: CallClaims
    only_continues: bool = False


def may_reconnect(limits: Limits, agent: AgentSettings, carrier: str) -> bool:
    """Return True if the carrier may open a second stream for a call of this agent.

    Some carriers do so by themselves; others fetch a document that makes them do so.
    """
    profile = CARRIERS[carrier].profile
    reopens = profile.reconnects or (profile.requests_next_document and isinstance(agent.after, Redirect))
    return reopens and limits.reconnect_timeout > 0


async def refuse_new_call(
    services: CallServices, claims: CallClaims | None, agent: AgentSettings | None, carrier: str
) -> None:
    """Refuse an upgrade at a worker that drains, unless it may be the next socket of a call.

    `claims`: of its call token. `agent`: the one that the URL names. Raises CallEnded(draining).
    """
    if claims is None:
        raise CallEnded(Reasons.draining)
    try:
        if (
            not claims.takes_over
            and agent is not None
            and not await services.streams.has_had_one(agent.organization, carrier, claims)
        ):
            raise CallEnded(Reasons.draining)
    except StoreFailed:
        raise CallEnded(Reasons.draining) from None


async def take_ownership(
    services: CallServices,
    active: ActiveCalls,
    opening: StreamOpening,
    *,
    failed: StreamOwnership | None = None,
) -> tuple[StreamOwnership, ActiveCall | RemoteCall | None]:
    """Make the stream the one that its call has now, and end the session of the earlier stream.

    If a call that is active can continue on the stream, that call is returned, too, and nothing is ended.
    `failed`: the ownership taken before for a call that could not continue after all.

    Raises CallEnded: unauthorized, duplicate_call, too_many_returns, store_failed, and draining for a stream
    that may only continue a call.
    """
    agent, carrier, start, claims = opening.agent, opening.carrier, opening.start, opening.claims
    call = agent.organization, carrier, start.call_id
    reconnects = CARRIERS[carrier].profile.reconnects
    continued: ActiveCall | RemoteCall | None = None

    async def choose_session(streams: Sequence[CallStream]) -> str | None:
        nonlocal continued
        if failed is not None:
            streams = [stream for stream in streams if stream != failed.stream]
        latest = streams[-1]
        if latest.nonce != claims.nonce and any(stream.nonce == claims.nonce for stream in streams):
            raise CallEnded(Reasons.unauthorized, "the token is refused: used already, and another since")
        record = await _record_of(services, latest, wait=not claims.takes_over)
        if record is not None and record.state not in TERMINAL:
            if not reconnects and not claims.takes_over:
                raise CallEnded(Reasons.duplicate_call)
        elif latest.nonce == claims.nonce:
            has_failed = record is None or record.state is SessionState.FAILED
            if not reconnects or not has_failed:
                raise CallEnded(Reasons.unauthorized, "the token is refused: used already")
        continued = _active_call(services, active, record, agent, start) if failed is None else None
        if continued is None and opening.only_continues:
            raise CallEnded(Reasons.draining)
        return latest.session_id if continued is not None else None

    try:
        if not await services.streams.bind(claims, start.call_id):
            raise CallEnded(Reasons.unauthorized, "the token is refused: for another call")
        if opening.only_continues and not await services.streams.all(call):
            raise CallEnded(Reasons.draining)
        stream, earlier = await services.streams.register(call, claims, services.new_id, choose_session)
        if continued is not None:
            return StreamOwnership(call, stream, is_admitted=False, body=None), continued
        if earlier is not None:
            await _end(services, active, earlier)
        is_admitted = claims.admitted and stream.session_id == claims.session_id
        is_dialed = is_admitted and not claims.awaited
        body = await services.call_log.body_of(stream.session_id) if is_dialed else None
    except TooManyStreams:
        raise CallEnded(Reasons.too_many_returns) from None
    except StoreFailed as error:
        raise CallEnded(Reasons.store_failed, str(error)) from None
    return StreamOwnership(call, stream, is_admitted, body, is_awaited=is_admitted and claims.awaited), None


async def with_another_session(services: CallServices, ownership: StreamOwnership) -> StreamOwnership:
    """Register the stream for a new session, which has no slot. Raises CallEnded(store_failed)."""
    try:
        stream = await services.streams.replace_session(ownership.call, ownership.stream, services.new_id())
    except StoreFailed as error:
        raise CallEnded(Reasons.store_failed, str(error)) from None
    return StreamOwnership(ownership.call, stream, is_admitted=False, body=None)


async def final_reason(
    services: CallServices, ownership: StreamOwnership | None, end: CallEnded
) -> CallEnded:
    """Return `end`, or the reason taken_over if another stream of the call caused it.

    A worker whose stream takes over a call of another worker can only request a stop of that session. So if
    the call was stopped, and has another stream by now, it was taken over.
    """
    if ownership is None or end.reason is not Reasons.stopped:
        return end
    try:
        streams = await services.streams.all(ownership.call)
    except StoreFailed:
        return end
    if streams and streams[-1].session_id != ownership.stream.session_id:
        return CallEnded(Reasons.taken_over)
    return end


async def _record_of(services: CallServices, stream: CallStream, *, wait: bool) -> SessionRecord | None:
    """Return the session of a stream, or None; if `wait`, wait for one that is being admitted just now."""
    with services.store.notifications.subscribe(
        Topic.SESSION_CHANGED, key=stream.session_id, urgent=True
    ) as changes:
        while (record := await services.store.session(stream.session_id)) is None:
            left_s = stream.at + ADMISSION_S - services.now()
            if not wait or not 0 < left_s <= ADMISSION_S:
                return None
            await changes.wait(left_s)
        return record


def _active_call(
    services: CallServices,
    active: ActiveCalls,
    record: SessionRecord | None,
    agent: AgentSettings,
    start: Start,
) -> ActiveCall | RemoteCall | None:
    """Return the session's call, if it may continue on this stream.

    If another worker has the call, only that worker knows whether the call can continue, so it may still
    refuse.
    """
    if record is None:
        return None
    call = active.get(record.session_id)
    if call is not None:
        return call if call.can_attach(agent.service_host, start) else None
    if record.state in TERMINAL or not may_reconnect(services.settings.limits, agent, record.carrier):
        return None
    return RemoteCall(record.owner, record.session_id, nodes_for_streams(services, active))


def nodes_for_streams(services: CallServices, active: ActiveCalls) -> Nodes | None:
    """Return the other machines, unless this worker drains: it would have to wait for their calls."""
    return None if active.draining else services.nodes


async def _end(services: CallServices, active: ActiveCalls, earlier: CallStream) -> None:
    """End the session of an earlier stream, whichever worker has it, and wait until its slot is free."""
    session_id = earlier.session_id
    with session_events(services.store).waiting(session_id) as over:
        record = await services.store.session(session_id)
        if record is None or record.state in TERMINAL:
            return
        if not active.terminate(session_id, CallEnded(Reasons.taken_over)):
            await services.store.reap(services.now())  # its worker may have died just now
            await services.commands.stop(session_id)
        await asyncio.wait([over], timeout=TAKE_OVER_S)
