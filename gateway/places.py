# SPDX-License-Identifier: BSD-2-Clause
"""A place for a call: what the store is told of it, and what its answers mean to the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.agents.readiness import Readiness
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.sessions.session import CallFacts, Places, SessionExtras
from gateway.sessions.store import AtCapacity, NotPromised, StoreFailed
from gateway.target import Target
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.switchboard import Switchboard


async def take_place(
    board: Switchboard,
    agent: AgentSettings,
    target: Target,
    start: Start | None,
    session_id: str,
    *,
    held: bool,
) -> str:
    """The URL of the instance that takes the session. `held`: it was admitted already, and waits for this.

    Raises CallEnd: at_capacity, unauthorized, store_failed; there is no session then, or as there was.
    """
    facts = CallFacts(
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
    places = Places(
        instances=tuple((instance, board.probes.readiness(instance)) for instance in agent.instances),
        per_instance=agent.sessions_per_instance,
        max_instances=agent.max_agents,
    )
    warm = any(rank == Readiness.READY for _, rank in places.instances)
    extras = SessionExtras(
        transport="telephony" if start else "websocket", start_type="warm" if warm else "cold"
    )
    try:
        if held:
            return await board.store.adopt(facts, board.now())
        return await board.store.admit(facts, places, board.now(), extras)
    except AtCapacity as full:
        raise CallEnd(Endings.at_capacity, f"{full.taken} of {full.limit} places are taken") from None
    except NotPromised as error:
        raise CallEnd(Endings.unauthorized, f"the session of this token is over: {error}") from None
    except StoreFailed as error:
        raise CallEnd(Endings.store_failed, str(error)) from None
