# SPDX-License-Identifier: BSD-2-Clause
"""Pings on both legs: none is sent inside a frame, and their pongs are not passed on."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from gateway.media.keepalive import PAYLOAD, without_own_pongs
from gateway.simulator.waiting import eventually
from gateway.websocket.frames import INSPECT_ALL, FrameScanner
from tests.harness.accelerator_modes import accelerator  # noqa: F401 - a fixture
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_agent_heard, assert_caller_heard, connect, hang_up
from tests.harness.frames import BINARY, PING, PONG, TEXT, frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import replies, talk
from tests.harness.websocket_peer import WebSocketPeer

INTERVAL_S = 0.2
SILENCE_S = 3.6
"""After which an agent that answers nothing is lost; one that is only late, on a busy machine, is not."""


@pytest.fixture(scope="module")
def settings(support_port: AgentPort) -> dict[str, Any]:
    """hasty.acme is support.acme to those who are to fall silent: no other call may end for that."""
    hasty = {"name": "hasty", "organization": "acme", "instances": [support_port.url], "idle_timeout": 3}
    return {
        "support": {"sessions_per_instance": 10},
        "agents": [hasty],
        "limits": {"ping_interval": INTERVAL_S},
    }


async def ping(peer: WebSocketPeer, *, answer: bool = True) -> bytes:
    """The next thing heard is a ping of the gateway's; gives its payload."""
    received = await peer.hear()
    assert received.opcode == PING
    if answer:
        peer.send(peer.frame(PONG, received.payload))
    return bytes(received.payload)


@pytest.mark.parametrize("target", ["/ws/twilio/support.acme", "/ws/generic/support.acme"])
async def test_both_legs_are_pinged_and_their_pongs_are_not_passed_on(
    gateway: Gateway, support: Agent, target: str
) -> None:
    call = await connect(gateway, support, target)
    payloads = {await ping(peer) for _ in range(3) for peer in (call.caller, call.agent)}
    assert len(payloads) == 1
    # Nobody has to answer, and what is said is heard as it was said, with nothing but pings between.
    spoken = [call.caller.say(message) for message in talk("twilio")]
    received = b""
    while not received.endswith(spoken[-1]):
        next_one = await call.agent.hear()
        if next_one.opcode != PING:
            received += next_one.raw
    assert received == b"".join(spoken)
    # A ping of the agent's own, and the caller's answer to it, pass as ever; so does any other pong.
    raw = call.agent.frame(PING, b"are you there?")
    call.agent.send(raw)
    while (next_one := await call.caller.hear()).payload in payloads:
        pass
    assert next_one.raw == raw
    raw = call.caller.frame(PONG, b"I am")
    call.caller.send(raw)
    while (next_one := await call.agent.hear()).payload in payloads:
        pass
    assert next_one.raw == raw
    await hang_up(call)


async def test_no_ping_is_sent_inside_a_frame(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    raw = call.caller.frame(TEXT, os.urandom(3000).hex().encode())
    call.caller.send(raw[:2500])
    for _ in range(4):  # as long as the caller is pinged four times, the agent is not
        await ping(call.caller, answer=False)
    call.caller.send(raw[2500:])
    while (received := await call.agent.hear()).opcode == PING:
        pass  # those from before the frame began
    assert received.raw == raw
    await ping(call.agent)
    await hang_up(call)


async def test_pongs_do_not_count_as_traffic(gateway: Gateway, support: Agent) -> None:
    """A carrier that only answers pings is as silent as one that does not."""
    call = await connect(gateway, support, "/ws/twilio/hasty.acme")
    pings = 0
    while (received := await call.caller.next()) is not None and received.opcode == PING:
        call.caller.send(call.caller.frame(PONG, received.payload))
        pings += 1
    assert received is not None
    assert received.close[0] == 1000
    assert pings >= 3
    await eventually(lambda: {"idle_timeout"} & {end["reason"] for end in gateway.ends()}, "its end is told")


@pytest.mark.parametrize("media", ["bytes", "messages"])
async def test_an_agent_that_answers_no_ping_is_lost(
    start_gateway: Callable[..., Gateway],
    agent_at: Callable[..., Any],
    agent_port: Callable[[], AgentPort],
    accelerator: str,
    media: str,
) -> None:
    port = agent_port()
    gateway = start_gateway(
        accelerator=accelerator,
        agents=[
            {
                "name": "support",
                "organization": "acme",
                "instances": [port.url],
                "sessions_per_instance": 2,
                "max_resumes": 0,
                "media": media,
            }
        ],
        limits={"agent_silence": SILENCE_S, "ping_interval": 0},
    )
    agent: Agent = await agent_at(port)
    frozen, lives = await connect(gateway, agent), await connect(gateway, agent)

    async def answer() -> None:
        while True:
            await ping(lives.agent)

    answering = asyncio.create_task(answer())
    assert (await frozen.caller.closed())[0] == 1011
    end = (await eventually(gateway.ends, "its end is told"))[0]
    assert (end["session"], end["reason"]) == (frozen.session, "agent_lost")
    assert "neither a word nor a pong" in end["words"]
    # The one that answers talks on, and its caller was never pinged.
    spoken = [lives.agent.say(message) for message in replies("twilio")]
    await assert_caller_heard(lives.caller, spoken)
    answering.cancel()
    await asyncio.wait([answering])
    assert answering.cancelled(), "it heard nothing but pings"
    await hang_up(lives)
    await frozen.agent.leave()


async def test_without_a_ping_interval_there_are_no_pings(
    start_gateway: Callable[..., Gateway], support: Agent, support_port: AgentPort
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(limits={"ping_interval": 0}, agents=[agent])
    call = await connect(gateway, support)
    await assert_agent_heard(call.agent, [call.caller.say(message) for message in talk("twilio")])
    await hang_up(call)


@given(
    st.lists(
        st.one_of(
            st.just((PONG, PAYLOAD)),
            st.tuples(st.sampled_from([PONG, PING]), st.binary(max_size=20)),
            st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=300)),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_only_pongs_to_the_gateways_pings_are_removed(
    messages: list[tuple[int, bytes]], masked: bool
) -> None:
    scanner = FrameScanner(masked=masked, max_payload=1 << 20, inspect_below=INSPECT_ALL)
    raw = [frame(opcode, payload, key=b"abcd" if masked else None) for opcode, payload in messages]
    chunk = scanner.feed(b"".join(raw))
    passing, seen = without_own_pongs(chunk, scanner.spans)
    kept = [each for each, message in zip(raw, messages, strict=True) if message != (PONG, PAYLOAD)]
    assert passing == b"".join(kept)
    assert [passing[at.start : at.end] for at in seen] == kept


def test_small_packets_are_not_held_back() -> None:
    """TCP_NODELAY, on a socket that was accepted and on one that was dialled: the loop sets it."""

    async def both() -> list[int]:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[asyncio.Transport] = loop.create_future()

        class Far(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                accepted.set_result(transport)

        server = await loop.create_server(Far, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        dialled, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        matching = [
            each.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for each in (dialled, await accepted)
        ]
        for each in (dialled, accepted.result()):
            each.abort()
        server.close()
        return matching

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert all(runner.run(both()))
