# SPDX-License-Identifier: BSD-2-Clause
"""Telephone calls to a provider's API, with no bot in between: a server of the test stands for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import eventually
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_ended
from tests.harness.frames import BINARY, TEXT
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening, talk

KEY = "sk-a-key-of-the-provider"


@pytest.fixture(scope="module")
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], port: AgentPort) -> Gateway:
    return start_gateway(
        organizations=[{"name": "acme", "private_keys": ["sk_acme"], "public_keys": ["pk_acme"]}],
        agents=[
            {
                "name": dialect,
                "organization": "acme",
                "instances": [port.url],
                "dialect": dialect,
                "websocket_auth": "none",
                "provider": {"key": KEY, "agent": "agent_1", "instructions": "Be brief."},
            }
            for dialect in ("openai-realtime", "elevenlabs", "deepgram")
        ],
    )


@pytest.fixture
async def provider(agent_at: Callable[..., Any], port: AgentPort) -> Agent:
    started: Agent = await agent_at(port)
    return started


async def test_a_caller_talks_to_openai(gateway: Gateway, provider: Agent) -> None:
    caller = await gateway.dial("/ws/twilio/openai-realtime.acme")
    for text in opening("twilio"):
        caller.say(text)
    api = await provider.call()
    assert api.path == "/v1/realtime?model=gpt-realtime"
    assert api.headers["authorization"] == f"Bearer {KEY}"
    assert "x-daily-session-id" not in api.headers
    update = json.loads((await api.hear()).payload)
    assert update["session"]["instructions"] == "Be brief."
    said = talk("twilio")
    caller.say(next(text for text in said if '"media"' in text))
    assert json.loads((await api.hear()).payload)["type"] == "input_audio_buffer.append"
    api.say(
        json.dumps(
            {
                "type": "response.output_audio.delta",
                "item_id": "item_1",
                "content_index": 0,
                "delta": base64.b64encode(bytes(1600)).decode(),
            }
        )
    )
    heard = json.loads((await caller.hear()).payload)
    assert (heard["event"], len(base64.b64decode(heard["media"]["payload"]))) == ("media", 1600)
    api.say(json.dumps({"type": "error", "error": {"message": "something is wrong"}}))
    api.say(json.dumps({"type": "input_audio_buffer.speech_started"}))
    assert json.loads((await caller.hear()).payload)["event"] == "clear"
    await caller.hang_up()
    assert await eventually(gateway.ends, "the call ends")
    logged = [line for line in gateway.log_lines() if line["event"] == "agent reports an error"]
    assert [line["error"] for line in logged] == ["something is wrong"]
    assert KEY not in gateway.log_text()


async def test_a_caller_of_another_carrier_talks_to_deepgram(gateway: Gateway, provider: Agent) -> None:
    caller = await gateway.dial("/ws/exotel/deepgram.acme")
    for text in opening("exotel"):
        caller.say(text)
    api = await provider.call()
    assert (api.path, api.headers["authorization"]) == ("/v1/agent/converse", f"Token {KEY}")
    assert json.loads((await api.hear()).payload)["type"] == "Settings"
    api.say('{"type":"SettingsApplied"}')
    for text in talk("exotel"):
        caller.say(text)
    heard = await api.hear()
    assert (heard.opcode, len(heard.payload)) == (BINARY, 160)
    api.send(api.frame(BINARY, b"\xff" * 1600))
    played = await caller.hear()
    assert played.opcode == TEXT
    event = DIALECTS["exotel"].read_agent(played.payload)
    assert event.payload == bytes(3200)  # type: ignore[union-attr]
    await caller.hang_up()


async def test_a_provider_that_refuses_the_key_is_the_agents_fault(gateway: Gateway, port: AgentPort) -> None:
    async def refuse(agent: Agent, call: Any) -> None:
        call.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        agent.other_calls.put_nowait(call)

    provider = await Agent(port, refuse).start()
    caller = await gateway.dial("/ws/twilio/elevenlabs.acme")
    for text in opening("twilio"):
        caller.say(text)
    await caller.closed()
    await provider.stop()
    refused = [session for session in gateway.sessions() if session["agent"] == "elevenlabs.acme"]
    await assert_ended(gateway, refused[-1]["id"], "agent_unreachable", "agent")


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
async def test_only_calls_of_carriers_come_to_a_provider(gateway: Gateway, transport: str) -> None:
    refused = await gateway.dial("/ws/generic/openai-realtime.acme")
    assert refused.status == 400
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer pk_acme"}) as client:
        url = f"{gateway.url}/v1/public/openai-realtime/start"
        async with client.post(url, json={"transport": transport}) as answer:
            assert answer.status == 400
            assert "carriers only" in (await answer.json())["error"]
