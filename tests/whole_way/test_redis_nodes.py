# SPDX-License-Identifier: BSD-2-Clause
"""Two gateways that share a Redis server: slots, stops, keys, and the calls of one that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import POLL_S, WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_both_hear, connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.redis_server import RedisServer


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start_node(
    start_gateway: Callable[..., Gateway], redis: RedisServer, support_port: AgentPort
) -> Callable[[], Gateway]:
    """Start one more gateway on the same server; its agent has one place."""

    def start() -> Gateway:
        return start_gateway(
            store={"url": redis.url()},
            limits={"requests_per_second": 10_000, "requests_burst": 10_000},
            organizations=[{"name": "acme", "private_keys": ["sk_acme"]}],
            agents=[
                {
                    "name": "support",
                    "organization": "acme",
                    "instances": [support_port.url],
                    "sessions_per_instance": 1,
                    "websocket_auth": "none",
                }
            ],
        )

    return start


@pytest.fixture(scope="module")
def nodes(start_node: Callable[[], Gateway]) -> tuple[Gateway, Gateway]:
    return start_node(), start_node()


async def ask(gateway: Gateway, method: str, path: str, key: str = "sk_acme", value: Any = None) -> Any:
    """One request on a connection of its own; the status and the body."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.request(method, gateway.url + path, json=value) as answer,
    ):
        return answer.status, await answer.json()


async def over(gateway: Gateway, session_id: str) -> dict[str, Any]:
    """Wait until a session is over; return it."""
    return await session(gateway, session_id, "ended", "canceled", "failed")


async def session(gateway: Gateway, session_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a session has one of these statuses; return it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            code, body = await ask(gateway, "GET", f"/v1/sessions/{session_id}")
            if code == 200 and body["status"] in statuses:
                return dict(body)
            await asyncio.sleep(POLL_S)


async def call_at(gateway: Gateway, support: Agent) -> Call:
    """Place a call as soon as the place is free."""
    async with asyncio.timeout(WAIT_S):
        while (caller := await gateway.dial("/ws/generic/support.acme")).status != 101:
            assert caller.status == 429
            await asyncio.sleep(POLL_S)
        return Call(caller, await support.call(), [])


async def test_the_place_of_an_agent_is_one_at_both(nodes: tuple[Gateway, Gateway], support: Agent) -> None:
    east, west = nodes
    call = await connect(east, support)
    await assert_both_hear(call)
    refused = await west.dial("/ws/generic/support.acme")
    assert refused.status == 429
    assert (await session(west, call.session, "running"))["agent"] == "support.acme"
    await hang_up(call)
    ended = await over(west, call.session)
    assert (ended["end_reason"], ended["transport"]["carrier"]) == ("caller_hangup", "twilio")
    second = await call_at(west, support)
    await hang_up(second)
    await over(east, second.session)


async def test_a_call_is_stopped_through_the_other_gateway(
    nodes: tuple[Gateway, Gateway], support: Agent
) -> None:
    east, west = nodes
    call = await call_at(east, support)
    assert (await ask(west, "POST", f"/v1/sessions/{call.session}/stop"))[0] == 200
    assert (await over(west, call.session))["end_reason"] == "stopped"
    await call.caller.leave()


async def test_a_key_made_at_one_is_good_at_the_other_until_it_is_revoked(
    nodes: tuple[Gateway, Gateway],
) -> None:
    east, west = nodes
    status, made = await ask(east, "POST", "/v1/apiKeys", value={"type": "private", "name": "ops"})
    assert status == 200
    assert (await ask(west, "GET", "/v1/sessions", key=made["key"]))[0] == 200
    assert (await ask(west, "DELETE", f"/v1/apiKeys/{made['id']}"))[0] == 200
    assert (await ask(east, "GET", "/v1/sessions", key=made["key"]))[0] == 401


async def test_the_place_of_a_gateway_that_was_killed_is_free(
    nodes: tuple[Gateway, Gateway], start_node: Callable[[], Gateway], support: Agent
) -> None:
    east, _ = nodes
    doomed = start_node()
    call = await call_at(doomed, support)
    doomed.process.kill()
    await eventually(lambda: doomed.process.poll() is not None, "it is dead")
    lost = await session(east, call.session, "failed")
    assert lost["end_reason"] == "gateway_lost"
    doomed.upgrades = 0  # no line tells of its call
    second = await call_at(east, support)
    await hang_up(second)
    await over(east, second.session)
