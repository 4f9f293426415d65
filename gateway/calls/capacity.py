# SPDX-License-Identifier: BSD-2-Clause
"""A place for a call: what the store is told of it, and what its answers mean to the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from gateway.agents.instance_health import Health
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.target import Target
from gateway.config import AgentSettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, QueueLimit, SessionOptions, SlotLimits
from gateway.store.interface import AtCapacity, NotPromised, Queued, StoreFailed
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

log = structlog.get_logger(__name__)

SLACK_S: Final = 5.0
"""Longer than it waits, a call keeps its place in the line only where its worker is stuck."""


async def acquire_slot(
    services: CallServices,
    agent: AgentSettings,
    target: Target,
    start: Start | None,
    session_id: str,
    *,
    held: bool,
    hold: HoldAudio | None = None,
) -> str:
    """The URL of the instance that takes the session. `held`: it was admitted already, and waits for this.

    `hold`: what the caller hears who waits in the agent's line, where it has one; None for who cannot wait.
    Raises CallEnded: at_capacity, unauthorized, store_failed; there is no session then, or as there was.
    """
    details = call_details(agent, target, start, session_id)

    def ask() -> Awaitable[str]:
        now = services.now()
        places = SlotLimits(
            instances=services.health.ranks(agent.instances),
            per_instance=agent.sessions_per_instance,
            max_instances=agent.max_agents,
            reserved=agent.reserve_outbound,
            queue=QueueLimit(agent.queue_size, until) if hold is not None and agent.queue_size else None,
        )
        warm = any(rank == Health.READY for _, rank in places.instances)
        options = SessionOptions(
            transport="telephony" if start else "websocket", start_type="warm" if warm else "cold"
        )
        return services.store.admit(details, places, now, options)

    until = services.now() + agent.queue_timeout + SLACK_S
    try:
        if held:
            return await services.store.adopt(details, services.now())
        try:
            return await ask()
        except Queued as wait:
            if hold is None:
                raise
            hold.discard_speech()
            return await _in_line(services, agent, session_id, wait.number, ask)
    except AtCapacity as full:
        raise CallEnded(Reasons.at_capacity, f"{full.taken} of {full.limit} places are taken") from None
    except NotPromised as error:
        raise CallEnded(Reasons.unauthorized, f"the session of this token is over: {error}") from None
    except StoreFailed as error:
        raise CallEnded(Reasons.store_failed, str(error)) from None


async def _in_line(
    services: CallServices,
    agent: AgentSettings,
    session_id: str,
    number: int,
    ask: Callable[[], Awaitable[str]],
) -> str:
    log.info("call waits for a place", session=session_id, agent=agent.service_host)
    try:
        return await services.queues.wait(agent.service_host, number, ask, agent.queue_timeout)
    except TimeoutError:
        detail = f"no place became free within {agent.queue_timeout:g} s"
        raise CallEnded(Reasons.at_capacity, detail) from None
    finally:
        services.store.leave_line(session_id)


def call_details(agent: AgentSettings, target: Target, start: Start | None, session_id: str) -> CallDetails:
    """What is known of a call when it wants a place."""
    return CallDetails(
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
