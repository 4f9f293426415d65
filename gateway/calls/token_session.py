# SPDX-License-Identifier: BSD-2-Clause
"""The session that a media token opens, and comes back to after its socket was lost.

    the session is pending → the token is used when its socket is accepted
    the session runs, and its socket is lost → the same token opens another socket, which is attached to it
    anything else → the token is refused

A client that dials its URL again after a network fault knows that before this gateway does: its old socket
seems open here until somebody writes to it. So the worker that has the call is asked to check that socket
(`CallCommand.CHECK_CARRIER`), and the upgrade waits for the result.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from gateway.auth.media_tokens import TokenRejected
from gateway.calls.active import ActiveCall, ActiveCalls
from gateway.calls.authorization import TokenSession
from gateway.calls.command_bus import CallCommand
from gateway.calls.remote_call import RemoteCall, attach_to_call
from gateway.calls.services import CallServices
from gateway.calls.state import CallState
from gateway.calls.stream_ownership import nodes_for_streams
from gateway.config import AgentSettings
from gateway.media.leg import Leg
from gateway.media.relay import CARRIER_CHECK_S
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.nodes.tunnel import Tunnel
from gateway.store.interface import StoreFailed
from gateway.store.notifications import Topic
from serializers.events import Start

RETURN_S: Final = CARRIER_CHECK_S + 1.0
"""How long an upgrade with a used token waits for the loss of the session's socket."""

_LIVE: Final = (SessionState.STARTING, SessionState.RUNNING)

POLL_S: Final = 0.05
"""The longest time between two looks whether it is lost: nobody reports that."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """The session of a media token that may open a socket now.

    `record`: None if the store does not have it, or does not answer. `call`: the active call that has lost
    its socket and shall go on with the new one; None if the session has had no socket yet.
    """

    record: SessionRecord | None
    call: ActiveCall | RemoteCall | None


async def find_session(
    services: CallServices, active: ActiveCalls, token: TokenSession, carrier: str
) -> OpenedSession:
    """Return the session that the token may open a socket for. `carrier`: of the new socket's URL.

    Waits for up to RETURN_S if the session runs. Raises CallEnded(unauthorized).
    """
    try:
        record = await services.store.session(token.session_id)
    except StoreFailed:
        record = None  # whether a call is possible without the store shows when it acquires its slot
    is_expired = services.now() >= token.claims.expires_at
    if record is not None and record.state in _LIVE:  # however old the token is
        if record.carrier == carrier and await _is_lost(services, active, record):
            nodes = nodes_for_streams(services, active)
            call = active.get(token.session_id) or RemoteCall(record.owner, record.session_id, nodes)
            return OpenedSession(record, call)
    elif not is_expired:
        if record is None or record.state is SessionState.CREATED:
            return OpenedSession(record, None)
        if record.state in TERMINAL and record.started_at is None:
            raise CallEnded(Reasons.unauthorized, "the session of this token is over")
    raise _refused("expired" if is_expired else "used already")


async def use_token(services: CallServices, token: TokenSession) -> None:
    """Use the token up, just before its upgrade is accepted. Raises CallEnded: unauthorized, store_failed."""
    try:
        await services.tokens.use(token.claims)
    except TokenRejected as rejected:
        raise _refused(rejected.reason) from None
    except StoreFailed as error:
        raise CallEnded(Reasons.store_failed, str(error)) from None


async def continue_on(
    call: ActiveCall | RemoteCall, leg: Leg, start: Start | None, carrier: str, agent: AgentSettings
) -> Tunnel | None:
    """Let the session's call go on with this leg, whose `start` was read; None for a generic client.

    Return the tunnel to its worker, if there is one, whose `run` must be awaited. Raises
    CallEnded(unauthorized) if it cannot any more, or its worker cannot be given the socket.
    """
    if isinstance(call, RemoteCall) or call.can_attach(agent.service_host, start):
        attached = await attach_to_call(call, leg, start, carrier, agent)
        if attached:
            return attached if isinstance(attached, Tunnel) else None
    raise _refused("its session cannot go on with this socket")


async def _is_lost(services: CallServices, active: ActiveCalls, record: SessionRecord) -> bool:
    """Return True once the session waits for another socket; False if its socket is still there."""
    if services.settings.limits.reconnect_timeout <= 0:
        return False
    notifications, session_id = services.store.notifications, record.session_id
    found: SessionRecord | None = record
    try:
        with notifications.subscribe(Topic.SESSION_CHANGED, key=session_id, urgent=True) as changes:
            async with asyncio.timeout(RETURN_S):
                while found is not None and found.state is SessionState.STARTING:
                    await changes.wait()
                    found = await services.store.session(session_id)
                await services.commands.send(session_id, CallCommand.CHECK_CARRIER)
                while not await _waits_for_carrier(services, active, session_id):
                    await changes.wait(POLL_S)
    except (TimeoutError, StoreFailed):
        return False
    return True


async def _waits_for_carrier(services: CallServices, active: ActiveCalls, session_id: str) -> bool:
    call = active.get(session_id)
    if call is not None:
        return call.state is CallState.AWAITING_CARRIER
    return await services.streams.is_lost(session_id)


def _refused(reason: str) -> CallEnded:
    return CallEnded(Reasons.unauthorized, f"the token is refused: {reason}")
