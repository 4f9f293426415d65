# SPDX-License-Identifier: BSD-2-Clause
"""Calls that end because something took too long. The limits are short here; no time is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import POLL_S, eventually
from tests.harness.agent import Agent, AgentPort, accepts, hangs
from tests.harness.call_assertions import (
    assert_caller_heard,
    assert_ended,
    assert_next_call_works,
    assert_refused,
    connect,
    hang_up,
)
from tests.harness.frames import KEY, PING, TEXT, frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening, replies, talk

LIMIT_S = 2.5
"""Of all that is timed here; whoever is only late, on a busy machine, must still be in time."""


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> dict[str, AgentPort]:
    return {"brief": agent_port(), "idle": agent_port()}


@pytest.fixture(scope="module")
def settings(ports: dict[str, AgentPort]) -> dict[str, Any]:
    def agent(name: str, **more: Any) -> dict[str, Any]:
        place = {"name": name, "organization": "acme", "instances": [ports[name].url], "max_agents": 1}
        return place | more

    limits = {"start_timeout": LIMIT_S, "agent_connect_timeout": LIMIT_S, "close_timeout": 0.3}
    agents = [agent("brief", max_session_duration=3), agent("idle", idle_timeout=LIMIT_S)]
    return {"limits": limits, "agents": agents}


# The opening, the agent's answer


@pytest.mark.parametrize("sent", [0, 1])
async def test_the_carrier_does_not_open_the_stream(gateway: Gateway, support: Agent, sent: int) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio")[:sent]:
        caller.say(message)
    caller.send(frame(PING, b"still here", key=KEY) * 100)  # which do not hold a place at the door
    assert await caller.closed() == (1008, f"no start message within {LIMIT_S} s")
    await assert_refused(gateway, before, "bad_opening")
    await assert_next_call_works(gateway, support)


async def test_the_agent_does_not_answer(gateway: Gateway, support: Agent) -> None:
    support.answer = hangs
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        caller.say(message)
    offered = await support.next_other_call()
    assert await caller.closed() == (1011, f"no answer within {LIMIT_S} s")
    await offered.ended()
    await assert_ended(gateway, offered.session, "agent_start_timeout", "agent")

    caller = await gateway.dial("/ws/generic/support.acme")
    assert caller.refusal == (504, "agent_start_timeout")
    await eventually(lambda: len(gateway.ends()) == before + 2, "both are told")
    support.answer = accepts
    await assert_next_call_works(gateway, support)


# The call itself


async def test_the_longest_duration(
    gateway: Gateway, agent_at: Callable[..., Any], ports: dict[str, AgentPort]
) -> None:
    brief = await agent_at(ports["brief"])
    call = await connect(gateway, brief, "/ws/twilio/brief.acme")
    assert await call.caller.closed() == (1000, "3 s")
    assert await call.agent.closed() == (1000, "3 s")
    record = await assert_ended(gateway, call.session, "max_duration", "gateway")
    assert record["state"] == "ended"
    await assert_next_call_works(gateway, brief, "/ws/twilio/brief.acme")


async def test_the_longest_duration_of_a_call_with_steady_audio(
    gateway: Gateway, agent_at: Callable[..., Any], ports: dict[str, AgentPort]
) -> None:
    brief = await agent_at(ports["brief"])
    call = await connect(gateway, brief, "/ws/twilio/brief.acme")
    await assert_caller_heard(call.caller, [call.agent.say(replies("twilio")[0])])
    call.agent.say(replies("twilio")[0])
    while (received := await call.caller.next()) is None or received.opcode == TEXT:
        assert received is not None
        await asyncio.sleep(POLL_S)
        call.agent.say(replies("twilio")[0])
    await assert_ended(gateway, call.session, "max_duration", "gateway")


async def test_a_message_that_comes_byte_by_byte_is_silence(
    gateway: Gateway, agent_at: Callable[..., Any], ports: dict[str, AgentPort]
) -> None:
    idle = await agent_at(ports["idle"])
    call = await connect(gateway, idle, "/ws/twilio/idle.acme")
    long = frame(TEXT, b"x" * 60_000, key=KEY)
    call.caller.send(long[:20])

    async def drip() -> None:
        for byte in long[20:]:
            call.caller.send(bytes([byte]))
            await asyncio.sleep(LIMIT_S / 20)

    dripping = asyncio.create_task(drip())
    assert await call.caller.closed() == (1000, f"nothing came for {LIMIT_S} s")
    dripping.cancel()
    await assert_ended(gateway, call.session, "idle_timeout", "gateway")
    await assert_next_call_works(gateway, idle, "/ws/twilio/idle.acme")


async def test_the_carrier_falls_silent(
    gateway: Gateway, agent_at: Callable[..., Any], ports: dict[str, AgentPort]
) -> None:
    """However much the agent has to say."""
    idle = await agent_at(ports["idle"])
    call = await connect(gateway, idle, "/ws/twilio/idle.acme")
    call.agent.say(replies("twilio")[0])
    assert await call.caller.closed() == (1000, f"nothing came for {LIMIT_S} s")
    assert await call.agent.closed() == (1000, f"nothing came for {LIMIT_S} s")
    await assert_ended(gateway, call.session, "idle_timeout", "gateway")
    await assert_next_call_works(gateway, idle, "/ws/twilio/idle.acme")


async def test_an_agent_that_sends_nothing(gateway: Gateway, support: Agent) -> None:
    """A silent agent is no reason to end: the caller's sound still reaches it."""
    call = await connect(gateway, support)
    spoken = [call.caller.say(message) for message in talk("twilio")]
    await call.agent.hear_bytes(sum(map(len, [*call.opening, *spoken])))
    for _ in spoken:
        await call.agent.next()
    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert (record["frames_out"], record["first_agent_sound_at"]) == (0, None)
