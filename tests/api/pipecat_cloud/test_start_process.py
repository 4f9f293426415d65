# SPDX-License-Identifier: BSD-2-Clause
"""Starts at the real gateway: on any worker, and while it drains."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.gateway import Gateway

ACME = {"name": "acme", "public_keys": ["pk_acme"]}


def support(port: AgentPort, **more: Any) -> dict[str, Any]:
    return {"name": "support", "organization": "acme", "instances": [port.url], **more}


async def start(gateway: Gateway, transport: str | None = None, **headers: str) -> tuple[int, Any]:
    """One start on a connection of its own."""
    wanted = {"body": {"customer": 4711}, "transport": transport}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S)) as http,
        http.post(
            f"http://127.0.0.1:{gateway.port}/v1/public/support/start",
            data=io.BytesIO(json.dumps(wanted).encode()),
            headers={"Authorization": "Bearer pk_acme", "Content-Type": "application/json", **headers},
        ) as answer,
    ):
        return answer.status, await answer.json()


def session(gateway: Gateway, session_id: str) -> dict[str, Any]:
    (found,) = gateway.sessions(session_id)
    return found


async def test_a_gateway_that_stops_waits_for_its_sessions(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent = await agent_at(port, holds)
    gateway = start_gateway(organizations=[ACME], agents=[support(port, max_agents=1)])
    status, answer = await start(gateway)
    assert status == 200
    bot = await bot_of(agent)
    assert bot.json == {"customer": 4711}

    gateway.terminate()
    await eventually(lambda: gateway.get("/readyz")[0] == 503, "it drains")
    assert (await start(gateway))[0] == 503
    state = lambda: session(gateway, answer["sessionId"])["state"]  # noqa: E731
    await eventually(lambda: state() == "running", "it runs on, as is written down behind it")
    bot.end()

    assert await gateway.ended() == 0
    over = session(gateway, answer["sessionId"])
    assert (over["state"], over["completion_status"]) == ("ended", "HTTP_COMPLETED")


async def test_sessions_that_outlast_the_draining_are_ended(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent = await agent_at(port, holds)
    gateway = start_gateway(organizations=[ACME], agents=[support(port)], server={"drain_timeout": 0})
    _, answer = await start(gateway)
    bot = await bot_of(agent)

    gateway.terminate()

    await bot.broken_off()
    assert await gateway.ended() == 0
    over = session(gateway, answer["sessionId"])
    assert (over["state"], over["reason"], over["completion_status"]) == ("ending", "draining", "HTTP_ERROR")
    assert over["ended_at"] is None, "another worker sees to its slot"


async def test_every_worker_knows_the_answer_and_the_slots(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent = await agent_at(port, holds)
    gateway = start_gateway(organizations=[ACME], agents=[support(port, max_agents=1)], server={"workers": 2})
    key = {"Idempotency-Key": "order-4711"}
    first = await start(gateway, **key)
    assert first[0] == 200
    assert await asyncio.gather(*(start(gateway, **key) for _ in range(8))) == [first] * 8
    refused = await asyncio.gather(*(start(gateway) for _ in range(8)))
    assert [status for status, _ in refused] == [429] * 8
    bot = await bot_of(agent)
    assert agent.upgrades == 1
    bot.end()
    await eventually(lambda: session(gateway, first[1]["sessionId"])["state"] == "ended", "it ends")


async def test_the_socket_runs_the_pending_session(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent = await agent_at(port)
    gateway = start_gateway(organizations=[ACME], agents=[support(port, websocket_auth="token")])
    status, answer = await start(gateway, "websocket")
    assert status == 200
    url = urlsplit(answer["wsUrl"])
    assert url.netloc == f"127.0.0.1:{gateway.port}"

    query = urlencode({"token": answer["token"], "body": answer["body"]})
    caller = await gateway.dial(f"{url.path}?{query}")

    call = await agent.call()
    assert call.session == answer["sessionId"]
    assert json.loads(base64.b64decode(call.query["body"][0])) == {"customer": 4711}
    await eventually(lambda: session(gateway, answer["sessionId"])["state"] == "running", "it runs")
    await caller.hang_up()
    await gateway.callers_leave()
    await eventually(lambda: session(gateway, answer["sessionId"])["state"] == "ended", "it ends")
