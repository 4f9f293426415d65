# SPDX-License-Identifier: BSD-2-Clause
"""A media token is used when its socket is accepted, and opens another one after that was lost
(docs/sockets.md, "One token for one session").
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.api_requests import api_request
from tests.harness.call_assertions import assert_ended
from tests.harness.caller import Caller
from tests.harness.carrier_reconnect import waits_for_carrier
from tests.harness.frames import BINARY, PING
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening, talk

PUBLIC = {"Authorization": "Bearer pk_acme", "Content-Type": "application/json"}
TARGET = "/ws/generic/locked.acme"


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> dict[str, AgentPort]:
    return {"locked": agent_port(), "sales": agent_port()}


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def gateway(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway], ports: dict[str, AgentPort]
) -> Gateway:
    return start_gateway(
        server={"workers": request.param},
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]}],
        agents=[
            {"name": name, "organization": "acme", "instances": [port.url], "websocket_auth": "token"}
            for name, port in ports.items()
        ],
        limits={"reconnect_timeout": 30},
    )


@pytest.fixture
async def agent(agent_at: Any, ports: dict[str, AgentPort]) -> Agent:
    found: Agent = await agent_at(ports["locked"])
    return found


@pytest.fixture(autouse=True)
async def callers_leave(gateway: Gateway) -> AsyncIterator[None]:
    """Close the sockets that a test has left open."""
    yield
    await gateway.callers_leave()


def start(gateway: Gateway, agent: str = "locked", **fields: Any) -> dict[str, Any]:
    """Start a session with the transport `websocket`."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    body = json.dumps({"transport": "websocket", **fields})
    connection.request("POST", f"/v1/public/{agent}/start", body, PUBLIC)
    answer = connection.getresponse()
    started = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, started
    return dict(started)


async def called(
    gateway: Gateway, agent: Agent, token: str, target: str = TARGET
) -> tuple[Caller, AgentCall]:
    """Open the session's first socket."""
    caller = await gateway.dial(f"{target}?token={token}")
    assert caller.status == 101, caller.body
    return caller, await agent.call()


async def is_lost(gateway: Gateway, caller: Caller, session: str) -> None:
    """Reset the socket, and wait until the gateway has noticed."""
    await eventually(lambda: not waits_for_carrier(gateway, session), "an earlier loss is forgotten")
    caller.reset()
    await eventually(lambda: waits_for_carrier(gateway, session), "the session waits for its client")


async def hang_up(caller: Caller, agent: AgentCall) -> None:
    caller.send(caller.close_frame(1000))
    assert (await agent.closed())[0] == 1000


async def both_hear(caller: Caller, agent: AgentCall) -> None:
    for payload in (b"from the client", b"\x00\x01"):
        caller.send(caller.frame(BINARY, payload))
        assert (await agent.hear()).payload == payload
    agent.say("from the agent")
    assert (await caller.hear()).payload == b"from the agent"


async def test_a_client_that_lost_its_socket_dials_the_same_url_and_goes_on(
    gateway: Gateway, agent: Agent
) -> None:
    promised = start(gateway)
    caller, call = await called(gateway, agent, promised["token"])
    await both_hear(caller, call)
    for _ in range(3):
        await is_lost(gateway, caller, promised["sessionId"])
        call.say("while nobody listened")
        caller = await gateway.dial(f"{TARGET}?token={promised['token']}")
        assert caller.status == 101, caller.body
        assert (await caller.hear()).payload == b"while nobody listened"
        await both_hear(caller, call)
    caller.send(caller.close_frame(1000))
    assert (await call.closed())[0] == 1000
    await assert_ended(gateway, promised["sessionId"], "caller_hangup", "caller")
    again = await gateway.dial(f"{TARGET}?token={promised['token']}")
    assert again.refusal == (403, "unauthorized"), "the session is over"


async def test_a_client_that_dials_before_the_gateway_knows_of_the_loss_goes_on(
    gateway: Gateway, agent: Agent
) -> None:
    """Its old socket is open here, and nobody answers on it, as after a change of networks."""
    promised = start(gateway)
    caller, call = await called(gateway, agent, promised["token"])
    again = await gateway.dial(f"{TARGET}?token={promised['token']}")
    assert again.status == 101, again.body
    assert (await caller.next()).opcode == PING
    await both_hear(again, call)
    await hang_up(again, call)


async def test_a_token_opens_nothing_while_its_socket_is_there(gateway: Gateway, agent: Agent) -> None:
    promised = start(gateway)
    caller, call = await called(gateway, agent, promised["token"])
    again = asyncio.create_task(gateway.dial(f"{TARGET}?token={promised['token']}"))
    await caller.answer_ping()
    async with asyncio.timeout(WAIT_S):
        assert (await again).refusal == (403, "unauthorized")
    assert "used already" in (await again).json["error"]
    await both_hear(caller, call)
    await hang_up(caller, call)


async def test_a_client_that_talks_need_not_answer_a_ping(gateway: Gateway, agent: Agent) -> None:
    promised = start(gateway)
    caller, call = await called(gateway, agent, promised["token"])
    again = asyncio.create_task(gateway.dial(f"{TARGET}?token={promised['token']}"))
    assert (await caller.next()).opcode == PING
    caller.say("still there")
    async with asyncio.timeout(WAIT_S):
        assert (await again).status == 403
    assert (await call.hear()).payload == b"still there"
    await hang_up(caller, call)


async def test_a_session_whose_client_does_not_come_again_ends(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Any
) -> None:
    port = agent_port()
    gateway = start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"]}],
        agents=[
            {"name": "locked", "organization": "acme", "instances": [port.url], "websocket_auth": "token"}
        ],
        limits={"reconnect_timeout": 0.2},
    )
    agent = await agent_at(port)
    promised = start(gateway)
    caller, call = await called(gateway, agent, promised["token"])
    caller.reset()
    await call.closed()
    record = await assert_ended(gateway, promised["sessionId"], "carrier_lost", "carrier")
    assert "no other came" in record["detail"]
    again = await gateway.dial(f"{TARGET}?token={promised['token']}")
    assert again.status == 403


async def test_a_stopped_session_does_not_wait_for_its_client(gateway: Gateway, agent: Agent) -> None:
    promised = start(gateway)
    caller, call = await called(gateway, agent, promised["token"])
    await is_lost(gateway, caller, promised["sessionId"])
    path = f"/v1/agents/locked/sessions/{promised['sessionId']}"
    assert api_request(gateway, "DELETE", path) == 200
    await call.closed()
    await assert_ended(gateway, promised["sessionId"], "stopped", "gateway")
    again = await gateway.dial(f"{TARGET}?token={promised['token']}")
    assert again.status == 403


async def test_a_carrier_that_dials_again_goes_on_with_its_token(gateway: Gateway, agent: Agent) -> None:
    promised = start(gateway)
    target = "/ws/telnyx/locked.acme"
    caller = await gateway.dial(f"{target}?token={promised['token']}")
    for message in opening("telnyx"):
        caller.say(message)
    call = await agent.call()
    for message in opening("telnyx"):
        assert (await call.hear()).payload == message.encode()
    await is_lost(gateway, caller, promised["sessionId"])
    again = await gateway.dial(f"{target}?token={promised['token']}")
    assert again.status == 101, again.body
    for message in [*opening("telnyx"), *talk("telnyx")]:
        again.say(message)
    assert json.loads((await call.hear()).payload) == json.loads(talk("telnyx")[0])
    await hang_up(again, call)


# Refused attempts


async def test_a_socket_that_was_refused_leaves_the_token_good(gateway: Gateway, agent: Agent) -> None:
    promised = start(gateway, body={"customer": 4711})
    token, body = promised["token"], promised["body"]
    other = base64.b64encode(b'{"customer": 1}').decode()
    for target in (
        f"{TARGET}?token={token}",
        f"{TARGET}?token={token}&body={other}",
        f"/ws/generic/sales.acme?token={token}&body={body}",
        f"/ws/generic/locked.acme?serviceHost=sales.acme&token={token}&body={body}",
    ):
        caller = await gateway.dial(target)
        assert caller.status in (400, 403), target
    caller = await gateway.dial(f"{TARGET}?token={token}&body={body}")
    assert caller.status == 101, caller.body
    call = await agent.call()
    assert call.headers["x-daily-session-id"] == promised["sessionId"]
    await hang_up(caller, call)


async def test_a_socket_that_found_no_place_leaves_the_token_good(gateway: Gateway, agent: Agent) -> None:
    first, second = start(gateway), start(gateway)
    caller, call = await called(gateway, agent, first["token"])
    full = await gateway.dial(f"{TARGET}?token={second['token']}")
    assert full.refusal == (429, "at_capacity")
    await hang_up(caller, call)
    await assert_ended(gateway, first["sessionId"], "caller_hangup", "caller")
    caller, call = await called(gateway, agent, second["token"])
    assert call.headers["x-daily-session-id"] == second["sessionId"]
    await hang_up(caller, call)


async def test_of_two_sockets_at_once_one_has_the_session(gateway: Gateway, agent: Agent) -> None:
    promised = start(gateway)

    async def dial() -> Caller:
        """Dial, and answer pings from then on: a socket without a sign of life would lose the session."""
        caller = await gateway.dial(f"{TARGET}?token={promised['token']}")
        if caller.status == 101:
            answering.append(asyncio.create_task(answer_pings(caller)))
        return caller

    answering: list[asyncio.Task[None]] = []
    both = await asyncio.gather(dial(), dial())
    for task in answering:
        task.cancel()
    assert sorted(caller.status for caller in both)[:1] == [101]
    assert {caller.status for caller in both} <= {101, 403, 429}, "the other is used, or finds no place"
    call = await agent.call()
    await hang_up(next(caller for caller in both if caller.status == 101), call)


async def answer_pings(caller: Caller) -> None:
    while True:
        await caller.answer_ping()
