# SPDX-License-Identifier: BSD-2-Clause
"""Agents whose media socket is at a path of their own: every kind of call comes there."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.agent_failover import first_call, hang_up_resumed, lose_agent, next_agent_takes_over
from tests.harness.api_requests import KEY
from tests.harness.call_assertions import assert_ended, connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, IDS, opening

PATH = "/media-stream/{carrier}/{call_id}/{session}"


@pytest.fixture(scope="module")
def pair(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port(), agent_port()]


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort, pair: list[AgentPort]) -> Gateway:
    support = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    support |= {"sessions_per_instance": 20, "media_path": PATH, "health_interval": 0}
    return start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": [KEY]}],
        agents=[
            support,
            support | {"name": "hidden", "hide_call_id": True},
            support | {"name": "pair", "instances": [port.url for port in pair]},
        ],
    )


def ask(gateway: Gateway, method: str, path: str, body: Any, key: str = KEY) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_carriers_call_comes_to_the_agents_own_path_with_its_query(
    gateway: Gateway, support: Agent, carrier: str
) -> None:
    call = await connect(gateway, support, f"/ws/{carrier}/support.acme?sample-rate=8000")
    path, _, query = call.agent.path.partition("?")
    call_id = IDS[carrier][0].replace(":", "%3A")
    assert path == f"/media-stream/{carrier}/{call_id}/{call.session}"
    assert query.split("&")[-1] == "sample-rate=8000", "behind the body, where there is one"
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert support.health == 0, "it wants no health checks"


async def test_a_hidden_call_id_is_not_in_the_path(gateway: Gateway, support: Agent) -> None:
    call = await connect_hidden(gateway, support)
    assert call.path == f"/media-stream/twilio/{call.session}/{call.session}"


async def connect_hidden(gateway: Gateway, support: Agent) -> AgentCall:
    caller = await gateway.dial("/ws/twilio/hidden.acme")
    for message in opening("twilio"):
        caller.say(message)
    return await support.call()


async def test_an_agent_that_takes_a_call_over_has_it_at_the_same_path(
    gateway: Gateway, pair: list[AgentPort], agent_at: Callable[..., Any]
) -> None:
    agents = [await agent_at(port) for port in pair]
    call, own, other = await first_call(gateway, agents, agent="pair")
    await lose_agent(call.agent, own)
    second = await next_agent_takes_over(other, call)
    assert second.path == f"/media-stream/twilio/{IDS['twilio'][0]}/{call.session}"
    await hang_up_resumed(gateway, call, second)


async def test_a_session_with_a_token_comes_there_and_the_session_api_does_not(
    gateway: Gateway, support: Agent
) -> None:
    status, started = ask(
        gateway, "POST", "/v1/public/support/start", {"transport": "websocket"}, key="pk_acme"
    )
    assert status == 200
    session = started["sessionId"]
    caller = await gateway.dial(f"/ws/generic/support.acme/{started['token']}?a=1")
    taken = await support.call()
    assert taken.path == f"/media-stream/generic/{session}/{session}?a=1"

    upgrades = support.upgrades
    of_session = f"/v1/public/support/sessions/{session}"
    for path in (
        "/media-stream/generic/1/2",
        "/MEDIA-STREAM/x/y/z",
        "/media-stream/x/y/z/below",
        "/x/../media-stream/x/y/z",
        "/%6dedia-stream/x/y/z",
        "/media%252Dstream/x/y/z",
    ):
        assert ask(gateway, "GET", of_session + path, None, key="pk_acme")[0] in (400, 404), path
        refused = await gateway.dial(of_session + path, headers={"Authorization": "Bearer pk_acme"})
        assert refused.status in (400, 404), path
        gateway.upgrades -= 1  # it is no call
    assert support.upgrades == upgrades, "nothing of it reached the agent"
    caller.send(caller.close_frame(1000))
    await assert_ended(gateway, session, "caller_hangup", "caller")


async def test_an_agent_made_through_the_api_has_a_path_of_its_own(gateway: Gateway, support: Agent) -> None:
    new = {"serviceName": "made", "instances": [support.port.url], "mediaPath": "/made/{session}"}
    new |= {"healthPath": "", "healthInterval": 30}
    status, view = ask(gateway, "POST", "/v1/agents", new)
    assert status == 200, view
    assert (view["mediaPath"], view["healthPath"], view["healthInterval"]) == ("/made/{session}", "", 30.0)
    call = await connect(gateway, support, "/ws/twilio/made.acme")
    assert call.agent.path == f"/made/{call.session}"
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")

    for change in ({"mediaPath": "/{who}"}, {"healthPath": "x"}, {"healthInterval": 0.1}):
        status, answer = ask(gateway, "POST", "/v1/agents/made", change)
        assert status == 400, answer
        assert next(iter(change)) in answer["error"]
    assert ask(gateway, "POST", "/v1/agents/made", {"mediaPath": "/ws"})[1]["mediaPath"] == "/ws"
