# SPDX-License-Identifier: BSD-2-Clause
"""A call's document at one machine and its stream at another: the slot is the same call's at both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from gateway.simulator.waiting import POLL_S, WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.document_calls import DocumentCalls, Server, accounts, servers
from tests.harness.gateway import Gateway
from tests.harness.redis_server import RedisServer
from tests.harness.rest_server import Placed

SUPPORT = "agent=support&org=acme"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def carrier_servers(agent_port: Callable[[], AgentPort]) -> dict[str, Server]:
    return servers(agent_port)


@pytest.fixture(scope="module")
def start_node(
    start_gateway: Callable[..., Gateway],
    redis: RedisServer,
    support_port: AgentPort,
    carrier_servers: dict[str, Server],
) -> Callable[[], Gateway]:
    """Start one more gateway on the same server; its agent has one place."""

    def start() -> Gateway:
        agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
        return start_gateway(
            store={"url": redis.url()},
            server={"public_url": "https://voice.example.com"},
            organizations=[{"name": "acme", "carriers": accounts(carrier_servers)}],
            agents=[agent | {"max_agents": 1, "admit_at": "document"}],
            limits={"close_timeout": 0.2},
        )

    return start


@contextlib.asynccontextmanager
async def carrier(line: DocumentCalls) -> AsyncIterator[Callable[[Gateway], DocumentCalls]]:
    """The carrier, and its calls by the gateway that its next requests go to."""
    gateways = {line.gateway}

    def by(gateway: Gateway) -> DocumentCalls:
        gateways.add(gateway)
        line.server.via = f"http://127.0.0.1:{gateway.port}"
        return DocumentCalls(gateway, line.server, line.carrier)

    by(line.gateway)
    await line.server.start()
    try:
        yield by
    finally:
        for gateway in gateways:
            await gateway.callers_leave()
        await line.server.stop()


def given_back(gateway: Gateway) -> list[dict[str, Any]]:
    return [one for one in gateway.log_lines() if one["event"] == "slot given back"]


async def admitted(calls: DocumentCalls) -> Placed:
    """Place a call as soon as the slot of the one before is free."""
    async with asyncio.timeout(WAIT_S):
        while True:
            placed = await calls.place(f"/xml/twilio?{SUPPORT}")
            assert placed.document is not None
            if placed.document.verbs[0].tag != "Reject":
                return placed
            await asyncio.sleep(POLL_S)


async def test_the_stream_of_a_document_comes_to_another_machine(
    start_node: Callable[[], Gateway], carrier_servers: dict[str, Server], support: Agent
) -> None:
    """Also when the machine of the document has died meanwhile, and nobody knows it yet."""
    east, west = start_node(), start_node()
    async with carrier(DocumentCalls(east, carrier_servers["twilio"], "twilio")) as by:
        placed = await by(east).place(f"/xml/twilio?{SUPPORT}")
        refused = await by(west).place(f"/xml/twilio?{SUPPORT}")
        assert refused.document is not None
        assert refused.document.verbs[0].tag == "Reject", "the one place is taken at both"
        repeated = await by(west).place(f"/xml/twilio?{SUPPORT}", CallSid=placed.call_id)
        caller = await by(west).dial(repeated.stream_url)
        call = await by(west).opened(caller, placed.call_id, support)
        await caller.hang_up()
        (ended,) = await eventually(west.ends, "the call ends at the machine that had its stream")
        assert (ended["session"], ended["reason"]) == (call.session, "caller_hangup")

        given_up = await admitted(by(east))
        over = {"CallSid": given_up.call_id, "CallStatus": "completed"}
        answered = await by(west).server.post(by(west).url(f"/callbacks/twilio?{SUPPORT}"), over)
        assert answered.status == 200
        (line,) = await eventually(lambda: given_back(east), "its own machine gives the slot back")
        assert line["call_id"] == given_up.call_id

        placed = await admitted(by(east))
        east.process.kill()
        caller = await by(west).dial(placed.stream_url)
        call = await by(west).opened(caller, placed.call_id, support)
        await caller.hang_up()
        last = await eventually(lambda: west.ends()[1:], "the call ends")
        assert [(one["session"], one["reason"]) for one in last] == [(call.session, "caller_hangup")]
