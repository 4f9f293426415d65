# SPDX-License-Identifier: BSD-2-Clause
"""A start whose agent calls somebody from its room at Daily, as the guide shows it
(docs/reference/carriers.md §6.5).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.agent import AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.daily_server import API_KEY, DailyServer
from tests.harness.start_api import running_worker, tables

PSTN = [{"phoneNumber": "+14155550100", "callerId": "33333333-3333-4333-8333-333333333333"}]
SIP = [{"sipUri": "sip:someone@example.com"}]


@pytest.fixture
async def daily() -> AsyncIterator[DailyServer]:
    server = await DailyServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def start(
    tmp_path: Path,
    agent_port: Callable[[], AgentPort],
    agent_at: Callable[..., Any],
    daily: DailyServer,
) -> AsyncIterator[Callable[..., Any]]:
    """Starts a session; what the agent is told."""
    port = agent_port()
    agent = await agent_at(port, holds)
    settings = tables(port.url, acme={"daily": {"api_key": API_KEY, "api_url": daily.api_url}})
    async with running_worker(tmp_path / "patchbay.db", settings) as worker:

        async def begin(**wanted: Any) -> Any:
            reply = await worker.start("support", {"createDailyRoom": True} | wanted)
            assert reply.status == 200
            bot = await bot_of(agent)
            assert bot.headers["x-daily-room-token"] == reply.body["dailyToken"]
            return bot.json

        yield begin


@pytest.mark.parametrize("whom", [PSTN, SIP])
async def test_the_room_may_call_and_the_agent_owns_it(
    start: Callable[..., Any], daily: DailyServer, whom: Any
) -> None:
    body = {"dialout_settings": whom, "customer": 4711}
    assert await start(body=body) == body
    (room,) = daily.rooms.values()
    (token,) = daily.tokens.values()
    assert room["config"]["enable_dialout"] is True
    assert token["is_owner"] is True


async def test_the_callers_own_word_counts(start: Callable[..., Any], daily: DailyServer) -> None:
    await start(body={"dialout_settings": PSTN}, dailyRoomProperties={"enable_dialout": False, "geo": "eu"})
    (room,) = daily.rooms.values()
    assert (room["config"]["enable_dialout"], room["config"]["geo"]) == (False, "eu")


@pytest.mark.parametrize(
    "body", [None, {}, {"dialout_settings": []}, ["dialout_settings"], "dialout_settings"]
)
async def test_other_rooms_may_not_call(start: Callable[..., Any], daily: DailyServer, body: Any) -> None:
    await start(body=body)
    (room,) = daily.rooms.values()
    assert "enable_dialout" not in room["config"]
