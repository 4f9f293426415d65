# SPDX-License-Identifier: BSD-2-Clause
"""Starts in a room at Daily, and every way in which Daily or the agent may fail (docs/reference/carriers.md
§6.4).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.instance_health import Health
from gateway.calls import session_start
from gateway.carriers.daily.rest import Daily
from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import answer_of, answers_with, bot_of, holds
from tests.harness.daily_server import API_KEY, DailyServer, rate_limits
from tests.harness.failing_server import (
    Behaviour,
    acts_then_resets,
    acts_then_stalls,
    fails,
    resets,
    says,
    stalls,
    trickles,
)
from tests.harness.start_api import Worker, gives_up_after, running_worker, tables

LONGEST_S = 900
PATIENCE_S = 0.5
"""How long Daily may stall where a test waits for it; else it has as long as it takes."""


@pytest.fixture
async def daily(agent_port: Callable[[], AgentPort]) -> AsyncIterator[DailyServer]:
    """Its port stays its own, also when nobody listens there any more."""
    server = await DailyServer(agent_port()).start()
    yield server
    await server.stop()


@pytest.fixture
async def worker(tmp_path: Path, port: AgentPort, daily: DailyServer) -> AsyncIterator[Worker]:
    settings = tables(
        port.url,
        agent={"max_session_duration": LONGEST_S},
        acme={"daily": {"api_key": API_KEY, "api_url": daily.api_url}},
    )
    async with running_worker(tmp_path / "patchbay.db", settings) as one:
        yield one


@pytest.mark.parametrize("wanted", [{"createDailyRoom": True}, {"transport": "daily"}])
async def test_the_agent_and_the_caller_meet_in_one_room(
    worker: Worker, agent: Agent, daily: DailyServer, wanted: dict[str, Any]
) -> None:
    reply = await worker.start("support", wanted | {"body": {"customer": 4711}})

    assert reply.status == 200
    bot = await bot_of(agent)
    (room,) = daily.rooms.values()
    guest, owner = daily.token(is_owner=False), daily.token(is_owner=True)
    assert reply.body == {"dailyRoom": room["url"], "dailyToken": guest, "sessionId": bot.session}
    assert bot.headers["x-daily-room-url"] == room["url"]
    assert bot.headers["x-daily-room-token"] == owner
    assert bot.headers["x-daily-transport-type"] == "daily"
    assert bot.json == {"customer": 4711}
    record = await worker.store.session(bot.session)
    assert record is not None
    assert record.transport == "daily"


async def test_the_room_expires_with_the_longest_session(
    worker: Worker, agent: Agent, daily: DailyServer
) -> None:
    before = worker.services.calls.now()
    await worker.start("support", {"createDailyRoom": True})
    after = worker.services.calls.now()
    (room,) = daily.rooms.values()
    assert int(before) + LONGEST_S <= room["config"]["exp"] <= after + LONGEST_S
    assert [token["exp"] for token in daily.tokens.values()] == [room["config"]["exp"]] * 2
    assert room["config"]["eject_at_room_exp"] is True


async def test_the_clients_properties_override_ours(worker: Worker, agent: Agent, daily: DailyServer) -> None:
    reply = await worker.start(
        "support",
        {
            "createDailyRoom": True,
            "dailyRoomProperties": {"start_video_off": True, "exp": 2_000_000_000_000},
            "dailyMeetingTokenProperties": {"is_owner": False, "user_name": "Ada"},
        },
    )
    assert reply.status == 200
    (room,) = daily.rooms.values()
    guest = daily.tokens[reply.body["dailyToken"]]
    assert room["config"]["start_video_off"] is True
    assert room["config"]["exp"] <= worker.services.calls.now() + LONGEST_S
    assert (guest["is_owner"], guest["user_name"]) == (False, "Ada")
    assert guest["room_name"] == room["name"]
    assert "user_name" not in daily.tokens[daily.token(is_owner=True)], "the agent is not called Ada"


REFUSED_ROOMS: list[dict[str, Any]] = [
    {"enable_dialout": True},
    {"enable_recording": "cloud"},
    {"enable_recording": "raw-tracks"},
    {"enable_transcription_storage": True},
    {"auto_transcription_settings": {}},
    {"sip": {"display_name": "x", "sip_mode": "dial-in"}},
    {"dialin": {"display_name": "x"}},
    {"streaming_endpoints": []},
    {"recordings_bucket": {}},
    {"meeting_join_hook": "https://example.com/"},
    {"permissions": {"canAdmin": True}},
    {"eject_at_room_exp": False},
    {"a_property_of_tomorrow": 1},
]
REFUSED_TOKENS: list[dict[str, Any]] = [
    {"is_owner": True},
    {"is_owner": 1},
    {"enable_recording": "cloud"},
    {"start_cloud_recording": True},
    {"auto_start_transcription": True},
    {"permissions": {"canAdmin": True}},
    {"a_property_of_tomorrow": 1},
]
REFUSED = [("dailyRoomProperties", each) for each in REFUSED_ROOMS]
REFUSED += [("dailyMeetingTokenProperties", each) for each in REFUSED_TOKENS]


@pytest.mark.parametrize(("where", "properties"), REFUSED, ids=str)
async def test_a_client_may_not_set_what_costs_money_or_gives_rights(
    worker: Worker, agent: Agent, daily: DailyServer, where: str, properties: dict[str, Any]
) -> None:
    reply = await worker.start("support", {"createDailyRoom": True, where: properties})
    assert (reply.status, reply.body["code"]) == (403, "403")
    (name,) = properties
    assert name in reply.body["error"]
    assert daily.seen == []
    await assert_nothing_left(worker, agent, daily)


async def test_what_is_switched_off_needs_no_permission(
    worker: Worker, agent: Agent, daily: DailyServer
) -> None:
    properties = {"enable_dialout": False, "eject_at_room_exp": True}
    reply = await worker.start("support", {"createDailyRoom": True, "dailyRoomProperties": properties})
    assert reply.status == 200
    (room,) = daily.rooms.values()
    assert (room["config"]["enable_dialout"], room["config"]["eject_at_room_exp"]) == (False, True)


async def test_the_operator_widens_what_a_client_may_set(
    agent: Agent, port: AgentPort, daily: DailyServer, tmp_path: Path
) -> None:
    domain = {"api_key": API_KEY, "api_url": daily.api_url}
    domain |= {"room_properties": ["enable_recording"], "token_properties": ["enable_recording"]}
    async with running_worker(tmp_path / "wide.db", tables(port.url, acme={"daily": domain})) as worker:
        wanted = {"enable_recording": "cloud"}
        reply = await worker.start(
            "support",
            {
                "createDailyRoom": True,
                "dailyRoomProperties": wanted,
                "dailyMeetingTokenProperties": wanted,
            },
        )
        assert reply.status == 200
        (room,) = daily.rooms.values()
        guest = daily.tokens[reply.body["dailyToken"]]
        assert room["config"]["enable_recording"] == guest["enable_recording"] == "cloud"
        assert guest["is_owner"] is False
        (await bot_of(agent)).end()


async def test_the_room_stays_when_the_session_ends(worker: Worker, agent: Agent, daily: DailyServer) -> None:
    await worker.start("support", {"createDailyRoom": True})
    bot = await bot_of(agent)
    bot.end()
    await worker.over(bot.session)
    assert len(daily.rooms) == 1


async def test_a_room_of_the_callers_own_is_not_touched(
    worker: Worker, agent: Agent, daily: DailyServer
) -> None:
    body = {"room_url": "https://acme.daily.test/mine", "token": "theirs"}
    reply = await worker.start("support", {"body": body})
    assert list(reply.body) == ["sessionId"]
    assert (await bot_of(agent)).json == body
    assert daily.seen == []


async def test_an_organisation_without_a_domain(
    agent: Agent, port: AgentPort, daily: DailyServer, tmp_path: Path
) -> None:
    async with running_worker(tmp_path / "other.db", tables(port.url)) as worker:
        reply = await worker.start("support", {"createDailyRoom": True})
        assert (reply.status, reply.body["code"]) == (400, "400")
        assert "organizations.daily." in reply.body["error"]
        assert await worker.records() == []
        assert agent.upgrades == 0


@pytest.mark.parametrize("where", ["dailyRoomProperties", "dailyMeetingTokenProperties"])
@pytest.mark.parametrize("exp", ["tomorrow", True, -1])
async def test_an_invalid_expiry_is_400(
    worker: Worker, agent: Agent, daily: DailyServer, where: str, exp: Any
) -> None:
    reply = await worker.start("support", {"createDailyRoom": True, where: {"exp": exp}})
    assert (reply.status, reply.body["code"]) == (400, "400")
    await assert_nothing_left(worker, agent, daily)


# Daily fails


async def assert_nothing_left(worker: Worker, agent: Agent, daily: DailyServer) -> None:
    assert daily.rooms == {}
    assert await worker.records() == []
    assert agent.upgrades == 0
    await worker.assert_nothing_left()


FAILURES: list[tuple[Behaviour, int, str]] = [
    (fails(400, "invalid-request-error", "unknown property 'colour'"), 502, "daily_refused"),
    (fails(401, "authentication-error"), 502, "daily_refused"),
    (rate_limits("7"), 502, "daily_rate_limited"),
    (fails(500), 502, "daily_broken"),
    (fails(503), 502, "daily_broken"),
    (resets, 502, "daily_unreachable"),
    (acts_then_resets, 502, "daily_unreachable"),
    (stalls, 504, "daily_timeout"),
    (acts_then_stalls, 504, "daily_timeout"),
    (trickles, 502, "daily_unreadable"),
    (says("<html>", makes=True), 502, "daily_unreadable"),
    (says({}, makes=True), 502, "daily_unreadable"),
]


def hasty(operation: str) -> Callable[..., Daily]:
    """A Daily that is not waited for long, and only where it is asked for this."""

    def made(http: Any, key: str, url: str) -> Daily:
        patient, hurried = (Daily(http, key, url, timeout_s=wait_s) for wait_s in (WAIT_S, PATIENCE_S))
        hurried.delete_room = patient.delete_room  # type: ignore[method-assign]
        setattr(patient, operation, getattr(hurried, operation))
        return patient

    return made


@pytest.mark.parametrize("operation", ["create_room", "create_token"])
@pytest.mark.parametrize(("behaviour", "status", "code"), FAILURES)
async def test_daily_refuses(
    worker: Worker,
    agent: Agent,
    daily: DailyServer,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    behaviour: Behaviour,
    status: int,
    code: str,
) -> None:
    if status == 504:
        monkeypatch.setattr(session_start, "Daily", hasty(operation))
    daily.next(operation, behaviour)
    reply = await worker.start("support", {"createDailyRoom": True})
    assert (reply.status, reply.body["code"]) == (status, code), reply.body
    assert API_KEY not in str(reply.body)
    if code == "daily_rate_limited":
        assert reply.headers["Retry-After"] == "7"
    await assert_nothing_left(worker, agent, daily)


async def test_daily_does_not_listen(worker: Worker, agent: Agent, daily: DailyServer) -> None:
    await daily.stop()
    reply = await worker.start("support", {"createDailyRoom": True})
    assert (reply.status, reply.body["code"]) == (502, "daily_unreachable")
    await assert_nothing_left(worker, agent, daily)


# The agent fails


async def test_no_room_is_created_for_an_agent_that_cannot_be_reached(
    worker: Worker, port: AgentPort, daily: DailyServer
) -> None:
    gives_up_after(worker, PATIENCE_S)
    await worker.sees(port.url, Health.UNREACHABLE)
    reply = await worker.start("support", {"createDailyRoom": True})
    assert (reply.status, reply.body["code"]) == (502, "agent_unreachable")
    assert daily.seen == []
    await worker.assert_nothing_left()


async def test_the_room_is_deleted_if_the_agent_refuses(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, daily: DailyServer
) -> None:
    await agent_at(port, answers_with(answer_of(500)))
    reply = await worker.start("support", {"createDailyRoom": True})
    assert (reply.status, reply.body["code"]) == (502, "agent_failed")
    assert len(daily.requests_of("create_room")) == 1
    assert daily.rooms == {}
    await worker.assert_nothing_left()


async def test_a_room_that_cannot_be_deleted_does_not_hide_the_reason(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, daily: DailyServer
) -> None:
    await agent_at(port, answers_with(answer_of(500)))
    daily.next("delete_room", fails(401, "authentication-error"))
    reply = await worker.start("support", {"createDailyRoom": True})
    assert (reply.status, reply.body["code"]) == (502, "agent_failed")
    assert len(daily.rooms) == 1  # its expiry ends it


async def test_no_room_is_created_without_a_free_slot(
    worker: Worker, agent: Agent, daily: DailyServer
) -> None:
    await worker.start()
    reply = await worker.start("support", {"createDailyRoom": True})
    assert reply.status == 429
    assert daily.seen == []


async def test_no_room_is_created_for_an_agent_that_is_not_ready(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, daily: DailyServer
) -> None:
    gives_up_after(worker, PATIENCE_S)
    await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Health.STARTING)
    reply = await worker.start("support", {"createDailyRoom": True})
    assert (reply.status, reply.body["code"]) == (400, "PCC-1001")
    assert daily.seen == []


async def test_the_room_is_deleted_if_the_last_slot_was_taken_meanwhile(
    worker: Worker, agent: Agent, daily: DailyServer
) -> None:
    async def another_is_faster(server: DailyServer, request: Any, act: Callable[[], Any]) -> Any:
        assert (await worker.start()).status == 200
        return act()

    daily.next("create_token", another_is_faster)
    reply = await worker.start("support", {"createDailyRoom": True})
    assert reply.status == 429
    assert daily.rooms == {}
    assert len(await worker.records()) == 1
