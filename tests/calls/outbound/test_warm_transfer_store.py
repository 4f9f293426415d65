# SPDX-License-Identifier: BSD-2-Clause
"""Warm transfers while the store is away: nobody waits for ever, and no telephone rings on."""

from __future__ import annotations

import asyncio
import atexit
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import POLL_S, WAIT_S, eventually
from tests.calls.outbound.conftest import FROM, PUBLIC_URL, OutboundGateway
from tests.harness.agent import Agent, AgentPort
from tests.harness.callees import Callee, server_of
from tests.harness.gateway import Gateway
from tests.harness.redis_server import RedisServer
from tests.harness.rest_accounts import CREDENTIALS
from tests.harness.warm_transfer import start_talk


@dataclass
class RedisGateway(OutboundGateway):
    """Looks at the API instead of the store's file, again while the store does not answer."""

    async def get(self, path: str) -> Any:
        headers = {"Authorization": "Bearer sk_acme"}
        async with asyncio.timeout(WAIT_S):
            while True:
                async with self.http.get(self.gateway.url + path, headers=headers) as answer:
                    if answer.status != 503:
                        assert answer.status == 200
                        return await answer.json()
                await asyncio.sleep(POLL_S)

    async def wait_for_agent(self, session: str, phone: Callee) -> None:
        async with asyncio.timeout(WAIT_S):
            while (await self.get(f"/v1/sessions/{session}"))["status"] != "running":
                await asyncio.sleep(POLL_S)

    async def ended(self, session: str) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            while (found := await self.get(f"/v1/sessions/{session}"))["ended_at"] is None:
                await asyncio.sleep(POLL_S)
        return dict(found)

    async def all_slots_free(self) -> None:
        await self.gateway.callers_leave()


@pytest.fixture(scope="module")
def redis() -> RedisServer:
    """A server that outlives the module's gateway, which would drain for long without it."""
    server = RedisServer()
    atexit.register(server.stop)
    return server


@pytest.fixture(scope="module")
def twilio_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture(scope="module")
def start_node(
    redis: RedisServer, start_gateway: Callable[..., Gateway], support_port: AgentPort, twilio_port: AgentPort
) -> Callable[[], Gateway]:
    """Start one more gateway on the same server."""

    def start() -> Gateway:
        account = {
            "carrier": "twilio",
            "api_url": server_of("twilio", twilio_port, "").api_url,
            "calls_per_second": 1000.0,
            **CREDENTIALS["twilio"],
        }
        acme = {
            "name": "acme",
            "public_keys": ["pk_acme"],
            "private_keys": ["sk_acme"],
            "carriers": [account],
            "dial_prefixes": ["+1415"],
            "dial_per_minute": 1000,
        }
        return start_gateway(
            store={"url": redis.url()},
            organizations=[acme],
            agents=[
                {
                    "name": "support",
                    "organization": "acme",
                    "instances": [support_port.url],
                    "max_agents": 2,
                    "hold": "ringback",
                }
            ],
            server={"public_url": PUBLIC_URL, "workers": 1},
            numbers=[{"number": FROM, "agent": "support.acme"}],
        )

    return start


@pytest.fixture(scope="module")
def gateway(start_node: Callable[[], Gateway]) -> Gateway:
    return start_node()


@pytest.fixture
async def outbound(gateway: Gateway, twilio_port: AgentPort) -> AsyncIterator[RedisGateway]:
    server = await server_of("twilio", twilio_port, f"http://127.0.0.1:{gateway.port}").start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S * 2)) as http:
        outbound = RedisGateway(gateway, {"twilio": server}, http)
        yield outbound
        await outbound.all_slots_free()
    await server.stop()


@pytest.fixture
def frozen(redis: RedisServer, outbound: OutboundGateway) -> Iterator[Callable[[], Any]]:
    """Freeze the store's server, and return when a consultation has seen it; it goes on after the test."""
    assert redis.process is not None
    process = redis.process

    def seen() -> list[str]:
        lines = outbound.gateway.log_lines()
        return [line["consultation"] for line in lines if line["event"] == "store" and "consultation" in line]

    async def freeze() -> None:
        before = len(seen())
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: len(seen()) > before, "the store does not answer")

    yield freeze
    process.send_signal(signal.SIGCONT)


async def test_a_telephone_that_rings_while_the_store_is_away_can_take_the_call(
    outbound: Any, support: Agent, redis: RedisServer, frozen: Callable[[], Any]
) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    await desk.rings()
    await frozen()
    assert not desk.hung_up
    assert redis.process is not None
    redis.process.send_signal(signal.SIGCONT)
    await call.desk_answers()
    await call.key("1")
    assert await call.result() == "joined"
    assert not desk.hung_up
    await call.caller.closed()
    await call.agent.hang_up()
    await outbound.ended(call.session)


async def test_a_caller_who_hangs_up_while_the_store_is_away_ends_the_other_call(
    outbound: Any, support: Agent, redis: RedisServer, frozen: Callable[[], Any]
) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    await desk.rings()
    await frozen()
    call.caller.send(call.caller.close_frame(1000))
    await call.agent.closed()
    await eventually(lambda: desk.hung_up, "nothing rings on")
    assert redis.process is not None
    redis.process.send_signal(signal.SIGCONT)
    assert await call.result() == "caller_left"
    await outbound.ended(call.session)


async def test_a_store_that_comes_back_empty_lets_no_telephone_ring_on(
    outbound: Any, support: Agent, redis: RedisServer
) -> None:
    call = await start_talk(outbound, support)
    desk = await call.consults()
    await desk.rings()
    redis.kill()
    redis.start()
    call.caller.send(call.caller.close_frame(1000))
    await call.agent.closed()
    await eventually(lambda: desk.hung_up, "nothing rings on")
    over = await outbound.log_line(call.session, "consultation over")
    assert over["result"] == "caller_left"


async def test_a_consultation_whose_gateway_has_died_ends_with_its_call(
    outbound: Any, support: Agent, start_node: Callable[[], Gateway]
) -> None:
    call = await start_talk(outbound, support)
    doomed = start_node()
    here, outbound.gateway = outbound.gateway, doomed
    desk = await call.consults()
    outbound.gateway = here
    doomed.process.kill()
    await eventually(lambda: doomed.process.poll() is not None, "it is dead")
    await desk.over("busy")
    assert await call.result() == "busy"
    await call.assert_they_talk_on()
    await (await call.consults()).over("busy")  # another try
    assert await call.result() == "busy"
    await call.hangs_up()
