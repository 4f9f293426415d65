# SPDX-License-Identifier: BSD-2-Clause
"""Daily's dial-in at the real gateway: until the caller is taken off hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.daily_dialin import SECRET, send_dialin, take_off_hold
from tests.harness.daily_numbers_server import DailyWithNumbers
from tests.harness.daily_server import API_KEY
from tests.harness.failing_server import stalls
from tests.harness.gateway import Gateway


@pytest.fixture
async def daily() -> AsyncIterator[DailyWithNumbers]:
    server = await DailyWithNumbers().start()
    yield server
    await server.stop()


def hook(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}/v1/public/webhooks/acme/support/dialin"


def settings(daily: DailyWithNumbers, port: AgentPort, **server: Any) -> dict[str, Any]:
    acme = {"name": "acme", "public_keys": ["pk_acme"]}
    support = {"name": "support", "organization": "acme", "instances": [port.url], "max_agents": 1}
    at_daily = {"api_key": API_KEY, "api_url": daily.api_url, "webhook_secrets": [SECRET]}
    return {
        "organizations": [acme],
        "organizations.daily": at_daily,
        "agents": [support],
        "server": server,
    }


async def answer_with_room(gateway: Gateway, call: Any) -> Any:
    """What a webhook that comes again is answered, once the room is known."""
    async with asyncio.timeout(WAIT_S * 2):
        while "dailyRoom" not in (reply := await send_dialin(hook(gateway), call)).json:
            assert reply.status == 200, reply.raw
        return reply.json


def refusals(gateway: Gateway) -> list[dict[str, Any]]:
    return [line for line in gateway.log_lines() if line["event"] == "dialin refused"]


async def test_two_workers_and_a_repeated_webhook(
    start_gateway: Callable[..., Gateway],
    agent_port: Callable[[], AgentPort],
    agent_at: Callable[..., Any],
    daily: DailyWithNumbers,
) -> None:
    port = agent_port()
    agent = await agent_at(port, holds)
    gateway = start_gateway(**settings(daily, port, workers=2))
    call = daily.caller()

    replies = await asyncio.gather(*(send_dialin(hook(gateway), call) for _ in range(8)))

    bot = await bot_of(agent)
    assert [each.status for each in replies] == [200] * 8
    assert {each.json["sessionId"] for each in replies} == {bot.session}
    assert await answer_with_room(gateway, call) == {
        "dailyRoom": bot.headers["x-daily-room-url"],
        "dailyToken": daily.token(is_owner=False),
        "sessionId": bot.session,
    }
    assert agent.upgrades == 1
    assert len(daily.requests_of("create_room")) == 1
    (room,) = daily.rooms.values()
    assert await take_off_hold(bot, f"sip:{room['config']['sip_uri']['endpoint']}") == 200
    assert list(daily.patched) == [call["callId"]]

    late = await send_dialin(hook(gateway), daily.caller())
    (refused,) = await eventually(lambda: refusals(gateway), "there is no place")
    assert refused["reason"] == "at_capacity"
    # A machine so slow that Daily would have waited in vain has answered it before.
    assert late.status == 429 or late.json == {"sessionId": refused["session"]}
    bot.end()
    await eventually(lambda: gateway.sessions()[0]["state"] == "ended", "the session is over")
    (record,) = gateway.sessions()
    assert (record["carrier"], record["call_id"]) == ("daily", call["callId"])
    assert "+1415" not in str(gateway.log_lines())


async def test_a_gateway_that_stops_does_not_wait_for_a_room(
    start_gateway: Callable[..., Gateway],
    agent_port: Callable[[], AgentPort],
    agent_at: Callable[..., Any],
    daily: DailyWithNumbers,
) -> None:
    port = agent_port()
    await agent_at(port, holds)
    gateway = start_gateway(**settings(daily, port))
    daily.next("create_room", stalls)
    reply = await send_dialin(hook(gateway), daily.caller())
    assert (reply.status, list(reply.json)) == (200, ["sessionId"])

    gateway.terminate()

    assert await gateway.ended() == 0
    lines = [line for line in gateway.log_lines() if line["event"] == "dialin given up"]
    assert [line["session"] for line in lines] == [reply.json["sessionId"]]
    assert gateway.sessions() == []
    assert daily.rooms == {}
