# SPDX-License-Identifier: BSD-2-Clause
"""Sockets that want a token (docs/reference/public-api.md, "Media sockets"): where it may be, and that it
is good once.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.agent import AgentPort
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

TWILIO_START = (
    '{"event":"connected","protocol":"Call","version":"1.0.0"}',
    json.dumps(
        {
            "event": "start",
            "sequenceNumber": "1",
            "start": {"accountSid": "AC1", "streamSid": "MZ1", "callSid": "CA1", "tracks": ["inbound"],
                      "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                      "customParameters": {}},
            "streamSid": "MZ1",
        }
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> dict[str, AgentPort]:
    return {"locked": agent_port(), "open": agent_port()}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], ports: dict[str, AgentPort]) -> Gateway:
    return start_gateway(
        server={"workers": 2},
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}],
        agents=[
            {
                "name": name,
                "organization": "acme",
                "instances": [port.url],
                "sessions_per_instance": 20,
                "websocket_auth": "token" if name == "locked" else "none",
            }
            for name, port in ports.items()
        ],
    )


def start(gateway: Gateway, agent: str, **more: Any) -> dict[str, Any]:
    """A start with the transport `websocket`."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.request(
        "POST",
        f"/v1/public/{agent}/start",
        json.dumps({"transport": "websocket", **more}),
        {"Authorization": "Bearer pk_acme", "Content-Type": "application/json"},
    )
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, body
    return body


WAYS = {
    "header": lambda token: ("/ws/generic/locked.acme", {"Authorization": f"Bearer {token}"}),
    "query": lambda token: (f"/ws/generic/locked.acme?token={token}", {}),
    "path": lambda token: (f"/ws/generic/locked.acme/{token}", {}),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_opens_its_session_once(
    gateway: Gateway, ports: dict[str, AgentPort], agent_at: Any, way: str
) -> None:
    agent = await agent_at(ports["locked"])
    promised = start(gateway, "locked")
    target, headers = WAYS[way](promised["token"])
    caller = await gateway.dial(target, headers=headers)
    assert caller.status == 101, caller.body
    call = await agent.call()
    assert call.headers["x-daily-session-id"] == promised["sessionId"]
    again = await gateway.dial(target, headers=headers)
    assert again.status == 403
    await gateway.callers_leave()


@pytest.mark.parametrize("token", ["", "nonsense", "A" * 140])
async def test_without_a_valid_token_it_is_403_and_no_agent_starts(gateway: Gateway, token: str) -> None:
    before = len(gateway.sessions())
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    caller = await gateway.dial("/ws/generic/locked.acme", headers=headers)
    assert caller.status == 403
    assert len(gateway.sessions()) == before


async def test_a_token_for_another_agent_is_403(gateway: Gateway) -> None:
    caller = await gateway.dial(f"/ws/generic/locked.acme?token={start(gateway, 'open')['token']}")
    assert caller.status == 403


async def test_twilio_with_a_token_in_the_path_needs_no_agent_beside_it(
    gateway: Gateway, ports: dict[str, AgentPort], agent_at: Any
) -> None:
    agent = await agent_at(ports["locked"])
    promised = start(gateway, "locked")
    caller = await gateway.dial(f"/ws/twilio/{promised['token']}")
    assert caller.status == 101, caller.body
    for message in TWILIO_START:
        caller.say(message)
    call = await agent.call()
    assert call.headers["x-daily-session-id"] == promised["sessionId"]
    await gateway.callers_leave()


async def test_a_client_adds_nothing_to_the_body_that_its_token_is_bound_to(
    gateway: Gateway, ports: dict[str, AgentPort], agent_at: Any
) -> None:
    """The agent trusts that `body` to be its backend's, also where custom data would be added to it."""
    agent = await agent_at(ports["locked"])
    promised = start(gateway, "locked", body={"customer": 4711})
    caller = await gateway.dial(
        f"/ws/plivo/locked.acme/{promised['token']}?body={quote(promised['body'], safe='')}&admin=1"
    )
    assert caller.status == 101, caller.body
    for message in opening("plivo", {"admin": "1"}):
        caller.say(message)
    call = await agent.call()
    assert call.headers["x-daily-session-id"] == promised["sessionId"]
    assert json.loads(base64.b64decode(call.query["body"][0])) == {"customer": 4711}
    assert call.query["admin"] == ["1"]
    await gateway.callers_leave()


async def test_an_agent_that_requires_no_token_still_runs_the_tokens_session(
    gateway: Gateway, ports: dict[str, AgentPort], agent_at: Any
) -> None:
    agent = await agent_at(ports["open"])
    promised = start(gateway, "open")
    caller = await gateway.dial(f"/ws/generic/open.acme/{promised['token']}")
    assert caller.status == 101, caller.body
    call = await agent.call()
    assert call.headers["x-daily-session-id"] == promised["sessionId"]
    await gateway.callers_leave()
