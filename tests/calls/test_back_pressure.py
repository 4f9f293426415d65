# SPDX-License-Identifier: BSD-2-Clause
"""Back-pressure replaces queues (docs/architecture.md, "A frame"): a slow reader pauses its far end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.harness.accelerator_modes import accelerator  # noqa: F401 - a fixture
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    assert_end_logged,
    assert_ended,
    assert_next_call_works,
    connect,
    hang_up,
)
from tests.harness.frames import KEY, PING, TEXT, frame
from tests.harness.gateway import Gateway
from tests.harness.websocket_peer import WebSocketPeer

MOST_BACKLOG = 32 << 20
"""Bytes that the kernel's buffers on the way hold at most, several times over."""

MOST_MEMORY = 16 << 20
"""What a process may grow by while somebody does not read: far more than a call's buffers, far less than a
queue of everything that was said."""


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"limits": {"stall_timeout": 0.5, "close_timeout": 0.3}}


@asynccontextmanager
async def pouring(gateway: Gateway, peer: WebSocketPeer, raw: bytes) -> AsyncIterator[None]:
    """Somebody sends as fast as it is taken; the gateway's memory must not grow with it."""
    memory = gateway.resident_bytes
    task = asyncio.create_task(peer.pour_on(raw))
    try:
        yield
        assert gateway.resident_bytes - memory < MOST_MEMORY
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_agent_that_stops_reading(
    gateway: Gateway, agent_at: Callable[..., Any], support_port: AgentPort
) -> None:
    """The carrier is paused: what it says waits in its own kernel, not in ours; then the call ends."""
    support = await agent_at(support_port, receive_buffer=8192, read_ahead=4096)
    call = await connect(gateway, support)
    async with pouring(gateway, call.caller, call.caller.frame(TEXT, b"x" * 50_000)):
        record = await assert_ended(gateway, call.session, "agent_stalled", "agent")
    assert record["bytes_in"] < MOST_BACKLOG, "the carrier was not paused"
    await call.agent.leave()
    await assert_next_call_works(gateway, support)


async def test_a_carrier_that_stops_reading(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    async with pouring(gateway, call.agent, call.agent.frame(TEXT, b"x" * 50_000)):
        record = await assert_ended(gateway, call.session, "carrier_stalled", "carrier")
    assert record["bytes_out"] < MOST_BACKLOG, "the agent was not paused"
    await call.caller.leave()
    await assert_next_call_works(gateway, support)


async def test_a_slow_reader_misses_nothing(
    start_gateway: Callable[..., Gateway], support: Agent, support_port: AgentPort, accelerator: str
) -> None:
    """Paused and resumed, both ways at once: everything arrives, in order."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(accelerator=accelerator, agents=[agent], limits={"stall_timeout": 60})
    call = await connect(gateway, support)
    up = [call.caller.frame(TEXT, bytes([n % 256]) * 100_000, key=b"\0\0\0\0") for n in range(120)]
    down = [call.agent.frame(TEXT, bytes([n % 256]) * 100_000) for n in range(120)]
    call.caller.send(b"".join(up))
    call.agent.send(b"".join(down))
    everything = b"".join([*call.opening, *up])
    received = await asyncio.gather(
        call.agent.hear_bytes(len(everything)), call.caller.hear_bytes(len(b"".join(down)))
    )
    assert received == [everything, b"".join(down)]
    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert (record["frames_in"], record["frames_out"]) == (122, 120)


async def test_a_far_end_that_pings_and_reads_no_pongs(gateway: Gateway) -> None:
    """A caller at the door that pings and does not read: our pongs do not pile up."""
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    async with pouring(gateway, caller, frame(PING, b"x" * 125, key=KEY) * 400):
        await assert_end_logged(gateway, before, "carrier_protocol_error")
    assert await caller.closed() != (1000, "")
