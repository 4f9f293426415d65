# SPDX-License-Identifier: BSD-2-Clause
"""Calls that come to a translated agent on a way of its own: from a full agent, by messages, over TLS, and
after the agent's settings were read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from serializers.events import Media
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.caller import Caller
from tests.harness.frames import BINARY, CONTINUATION, PING, PONG, TEXT
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening, talk


@pytest.fixture(scope="module")
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], port: AgentPort) -> Gateway:
    agent = {"organization": "acme", "instances": [port.url], "websocket_auth": "none", "hold": "none"}
    raw = {"dialect": "pcm16", "audio_rate": 8000, "start_message": False}
    return start_gateway(
        agents=[
            agent | {"name": "busy", "max_agents": 1, "overflow": "raw.acme"},
            agent | raw | {"name": "raw", "sessions_per_instance": 20},
            agent | raw | {"name": "messages", "sessions_per_instance": 20, "media": "messages"},
        ],
        limits={"max_message_bytes": 65536, "close_timeout": 0.5},
    )


@pytest.fixture
async def agent(agent_at: Callable[..., Any], port: AgentPort) -> Agent:
    started: Agent = await agent_at(port)
    return started


async def ring(
    gateway: Gateway, agent: Agent, name: str, carrier: str = "twilio"
) -> tuple[Caller, AgentCall]:
    caller = await gateway.dial(f"/ws/{carrier}/{name}.acme")
    assert caller.status == 101
    for message in opening(carrier):
        caller.say(message)
    return caller, await agent.call()


async def both_hear(caller: Caller, call: AgentCall, carrier: str = "twilio") -> None:
    dialect = DIALECTS[carrier]
    said = next(message for message in talk(carrier) if '"media"' in message)
    caller.say(said)
    heard = await call.hear()
    sound = dialect.read_carrier(said).payload  # type: ignore[union-attr]
    assert (heard.opcode, len(heard.payload)) == (BINARY, len(sound) * (1 if carrier == "exotel" else 2))
    call.send(call.frame(BINARY, bytes(3200)))
    played = dialect.read_agent((await caller.hear()).payload)
    assert isinstance(played, Media)
    assert len(played.payload) == (3200 if carrier == "exotel" else 1600)


async def test_a_full_agents_call_comes_to_one_that_speaks_something_else(
    gateway: Gateway, agent: Agent
) -> None:
    first, own = await ring(gateway, agent, "busy")
    caller, call = await ring(gateway, agent, "busy")
    await both_hear(caller, call)
    await caller.hang_up()
    await first.hang_up()
    assert (await call.closed())[0] == 1000
    assert (await own.closed())[0] == 1000


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "exotel"])
async def test_messages_are_translated_as_bytes_are(gateway: Gateway, agent: Agent, carrier: str) -> None:
    caller, call = await ring(gateway, agent, "messages", carrier)
    await both_hear(caller, call, carrier)
    await caller.hang_up()
    assert (await call.closed())[0] == 1000


async def test_an_agents_pings_and_fragments_are_those_of_any_websocket(
    gateway: Gateway, agent: Agent
) -> None:
    caller, call = await ring(gateway, agent, "raw")
    await both_hear(caller, call)
    call.send(bytes((BINARY, 4)) + bytes(4))  # the beginning of a message
    call.send(call.frame(PING, b"there?"))
    call.send(bytes((CONTINUATION, 0)))
    call.send(bytes((0x80 | CONTINUATION, 4)) + bytes(4))
    ping = await caller.hear()
    assert (ping.opcode, ping.payload) == (PING, b"there?")
    caller.send(caller.frame(PONG, b"there?"))
    pong = await call.hear()
    assert (pong.opcode, pong.payload) == (PONG, b"there?")
    heard = DIALECTS["twilio"].read_agent((await caller.hear()).payload)
    assert isinstance(heard, Media)
    assert heard.payload == b"\xff" * 4
    await caller.hang_up()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (bytes((0xC2, 0)), 1002),
        (bytes((0x82, 127)) + (1 << 20).to_bytes(8, "big"), 1009),
        (bytes((0x80 | CONTINUATION, 0)), 1002),
    ],
    ids=["reserved bits", "too long", "continues nothing"],
)
async def test_a_frame_that_breaks_the_protocol_ends_the_call(
    gateway: Gateway, agent: Agent, sent: bytes, code: int
) -> None:
    """What the agent said before it is heard."""
    caller, call = await ring(gateway, agent, "raw")
    await both_hear(caller, call)
    call.send(call.frame(BINARY, bytes(320)) + sent)
    heard = DIALECTS["twilio"].read_agent((await caller.hear()).payload)
    assert isinstance(heard, Media)
    assert (await call.closed())[0] == code
    assert (await caller.closed())[0] == 1011
    ended = await eventually(
        lambda: [one for one in gateway.sessions(call.session) if one["ended_at"] is not None],
        "the call has ended",
    )
    assert ended[0]["side"] == "agent"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
async def test_an_agents_close_code_reaches_the_carrier(gateway: Gateway, agent: Agent, code: int) -> None:
    caller, call = await ring(gateway, agent, "raw")
    await both_hear(caller, call)
    call.send(call.close_frame(code))
    while (frame := await caller.next()) is not None and frame.opcode == TEXT:
        message = json.loads(frame.payload)
        if message["event"] == "mark":  # the gateway asks when all was played
            caller.say(json.dumps({"event": "mark", "sequenceNumber": "9", "mark": message["mark"]}))
    assert frame is not None
    assert frame.close[0] == code
    caller.send(caller.close_frame(code))
    assert (await call.closed())[0] in (1000, code)
