# SPDX-License-Identifier: BSD-2-Clause
"""The settings of the suite's gateways, and their memory before the first fault."""

from __future__ import annotations

from typing import Any

from tests.faults.case import resident
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_next_call_works
from tests.harness.gateway import Gateway

LIMITS = {
    "start_timeout": 0.5,
    "agent_connect_timeout": 1.0,
    "stall_timeout": 0.5,
    "close_timeout": 0.3,
    "reconnect_timeout": 2.0,
    "playback_timeout": 0.5,
}
RESUME_S = 1.0
STOP_S = 0.5
WAITS = ", ".join(f"`{name}` {seconds:g} s" for name, seconds in LIMITS.items())
WAITS += f",\n`resume_timeout` {RESUME_S:g} s, `stop_timeout` {STOP_S:g} s, `idle_timeout` 1 s"
FIRST_CALLS = 3
"""How many calls are served before the memory is measured."""


def agents_at(url: str) -> list[dict[str, Any]]:
    """Return the agents. support.acme has one slot, so that a slot that is not released shows."""
    common: dict[str, Any] = {"organization": "acme", "instances": [url], "max_agents": 1}
    common |= {"resume_timeout": RESUME_S, "stop_timeout": STOP_S}
    return [
        common | {"name": "support"},
        common | {"name": "quiet", "idle_timeout": 1.0},
        common | {"name": "reader", "media": "messages"},
        common | {"name": "pair", "sessions_per_instance": 2},
        common | {"name": "crowd", "sessions_per_instance": 50},
    ]


async def warmed(gateway: Gateway, bases: dict[int, int], port: AgentPort) -> int:
    """Let a gateway serve its first calls; return its resident memory in bytes."""
    if gateway.process.pid not in bases:
        agent = await Agent(port).start()
        for _ in range(FIRST_CALLS):
            await assert_next_call_works(gateway, agent)
        await gateway.callers_leave()
        await agent.stop()
        bases[gateway.process.pid] = resident(gateway)
    return bases[gateway.process.pid]
