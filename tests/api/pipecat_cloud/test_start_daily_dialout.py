# SPDX-License-Identifier: BSD-2-Clause
"""A start whose agent calls somebody from its room at Daily, as the guide shows it
(docs/reference/carriers.md §6.5).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.agent import AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.daily_server import API_KEY, DailyServer
from tests.harness.failing_server import fails
from tests.harness.start_api import running_worker, tables

PSTN = [{"phoneNumber": "+14155550100", "callerId": "33333333-3333-4333-8333-333333333333"}]
SIP = [{"sipUri": "sip:someone@example.com"}]
CALLS_A_MINUTE = 3


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
    """Starts a session; what the agent is told, or the refusal."""
    port = agent_port()
    agent = await agent_at(port, holds)
    domain = {"api_key": API_KEY, "api_url": daily.api_url}
    acme = {"daily": domain, "dial_prefixes": ["+1415"], "dial_per_minute": CALLS_A_MINUTE}
    settings = tables(port.url, agent={"sessions_per_instance": 10}, acme=acme)
    async with running_worker(tmp_path / "patchbay.db", settings) as worker:

        async def begin(*, raw: bytes | None = None, **wanted: Any) -> Any:
            reply = await worker.start("support", {"createDailyRoom": True} | wanted, raw=raw)
            if reply.status != 200:
                return reply
            bot = await bot_of(agent)
            assert bot.headers["x-daily-room-token"] == daily.token(is_owner=True)
            assert reply.body["dailyToken"] == daily.token(is_owner=False)
            return bot.json

        yield begin


@pytest.mark.parametrize("whom", [PSTN, SIP])
async def test_the_room_may_call_and_the_agent_owns_it(
    start: Callable[..., Any], daily: DailyServer, whom: Any
) -> None:
    body = {"dialout_settings": whom, "customer": 4711}
    assert await start(body=body) == body
    (room,) = daily.rooms.values()
    assert room["config"]["enable_dialout"] is True


LARGE = "x" * 100_000
"""So much that the body is not parsed as a whole."""


async def test_the_numbers_in_a_large_body_are_called(start: Callable[..., Any], daily: DailyServer) -> None:
    body = {"dialout_settings": PSTN, "notes": LARGE}
    assert await start(body=body) == body
    (room,) = daily.rooms.values()
    assert room["config"]["enable_dialout"] is True


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"notes": LARGE, "dialout_settings": [{"phoneNumber": "+882123456789"}]}, 403),
        ({"dialout_settings": [{"phoneNumber": "+882123456789", "notes": LARGE}]}, 413),
    ],
)
async def test_the_numbers_in_a_large_body_are_checked(
    start: Callable[..., Any], daily: DailyServer, body: Any, status: int
) -> None:
    assert (await start(body=body)).status == status
    assert not daily.rooms


async def test_the_numbers_in_a_large_body_have_their_name_in_any_spelling(
    start: Callable[..., Any], daily: DailyServer
) -> None:
    text = json.dumps({"body": {"notes": LARGE, "dialout_settings": [{"phoneNumber": "+882123456789"}]}})
    raw = text.replace("dialout_settings", "dialout\\u005fsettings").encode()
    assert (await start(raw=b'{"createDailyRoom":true,' + raw[1:])).status == 403
    assert not daily.rooms


@pytest.mark.parametrize("body", [LARGE, [LARGE], {"notes": LARGE, "dialout_settings": []}])
async def test_a_large_body_without_numbers_calls_nobody(
    start: Callable[..., Any], daily: DailyServer, body: Any
) -> None:
    assert await start(body=body) == body
    (room,) = daily.rooms.values()
    assert "enable_dialout" not in room["config"]


@pytest.mark.parametrize(
    "whom",
    [
        [{"phoneNumber": "+882123456789"}],
        [*PSTN, {"phoneNumber": "+882123456789"}],
        {"phone_number": "+882123456789"},
        {"desk": {"anything": "tel:+882123456789"}},
        [{"sipUri": "sip:+882123456789@trunk.example.com"}],
        [{"sipUri": "sip:882123456789@trunk.example.com"}],
    ],
)
async def test_numbers_that_no_prefix_allows(
    start: Callable[..., Any], daily: DailyServer, whom: Any
) -> None:
    reply = await start(body={"dialout_settings": whom}, dailyRoomProperties={"enable_dialout": True})
    assert (reply.status, reply.body["code"]) == (403, "403")
    assert daily.seen == []


async def test_settings_that_name_nobody_make_no_room(start: Callable[..., Any], daily: DailyServer) -> None:
    reply = await start(body={"dialout_settings": [{"contact": 7}]})
    assert reply.status == 400
    assert daily.seen == []


async def test_the_guides_start_is_allowed(start: Callable[..., Any], daily: DailyServer) -> None:
    """The guide sets the property as well."""
    body = {"dialout_settings": PSTN}
    assert await start(body=body, dailyRoomProperties={"enable_dialout": True}) == body


async def test_calls_from_rooms_count_with_all_other_calls_out(
    start: Callable[..., Any], daily: DailyServer
) -> None:
    reply = await start(body={"dialout_settings": PSTN * (CALLS_A_MINUTE + 1)})
    assert (reply.status, daily.seen) == (429, [])
    daily.next("create_room", fails(500))
    assert (await start(body={"dialout_settings": PSTN * CALLS_A_MINUTE})).status == 502
    body = {"dialout_settings": PSTN * CALLS_A_MINUTE}
    assert await start(body=body) == body, "a room that was not made has cost nothing"
    assert (await start(body={"dialout_settings": PSTN})).status == 429


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
