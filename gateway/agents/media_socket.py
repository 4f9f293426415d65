# SPDX-License-Identifier: BSD-2-Clause
"""The connection of a session to its agent's media socket (docs/reference/agent-container.md, `WS /ws`)."""

from __future__ import annotations

from collections.abc import Callable

from gateway.agents.instance_health import InstanceHealth
from gateway.config import Limits
from gateway.media.disconnect import Disconnect
from gateway.media.leg import Leg
from gateway.media.outgoing_leg import connect_leg

SESSION_HEADER = "x-daily-session-id"
RESUMED_HEADER = "x-patchbay-resumed"
"""The number of agents that the call has lost so far; the first agent gets no such header."""


async def connect_agent(
    health: InstanceHealth,
    limits: Limits,
    instance: str,
    session_id: str,
    query: str,
    *,
    resumed: int = 0,
    on_disconnect: Callable[[Disconnect], None],
) -> Leg:
    """Connect to the agent on `instance` once that is ready. Bound the wait with `asyncio.timeout`.

    Returns the agent's leg, which keeps what it receives until a relay takes it over. `query`: of the
    agent's URL, without the question mark. `resumed`: the number of agents that the call has lost.

    Raises CallEnded: agent_unreachable, overloaded.
    """
    await health.wait_until_started(instance)
    query = f"?{query}" if query else ""
    headers = {SESSION_HEADER: session_id}
    if resumed:
        headers[RESUMED_HEADER] = str(resumed)
    return await connect_leg(
        f"ws{instance.removeprefix('http')}/ws{query}",
        headers,
        max_message_bytes=limits.max_message_bytes,
        max_buffered_bytes=limits.max_early_bytes,
        on_disconnect=on_disconnect,
    )
