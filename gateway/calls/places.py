# SPDX-License-Identifier: BSD-2-Clause
"""A place for a call: what the store is told of it, and what its answers mean to the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from gateway.agents.readiness import Readiness
from gateway.calls.hold import Hold
from gateway.calls.target import Target
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.sessions.session import CallFacts, Places, Queue, SessionExtras
from gateway.sessions.store import AtCapacity, MustWait, NotPromised, StoreFailed
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

log = structlog.get_logger(__name__)

SLACK_S: Final = 5.0
"""Longer than it waits, a call keeps its place in the line only where its worker is stuck."""


async def take_place(
    board: Switchboard,
    agent: AgentSettings,
    target: Target,
    start: Start | None,
    session_id: str,
    *,
    held: bool,
    hold: Hold | None = None,
) -> str:
    """The URL of the instance that takes the session. `held`: it was admitted already, and waits for this.

    `hold`: what the caller hears who waits in the agent's line, where it has one; None for who cannot wait.
    Raises CallEnd: at_capacity, unauthorized, store_failed; there is no session then, or as there was.
    """
    facts = facts_of(agent, target, start, session_id)

    def ask() -> Awaitable[str]:
        now = board.now()
        places = Places(
            instances=board.probes.ranks(agent.instances),
            per_instance=agent.sessions_per_instance,
            max_instances=agent.max_agents,
            reserved=agent.reserve_outbound,
            queue=Queue(agent.queue_size, until) if hold is not None and agent.queue_size else None,
        )
        warm = any(rank == Readiness.READY for _, rank in places.instances)
        extras = SessionExtras(
            transport="telephony" if start else "websocket", start_type="warm" if warm else "cold"
        )
        return board.store.admit(facts, places, now, extras)

    until = board.now() + agent.queue_timeout + SLACK_S
    try:
        if held:
            return await board.store.adopt(facts, board.now())
        try:
            return await ask()
        except MustWait as wait:
            if hold is None:
                raise
            hold.waits()
            return await _in_line(board, agent, session_id, wait.number, ask)
    except AtCapacity as full:
        raise CallEnd(Endings.at_capacity, f"{full.taken} of {full.limit} places are taken") from None
    except NotPromised as error:
        raise CallEnd(Endings.unauthorized, f"the session of this token is over: {error}") from None
    except StoreFailed as error:
        raise CallEnd(Endings.store_failed, str(error)) from None


async def _in_line(
    board: Switchboard, agent: AgentSettings, session_id: str, number: int, ask: Callable[[], Awaitable[str]]
) -> str:
    log.info("call waits for a place", session=session_id, agent=agent.service_host)
    try:
        return await board.lines.wait(agent.service_host, number, ask, agent.queue_timeout)
    except TimeoutError:
        words = f"no place became free within {agent.queue_timeout:g} s"
        raise CallEnd(Endings.at_capacity, words) from None
    finally:
        board.store.leave_line(session_id)


def facts_of(agent: AgentSettings, target: Target, start: Start | None, session_id: str) -> CallFacts:
    """What is known of a call when it wants a place."""
    return CallFacts(
        session_id=session_id,
        agent=agent.service_host,
        organization=agent.organization,
        region=target.region,
        carrier=target.carrier,
        call_id=start.call_id if start else None,
        stream_id=start.stream_id if start else None,
        from_number=start.from_number if start else None,
        to_number=start.to_number if start else None,
    )
