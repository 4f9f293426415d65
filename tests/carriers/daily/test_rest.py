# SPDX-License-Identifier: BSD-2-Clause
"""Rooms and tokens at Daily, over real sockets, and every way in which Daily may fail
(docs/reference/carriers.md §6.4).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import structlog

from gateway.carriers.daily import rest as daily_module
from gateway.carriers.daily.rest import MAX_ANSWER_BYTES, Daily, DailyFailed, Room, dialin_properties
from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import AgentPort
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

EXPIRES_AT = 1_800_000_000.9
SHORT_S = 1.0  # how long Daily may stall where a test waits for it


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that has to go is gone, however long that takes on a busy machine."""
    monkeypatch.setattr(daily_module, "UNDO_TIMEOUT_S", WAIT_S)


@pytest.fixture
async def server() -> AsyncIterator[DailyServer]:
    daily = await DailyServer().start()
    yield daily
    await daily.stop()


@pytest.fixture
def daily(http: aiohttp.ClientSession, server: DailyServer) -> Daily:
    return Daily(http, API_KEY, server.api_url)


@pytest.fixture
def hasty(http: aiohttp.ClientSession, server: DailyServer) -> Daily:
    """A Daily that is not waited for long."""
    return Daily(http, API_KEY, server.api_url, timeout_s=SHORT_S)


async def failure(work: Any) -> DailyFailed:
    """How the work fails, which it must; its words never hold the key."""
    with pytest.raises(DailyFailed) as caught:
        await work
    assert API_KEY not in str(caught.value)
    assert API_KEY not in caught.value.detail
    return caught.value


# A room


async def test_a_room_expires_with_its_session_and_puts_everybody_out(
    daily: Daily, server: DailyServer
) -> None:
    room = await daily.create_room(None, expires_at=EXPIRES_AT)

    (request,) = server.requests_of("create_room")
    assert request.body == {
        "name": room.name,
        "privacy": "public",
        "properties": {"exp": 1_800_000_000, "eject_at_room_exp": True},
    }
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert request.headers["content-type"] == "application/json"
    assert room == Room(room.name, server.rooms[room.name]["url"], None)


async def test_rooms_have_names_that_nobody_guesses(daily: Daily) -> None:
    rooms = [await daily.create_room(None, expires_at=EXPIRES_AT) for _ in range(3)]
    assert len({room.name for room in rooms}) == 3
    assert all(len(room.name) >= 32 for room in rooms)


async def test_the_callers_properties_go_over_ours(daily: Daily, server: DailyServer) -> None:
    commands = {"eject_at_room_exp": False, "enable_recording": "cloud", "exp": 1_700_000_000}
    room = await daily.create_room(commands, expires_at=EXPIRES_AT, name="hello_Room-1", privacy="private")

    assert room.name == "hello_Room-1"
    assert server.rooms["hello_Room-1"]["privacy"] == "private"
    assert server.rooms["hello_Room-1"]["config"] == commands
    assert commands["exp"] == 1_700_000_000


@pytest.mark.parametrize("exp", [1_900_000_000, 1e300, 10**400, float("inf"), None])
async def test_no_room_and_no_token_outlives_the_session(daily: Daily, server: DailyServer, exp: Any) -> None:
    room = await daily.create_room({"exp": exp}, expires_at=EXPIRES_AT)
    token = await daily.create_token(room.name, {"exp": exp}, expires_at=EXPIRES_AT)
    assert server.rooms[room.name]["config"]["exp"] == 1_800_000_000
    assert server.tokens[token]["exp"] == 1_800_000_000


@pytest.mark.parametrize("exp", ["1700000000", True, float("nan"), -1, float("-inf"), [1], {}])
async def test_an_expiry_that_is_no_number_is_the_callers_mistake(
    daily: Daily, server: DailyServer, exp: Any
) -> None:
    with pytest.raises(ValueError, match="exp must be a number of Unix seconds"):
        await daily.create_room({"exp": exp}, expires_at=EXPIRES_AT)
    with pytest.raises(ValueError, match="exp must be a number of Unix seconds"):
        await daily.create_token("room", {"exp": exp}, expires_at=EXPIRES_AT)
    assert server.seen == []


@pytest.mark.parametrize("name", ["", "a b", "../rooms", "x" * 129, "ü", "a\n"])
async def test_a_name_that_daily_would_not_take_is_not_sent(
    daily: Daily, server: DailyServer, name: str
) -> None:
    with pytest.raises(ValueError, match="name"):
        await daily.create_room(None, expires_at=EXPIRES_AT, name=name)
    assert server.seen == []


# A room for a telephone call


@pytest.mark.parametrize("prefix", ["", "sip:", "SIP:", "sip:sip:"])
async def test_a_sip_endpoint_has_one_prefix(http: aiohttp.ClientSession, prefix: str) -> None:
    server = await DailyServer(sip_prefix=prefix).start()
    try:
        daily = Daily(http, API_KEY, server.api_url + "/")
        room = await daily.create_room(dialin_properties("+15551234567"), expires_at=EXPIRES_AT)
    finally:
        await server.stop()
    assert room.sip_endpoint == "sip:1234567890.0@acme-calls.sip.test"
    assert server.rooms[room.name]["config"]["sip"] == {
        "display_name": "+15551234567",
        "video": False,
        "sip_mode": "dial-in",
        "num_endpoints": 1,
        "codecs": {"audio": ["OPUS"], "video": ["H264"]},
    }


@pytest.mark.parametrize(
    "sip_uri", [None, {}, {"endpoint": ""}, {"endpoint": "sip:"}, {"endpoint": "a b"}, []]
)
async def test_a_caller_is_not_sent_to_a_room_without_sip(
    daily: Daily, server: DailyServer, sip_uri: Any
) -> None:
    room = {"name": "r", "url": "https://acme.daily.test/r", "config": {"sip_uri": sip_uri}}
    server.next("create_room", says(room, makes=True))
    failed = await failure(daily.create_room(dialin_properties("+15551234567"), expires_at=EXPIRES_AT))
    assert (failed.status, failed.reason) == (502, "unreadable")
    assert server.rooms == {}


# A token


async def test_a_token_is_an_owners_and_for_this_room_alone(daily: Daily, server: DailyServer) -> None:
    token = await daily.create_token("room-1", None, expires_at=EXPIRES_AT)
    assert server.tokens[token] == {"room_name": "room-1", "exp": 1_800_000_000, "is_owner": True}


async def test_a_caller_cannot_have_a_token_for_another_room(daily: Daily, server: DailyServer) -> None:
    commands = {"room_name": "boardroom", "is_owner": False, "user_name": "Guest", "exp": 1_700_000_000}
    token = await daily.create_token("room-1", commands, expires_at=EXPIRES_AT)
    assert server.tokens[token] == {**commands, "room_name": "room-1"}


@pytest.mark.parametrize(
    "answer",
    [{}, {"token": None}, {"token": ""}, {"token": 5}, {"token": "a\r\nx-daily-room-url: b"}, [], "x"],
)
async def test_what_is_no_token_is_not_passed_on(daily: Daily, server: DailyServer, answer: Any) -> None:
    server.next("create_token", says(answer))
    failed = await failure(daily.create_token("room-1", None, expires_at=EXPIRES_AT))
    assert (failed.status, failed.reason) == (502, "unreadable")


# Deleting


async def test_a_deleted_room_is_gone(daily: Daily, server: DailyServer) -> None:
    room = await daily.create_room(None, expires_at=EXPIRES_AT)
    await daily.delete_room(room.name)
    assert server.rooms == {}


async def test_a_room_that_is_gone_already_counts_as_deleted(daily: Daily, server: DailyServer) -> None:
    await daily.delete_room("never-made")
    server.next("delete_room", says("<h1>Not found</h1>", status=404))
    await daily.delete_room("never-made")


async def test_deleting_goes_on_after_a_rate_limit_and_an_error(daily: Daily, server: DailyServer) -> None:
    room = await daily.create_room(None, expires_at=EXPIRES_AT)
    server.next("delete_room", rate_limits("0"), resets)
    await daily.delete_room(room.name)
    assert server.rooms == {}
    assert len(server.requests_of("delete_room")) == 3


async def test_deleting_gives_up_when_daily_asks_for_more_time_than_there_is(
    daily: Daily, server: DailyServer
) -> None:
    server.next("delete_room", rate_limits("3000"))
    failed = await failure(daily.delete_room("room"))
    assert (failed.reason, failed.retry_after) == ("rate_limited", 3000)
    assert len(server.requests_of("delete_room")) == 1


async def test_deleting_does_not_go_on_for_ever(daily: Daily, server: DailyServer) -> None:
    server.next("delete_room", *[rate_limits("0")] * 10)
    assert (await failure(daily.delete_room("room"))).reason == "rate_limited"
    assert len(server.requests_of("delete_room")) == 3


async def test_a_refused_deletion_is_not_tried_again(daily: Daily, server: DailyServer) -> None:
    server.next("delete_room", fails(403, "forbidden-error"))
    assert (await failure(daily.delete_room("room"))).reason == "refused"
    assert len(server.requests_of("delete_room")) == 1


async def test_a_name_stays_within_its_path(daily: Daily, server: DailyServer) -> None:
    await daily.delete_room("a/../b?c#d")
    assert [seen.path for seen in server.seen] == ["/v1/rooms/a/../b?c#d"]  # as one segment, decoded


# Daily refuses


async def test_a_wrong_key_is_refused(http: aiohttp.ClientSession, server: DailyServer) -> None:
    wrong = Daily(http, "the-wrong-key", server.api_url)
    for work in (
        wrong.create_room(None, expires_at=EXPIRES_AT),
        wrong.create_token("room", None, expires_at=EXPIRES_AT),
        wrong.delete_room("room"),
    ):
        failed = await failure(work)
        assert (failed.status, failed.reason) == (502, "refused")
        assert failed.detail == "Daily answered 401 (authentication-error)"


async def test_daily_says_what_it_did_not_like(daily: Daily, server: DailyServer) -> None:
    failed = await failure(daily.create_room({"enable_magic": True}, expires_at=EXPIRES_AT))
    assert failed.detail == "Daily answered 400 (invalid-request-error: unknown property 'enable_magic')"


async def test_a_room_that_was_there_before_is_left_alone(daily: Daily, server: DailyServer) -> None:
    await daily.create_room(None, expires_at=EXPIRES_AT, name="standing-room")
    failed = await failure(daily.create_room(None, expires_at=EXPIRES_AT, name="standing-room"))
    assert failed.reason == "refused"
    assert "standing-room" in server.rooms


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("7", 7), ("0", 0), (None, None), ("soon", None), ("-1", None), ("999999", 3600), ("1.5", None)],
)
async def test_a_rate_limit_keeps_its_seconds(
    daily: Daily, server: DailyServer, retry_after: str | None, seconds: int | None
) -> None:
    server.next("create_room", rate_limits(retry_after))
    failed = await failure(daily.create_room(None, expires_at=EXPIRES_AT))
    assert (failed.status, failed.reason, failed.retry_after) == (502, "rate_limited", seconds)
    assert failed.undone
    assert server.requests_of("delete_room") == []


@pytest.mark.parametrize(
    "info", [f"bad key {API_KEY}", "header was Bearer something", "two\nlines", "", 5, None, ["x"]]
)
async def test_what_might_be_a_secret_is_not_repeated(daily: Daily, server: DailyServer, info: Any) -> None:
    server.next("create_room", says({"error": "invalid-request-error", "info": info}, status=400))
    failed = await failure(daily.create_room(None, expires_at=EXPIRES_AT))
    assert failed.detail == "Daily answered 400 (invalid-request-error)"


@pytest.mark.parametrize("kind", ["Not A Type", "x" * 65, "<script>", 5, None, {"a": 1}])
async def test_an_odd_error_type_is_not_repeated(daily: Daily, server: DailyServer, kind: Any) -> None:
    server.next("create_token", says({"error": kind}, status=400))
    failed = await failure(daily.create_token("room", None, expires_at=EXPIRES_AT))
    assert failed.detail == "Daily answered 400"


# Daily breaks

BREAKS: list[tuple[str, Behaviour, str]] = [
    ("an error", fails(500), "broken"),
    ("an error page", says("<h1>Bad gateway</h1>", status=502), "broken"),
    ("a page", says("<h1>Sign in</h1>"), "unreadable"),
    ("a redirect", says("", status=302, Location="https://elsewhere.test/"), "broken"),
    ("a list", says([]), "unreadable"),
    ("nothing", says({}), "unreadable"),
    ("no url", says({"name": "r"}), "unreadable"),
    ("no name", says({"url": "https://acme.daily.test/r"}), "unreadable"),
    ("a bad name", says({"name": "a b", "url": "https://acme.daily.test/r"}), "unreadable"),
    ("a bad url", says({"name": "r", "url": "javascript:alert(1)"}), "unreadable"),
    ("a broken url", says({"name": "r", "url": "https://[/"}), "unreadable"),
    ("a url of two lines", says({"name": "r", "url": "https://a.test/\r\nx: y"}), "unreadable"),
    ("deep JSON", says("[" * 100_000), "unreadable"),
    ("too much", says(" " * (MAX_ANSWER_BYTES + 1)), "unreadable"),
    ("no end of it", trickles, "unreadable"),
    ("a reset", resets, "unreachable"),
]


@pytest.mark.parametrize(
    ("behaviour", "reason"), [each[1:] for each in BREAKS], ids=[each[0] for each in BREAKS]
)
async def test_a_broken_answer_is_a_502(
    daily: Daily, server: DailyServer, behaviour: Behaviour, reason: str
) -> None:
    server.next("create_room", behaviour)
    failed = await failure(daily.create_room(None, expires_at=EXPIRES_AT))
    assert (failed.status, failed.reason) == (502, reason)


@pytest.mark.parametrize(
    "behaviour", [acts_then_resets, says("<h1>Oh</h1>", makes=True), says({}, status=500, makes=True)]
)
async def test_no_room_is_left_when_the_answer_is_lost(
    daily: Daily, server: DailyServer, behaviour: Behaviour
) -> None:
    server.next("create_room", behaviour)
    await failure(daily.create_room(None, expires_at=EXPIRES_AT))
    assert len(server.requests_of("delete_room")) == 1
    assert server.rooms == {}


async def test_a_stalling_daily_is_a_504_and_leaves_no_room(
    daily: Daily, hasty: Daily, server: DailyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hasty, "delete_room", daily.delete_room)  # only what stalls is not waited for
    server.next("create_room", acts_then_stalls)
    failed = await failure(hasty.create_room(None, expires_at=EXPIRES_AT))
    assert (failed.status, failed.reason) == (504, "timeout")
    assert failed.detail == f"Daily did not answer within {SHORT_S:g} s"
    assert server.rooms == {}


async def test_a_token_that_does_not_come_is_a_504(hasty: Daily, server: DailyServer) -> None:
    server.next("create_token", stalls)
    assert (await failure(hasty.create_token("room", None, expires_at=EXPIRES_AT))).status == 504


async def test_a_room_that_cannot_be_deleted_is_logged_without_secrets(
    hasty: Daily, server: DailyServer
) -> None:
    server.next("create_room", acts_then_stalls)
    server.next("delete_room", stalls)
    with structlog.testing.capture_logs() as lines:
        failed = await failure(hasty.create_room(None, expires_at=EXPIRES_AT))
    assert failed.status == 504
    (line,) = lines
    assert (line["log_level"], line["reason"]) == ("warning", "timeout")
    assert API_KEY not in json.dumps(lines)
    assert next(iter(server.rooms)) not in json.dumps(lines)


async def test_a_start_that_is_cancelled_leaves_no_room(daily: Daily, server: DailyServer) -> None:
    made = asyncio.Event()

    async def makes_and_stalls(server: DailyServer, request: Any, act: Callable[[], Any]) -> Any:
        act()
        made.set()
        return await stalls(server, request, act)

    server.next("create_room", makes_and_stalls)
    starting = asyncio.create_task(daily.create_room(None, expires_at=EXPIRES_AT))
    await made.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.rooms == {}


async def test_a_daily_that_is_not_there_is_a_502(http: aiohttp.ClientSession) -> None:
    port = AgentPort()
    nobody = Daily(http, API_KEY, f"{port.url}/v1", timeout_s=SHORT_S)
    try:
        for work in (
            nobody.create_room(None, expires_at=EXPIRES_AT),
            nobody.create_token("room", None, expires_at=EXPIRES_AT),
            nobody.delete_room("room"),
        ):
            failed = await failure(work)
            assert (failed.status, failed.reason, failed.undone) == (502, "unreachable", True)
    finally:
        port.free()


def test_no_key_in_what_is_printed(server: DailyServer, http: aiohttp.ClientSession) -> None:
    assert API_KEY not in repr(Daily(http, API_KEY, server.api_url))
