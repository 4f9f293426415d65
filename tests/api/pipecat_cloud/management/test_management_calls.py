# SPDX-License-Identifier: BSD-2-Clause
"""Agents created through the API take calls on every worker, and any worker stops their calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import POLL_S, WAIT_S
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_ended, assert_no_slots_taken, hang_up
from tests.harness.gateway import Gateway

TARGET = "/ws/generic/fresh.acme"


@pytest.fixture(scope="module")
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], port: AgentPort) -> Gateway:
    """Two workers, and an agent of which the operator says where it runs."""
    support = {"name": "support", "organization": "acme", "instances": [port.url]}
    return start_gateway(
        server={"workers": 2},
        organizations=[{"name": "acme", "private_keys": ["sk_acme"]}],
        agents=[support],
        limits={"close_timeout": 10},  # both ends close here, each as slowly as it must
    )


@pytest.fixture(autouse=True)
async def nobody_holds_the_line(gateway: Gateway) -> AsyncIterator[None]:
    """After a test every caller's socket is freed, however the test went."""
    yield
    await gateway.callers_leave()


@pytest.fixture
async def ask(gateway: Gateway) -> AsyncIterator[Callable[..., Any]]:
    """One request to the management API, on a connection of its own: any worker may be asked."""
    connector = aiohttp.TCPConnector(force_close=True)
    headers = {"Authorization": "Bearer sk_acme"}
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{gateway.port}",
        connector=connector,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=WAIT_S),
    ) as client:

        async def one(method: str, path: str, value: Any = None) -> Any:
            async with client.request(method, path, json=value) as answer:
                body = await answer.json()
                assert answer.status == 200, body
                return body

        yield one


def owner_of(gateway: Gateway, call: Call) -> Any:
    return gateway.sessions(call.session)[0]["owner"]


async def one_call_on_each(gateway: Gateway, agent: Agent) -> list[Call]:
    """Two calls, each carried by another worker; those that do not know the agent yet are called again."""
    calls: dict[Any, Call] = {}
    async with asyncio.timeout(WAIT_S * 2):
        while len(calls) < 2:
            caller = await gateway.dial(TARGET)
            if caller.status != 101:
                assert caller.refusal == (404, "unknown_agent")
                await asyncio.sleep(POLL_S)
                continue
            call = Call(caller, await agent.call(), [])
            if owner_of(gateway, call) in calls:
                await hang_up(call)
            else:
                calls[owner_of(gateway, call)] = call
    return list(calls.values())


async def test_an_agent_made_through_the_api_takes_calls_on_every_worker_until_it_is_deleted(
    gateway: Gateway, port: AgentPort, agent_at: Callable[..., Any], ask: Callable[..., Any]
) -> None:
    agent = await agent_at(port)
    await ask(
        "POST", "/v1/agents", {"serviceName": "fresh", "instances": [port.url], "sessionsPerInstance": 50}
    )
    calls = await one_call_on_each(gateway, agent)

    found = await ask("GET", "/v1/agents/fresh/sessions?status=active")
    assert {each["sessionId"] for each in found["sessions"]} >= {call.session for call in calls}

    for call in calls:
        stopped = await ask("DELETE", f"/v1/agents/fresh/sessions/{call.session}")
        assert stopped == {"status": "terminated", "session_id": call.session}
        assert (await call.caller.closed())[0] == 1000
        assert (await call.agent.closed())[0] == 1000
        await assert_ended(gateway, call.session, "stopped", "gateway")
    await assert_no_slots_taken(gateway)

    await ask("DELETE", "/v1/agents/fresh")
    refused = 0
    async with asyncio.timeout(WAIT_S * 2):
        while refused < 12:  # in a row, so that both workers were asked
            caller = await gateway.dial(TARGET)
            refused = refused + 1 if caller.status == 404 else 0
            if caller.status == 101:
                await hang_up(Call(caller, await agent.call(), []))
    await assert_no_slots_taken(gateway)
