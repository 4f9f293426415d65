# SPDX-License-Identifier: BSD-2-Clause
"""Calls for agents whose instances a name server names, through a gateway process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.frames import CLOSE
from tests.harness.gateway import Gateway
from tests.harness.name_server import NameServer, name_server
from tests.harness.transcripts import opening

HOST = "support.test"


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    """Run a name server that knows no name yet."""
    async with name_server() as running:
        yield running


@pytest.fixture
async def gateway(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, server: NameServer
) -> Gateway:
    """Start a gateway whose agents have no instance yet."""
    found = [f"dns4://{HOST}:{support_port.number}"]
    agents = [
        {"name": "support", "organization": "acme", "instances": found},
        {"name": "patient", "organization": "acme", "instances": found, "queue_size": 1},
    ]
    tables: dict[str, Any] = {"server": {"nameservers": [server.address]}, "agents": agents}
    return await asyncio.to_thread(start_gateway, **tables)


async def test_callers_are_refused_or_wait_until_the_name_has_an_address(
    gateway: Gateway, server: NameServer, support: Agent
) -> None:
    refused = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        refused.say(message)
    while (frame := await refused.next()) is not None and frame.opcode != CLOSE:
        pass
    assert frame is not None
    assert frame.close == (1013, "the agent has no instance now")

    waiting = await gateway.dial("/ws/twilio/patient.acme")
    for message in opening("twilio"):
        waiting.say(message)
    await eventually(lambda: gateway.rows("SELECT id FROM waiting"), "the call is queued")
    server.records[HOST] = ["127.0.0.1"]
    async with asyncio.timeout(WAIT_S):
        call = await support.call()
    waiting.send(waiting.close_frame(1000))
    await call.closed()
