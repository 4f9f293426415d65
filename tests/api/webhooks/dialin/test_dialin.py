# SPDX-License-Identifier: BSD-2-Clause
"""Daily's pinless dial-in: a caller on hold reaches an agent (docs/reference/carriers.md §6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.agents.instance_health import Health
from gateway.api.webhooks.dialin import DIALIN
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.daily_dialin import dialin_log_lines, send_dialin, take_off_hold
from tests.harness.daily_numbers_server import DailyWithNumbers
from tests.harness.daily_server import API_KEY
from tests.harness.failing_server import fails, stalls
from tests.harness.http_requests import send, serving
from tests.harness.start_api import Worker, gives_up_after, running_worker

LONGEST_S = 900  # of the agent, in conftest.py


# The way of a call


@pytest.mark.usefixtures("patient")
async def test_a_caller_on_hold_reaches_the_agent(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    call = daily.caller(sipHeaders={"X-Customer": "4711"})

    reply = await send_dialin(url, call)

    bot = await bot_of(agent)
    (room,) = daily.rooms.values()
    guest, owner = daily.token(is_owner=False), daily.token(is_owner=True)
    assert reply.status == 200
    assert reply.json == {"dailyRoom": room["url"], "dailyToken": guest, "sessionId": bot.session}
    assert bot.headers["x-daily-room-url"] == room["url"]
    assert bot.headers["x-daily-room-token"] == owner
    assert bot.headers["x-daily-transport-type"] == "daily"
    assert bot.json == {
        "dialin_settings": {
            "call_id": call["callId"],
            "call_domain": call["callDomain"],
            "To": "+14155550199",
            "From": "+14155550100",
            "to": "+14155550199",
            "from": "+14155550100",
            "sip_headers": {"X-Customer": "4711"},
        },
        "daily_api_key": API_KEY,
        "daily_api_url": daily.api_url,
    }
    assert await take_off_hold(bot, f"sip:{room['config']['sip_uri']['endpoint']}") == 200
    assert call["callId"] in daily.patched
    assert daily.held == {}

    record = await worker.store.session(bot.session)
    assert record is not None
    assert (record.transport, record.carrier, record.call_id) == ("daily", "daily", call["callId"])
    assert (record.from_number, record.to_number) == ("+14155550100", "+14155550199")
    bot.end()
    assert (await worker.over(bot.session)).completion_status == "HTTP_COMPLETED"


@pytest.mark.parametrize("name", ["From", "To"])
@pytest.mark.parametrize("value", [None, "", "missing"])
@pytest.mark.usefixtures("patient")
async def test_a_number_that_daily_does_not_tell_is_null_for_the_agent(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers, name: str, value: str | None
) -> None:
    """Anonymous callers exist; Pipecat's model takes null (docs/reference/carriers.md §6.5)."""
    call = daily.caller() | {name: value}
    if value == "missing":
        del call[name]
    assert (await send_dialin(url, call)).status == 200
    bot = await bot_of(agent)
    other = {"From": "To", "To": "From"}[name]
    settings = bot.json["dialin_settings"]
    assert (settings[name], settings[name.lower()]) == (None, None)
    assert settings[other] == settings[other.lower()] == call[other]
    (room,) = daily.rooms.values()
    assert room["config"]["sip"]["display_name"] == ("Anonymous" if name == "From" else "+14155550100")
    record = await worker.store.session(bot.session)
    assert record is not None
    assert (record.from_number, record.to_number) == (settings["From"], settings["To"])


@pytest.mark.usefixtures("patient")
async def test_other_fields_and_the_query_reach_the_agent(
    url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    """The fields are those of the example servers (docs/reference/carriers.md §6.5)."""
    more = {"voicemail_detection": {"testInPrebuilt": True}, "plan": "gold", "dialin_settings": {"To": "x"}}
    call = daily.caller(**more, daily_api_key="theirs", dialout_settings=[{"phoneNumber": "+14155550123"}])
    query = "campaign=spring%20sale&plan=silver&dialout_settings=x&daily_api_url=https%3A%2F%2Fexample.com"
    assert (await send_dialin(f"{url}?{query}", call)).status == 200
    bot = await bot_of(agent)
    told = dict(bot.json)
    settings = told.pop("dialin_settings")
    assert (settings["To"], settings["call_id"]) == ("+14155550199", call["callId"])
    assert told == {
        "voicemail_detection": {"testInPrebuilt": True},
        "plan": "gold",
        "campaign": "spring sale",
        "daily_api_key": API_KEY,
        "daily_api_url": daily.api_url,
    }
    (room,) = daily.rooms.values()
    assert "enable_dialout" not in room["config"]


@pytest.mark.usefixtures("patient")
async def test_the_room_takes_one_call_and_expires_with_the_session(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    before = worker.services.calls.now()
    await send_dialin(url, daily.caller())
    after = worker.services.calls.now()
    (room,) = daily.rooms.values()
    token = daily.tokens[daily.token(is_owner=True)]
    exp = room["config"].pop("exp")
    assert int(before) + LONGEST_S <= exp <= after + LONGEST_S
    room["config"].pop("sip_uri")
    assert room["config"] == {
        "eject_at_room_exp": True,
        "start_video_off": True,
        "sip": {
            "display_name": "+14155550100",
            "video": False,
            "sip_mode": "dial-in",
            "num_endpoints": 1,
            "codecs": {"audio": ["OPUS"], "video": ["H264"]},
        },
    }
    assert (token["is_owner"], token["exp"], token["room_name"]) == (True, exp, room["name"])


@pytest.mark.usefixtures("hasty")
async def test_the_answer_does_not_wait_for_daily(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    let_go = asyncio.Event()

    async def is_slow(_: DailyWithNumbers, __: Any, act: Callable[[], Any]) -> Any:
        await let_go.wait()
        return act()

    daily.next("create_room", is_slow)
    reply = await send_dialin(url, daily.caller())
    assert reply.status == 200
    assert list(reply.json) == ["sessionId"]
    assert daily.rooms == {}

    let_go.set()
    bot = await bot_of(agent)
    assert bot.session == reply.json["sessionId"]


@pytest.mark.usefixtures("hasty")
async def test_a_start_that_fails_after_the_answer_is_logged_and_leaves_nothing(
    worker: Worker, url: str, daily: DailyWithNumbers
) -> None:
    gives_up_after(worker, 0.6)
    call = daily.caller()
    with structlog.testing.capture_logs() as lines:
        reply = await send_dialin(url, call)
        assert reply.status == 200
        await eventually(lambda: dialin_log_lines(lines), "the failure is logged")
    await eventually(lambda: not daily.rooms, "the room is gone")
    (line,) = dialin_log_lines(lines)
    assert (line["reason"], line["session"]) == ("agent_unreachable", reply.json["sessionId"])
    assert "+1415" not in str(lines)
    await worker.assert_nothing_left()


@pytest.mark.usefixtures("hasty")
async def test_a_server_that_stops_gives_up_unfinished_starts(
    worker: Worker, agent: Agent, daily: DailyWithNumbers
) -> None:
    daily.next("create_room", stalls)
    with structlog.testing.capture_logs() as lines:
        async with serving(worker, DIALIN) as address:
            reply = await send_dialin(f"{address}/v1/public/webhooks/acme/support/dialin", daily.caller())
            assert reply.status == 200
            await eventually(lambda: daily.requests_of("create_room"), "the room is being made")
        await eventually(lambda: dialin_log_lines(lines), "it is logged")
    assert [line["event"] for line in dialin_log_lines(lines)] == ["dialin given up"]
    assert daily.rooms == {}
    await worker.assert_nothing_left()


@pytest.mark.usefixtures("hasty")
async def test_a_caller_waits_for_an_agent_that_is_starting(
    worker: Worker, url: str, agent_at: Callable[..., Any], port: AgentPort, daily: DailyWithNumbers
) -> None:
    agent = await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Health.STARTING)
    reply = await send_dialin(url, daily.caller())
    assert reply.status == 200
    agent.ready = 200
    await worker.sees(port.url, Health.READY)
    assert (await bot_of(agent)).session == reply.json["sessionId"]


# Repeated webhooks


@pytest.mark.usefixtures("patient")
async def test_a_repeated_webhook_starts_nothing_and_gets_the_same_answer(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    call = daily.caller()
    first, second = await asyncio.gather(send_dialin(url, call), send_dialin(url, call))
    third = await send_dialin(url, call)
    assert first.status == second.status == third.status == 200
    assert first.json == second.json == third.json
    assert (await bot_of(agent)).session == first.json["sessionId"]
    assert len(daily.requests_of("create_room")) == 1
    assert len(await worker.records()) == 1


@pytest.mark.usefixtures("patient")
async def test_a_webhook_that_is_repeated_after_the_call_starts_nothing(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    call = daily.caller()
    first = await send_dialin(url, call)
    bot = await bot_of(agent)
    bot.end()
    await worker.over(bot.session)
    late = await send_dialin(url, call)
    assert (late.status, late.json) == (200, first.json)
    assert len(await worker.records()) == 1
    assert agent.calls.empty()


@pytest.mark.usefixtures("hasty")
async def test_a_repeated_webhook_does_not_wait_for_the_first(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    daily.next("create_room", stalls)
    call = daily.caller()
    first = await send_dialin(url, call)
    second = await send_dialin(url, call)
    assert first.json == second.json
    assert list(second.json) == ["sessionId"]
    await eventually(lambda: daily.requests_of("create_room"), "the room is being made")
    assert len(daily.requests_of("create_room")) == 1


@pytest.mark.usefixtures("patient")
async def test_a_failed_start_may_be_repeated(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    daily.next("create_room", fails(500))
    call = daily.caller()
    assert (await send_dialin(url, call)).status == 502
    assert (await send_dialin(url, call)).status == 200
    await bot_of(agent)


@pytest.mark.usefixtures("patient")
async def test_one_call_id_of_two_domains_is_two_calls(
    agent: Agent, daily: DailyWithNumbers, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["agents"][0]["sessions_per_instance"] = 2
    async with running_worker(tmp_path / "two.db", settings) as worker, serving(worker, DIALIN) as address:
        url = f"{address}/v1/public/webhooks/acme/support/dialin"
        call = daily.caller()
        first = await send_dialin(url, call)
        second = await send_dialin(url, call | {"callDomain": "another.sip.test"})
        assert first.status == second.status == 200
        assert first.json["sessionId"] != second.json["sessionId"]


# Probes


@pytest.mark.parametrize(
    "body",
    [
        {"Test": "test"},
        {"test": "test"},
        {"test": True, "callId": "11111111-1111-4111-8111-111111111111"},
        {"To": "+14155550199"},
        {},
        [],
        None,
    ],
)
async def test_a_probe_is_answered_without_a_signature(
    worker: Worker, url: str, daily: DailyWithNumbers, body: Any
) -> None:
    reply = await send(url, body)
    assert (reply.status, reply.json) == (200, {"status": "OK"})
    assert daily.seen == []
    assert await worker.records() == []


async def test_a_probe_without_a_body(url: str) -> None:
    assert (await send(url, raw=b"")).status == 200
