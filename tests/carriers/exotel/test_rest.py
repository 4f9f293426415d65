# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's REST over real sockets (docs/reference/carriers.md §5.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.carriers.exotel.rest import ExotelRest
from gateway.carriers.rest_interface import DialedCall
from tests.harness.failing_server import acts_then_resets, says
from tests.harness.rest_accounts import account, dial_request, failure
from tests.harness.rest_exotel import ACCOUNT, ExotelServer

INDIAN, EXOPHONE = "+919876543210", "08047491899"


@pytest.fixture
async def server() -> AsyncIterator[ExotelServer]:
    exotel = await ExotelServer().start()
    yield exotel
    await exotel.stop()


@pytest.fixture
def exotel(http: aiohttp.ClientSession, server: ExotelServer) -> ExotelRest:
    return ExotelRest(account("exotel", server.api_url), http)


async def test_who_is_called_is_from(exotel: ExotelRest, server: ExotelServer) -> None:
    made = await exotel.dial(dial_request(to=INDIAN, from_number=EXOPHONE))

    (request,) = server.requests_of("dial")
    assert made == DialedCall(next(iter(server.calls)))
    assert request.path == f"/v1/Accounts/{ACCOUNT}/Calls/connect.json"
    assert request.form == [
        ("From", INDIAN),
        ("CallerId", EXOPHONE),
        ("StreamUrl", dial_request().stream_url),
        ("StreamType", "bidirectional"),
        ("StreamName", "s-1"),
        ("TimeOut", "30"),
        ("TimeLimit", "3600"),
        ("CustomField", "s-1"),
        ("StatusCallback", "https://exotel-api-key:exotel-api-token@gw.test/callbacks/carrier/s-1/status"),
        ("StatusCallbackEvents[]", "ringing"),
        ("StatusCallbackEvents[]", "answered"),
        ("StatusCallbackEvents[]", "terminal"),
    ]


async def test_a_long_session_id_is_cut_where_it_is_a_name_alone(
    exotel: ExotelRest, server: ExotelServer
) -> None:
    await exotel.dial(dial_request(session_id="0f9d1f0e-5f0b-4a8c-9a51-0d6d2c6a7c11"))
    request = server.requests_of("dial")[0]
    assert request.one("StreamName") == "0f9d1f0e-5f0b-4a8c-9a51-0d6d2c6a"
    assert request.one("CustomField") == "0f9d1f0e-5f0b-4a8c-9a51-0d6d2c6a7c11"


@pytest.mark.parametrize(
    "changed", [{"stream_url": "wss://gw.test/" + "x" * 587}, {"client_state": "x" * 129}]
)
async def test_what_exotel_would_cut_is_not_sent(
    exotel: ExotelRest, server: ExotelServer, changed: dict[str, str]
) -> None:
    failed = await failure(exotel.dial(dial_request(**changed)))
    assert (failed.kind, failed.uncertain) == ("refused", False)
    assert server.seen == []


async def test_the_longest_that_exotel_takes(exotel: ExotelRest, server: ExotelServer) -> None:
    await exotel.dial(dial_request(stream_url="wss://gw.test/" + "x" * 586, client_state="x" * 128))
    assert len(server.calls) == 1


async def test_the_account_may_stand_for_the_api_key(http: aiohttp.ClientSession) -> None:
    server = await ExotelServer(api_key=ACCOUNT).start()
    try:
        await ExotelRest(account("exotel", server.api_url, auth_id=None), http).dial(dial_request())
    finally:
        await server.stop()
    assert len(server.calls) == 1


async def test_a_refusal_is_told_by_its_code(exotel: ExotelRest) -> None:
    failed = await failure(exotel.dial(dial_request(from_number="")))
    assert (failed.kind, failed.status, failed.code) == ("refused", 400, "34001")


async def test_wrong_credentials_are_told_by_their_code(
    http: aiohttp.ClientSession, server: ExotelServer
) -> None:
    other = ExotelRest(account("exotel", server.api_url, account="other1"), http)
    failed = await failure(other.dial(dial_request()))
    assert (failed.kind, failed.status, failed.code) == ("refused", 401, "INVALID_ACCOUNT_SID")


async def test_a_call_that_may_have_been_made_cannot_be_found(
    exotel: ExotelRest, server: ExotelServer
) -> None:
    server.next("dial", acts_then_resets)
    assert (await failure(exotel.dial(dial_request()))).uncertain
    assert not exotel.repeats_safely
    assert await exotel.find(dial_request(), since=0) is None


async def test_its_callbacks_say_which_call_it_was(exotel: ExotelRest, server: ExotelServer) -> None:
    hooks = await ExotelServer().start()  # whoever listens: it keeps what comes
    try:
        made = await exotel.dial(dial_request(to=INDIAN, from_number=EXOPHONE))
        server.via = hooks.root
        dialed = server.calls[str(made.call_id)]
        await server.callback(dialed, "answered", "in-progress")
        await server.callback(dialed, "terminal", "completed")
    finally:
        await hooks.stop()
    assert [seen.one("EventType") for seen in hooks.seen] == ["answered", "terminal"]
    for seen in hooks.seen:
        assert (seen.one("CallSid"), seen.one("CustomField")) == (dialed.sid, "s-1")
        assert seen.one("From") == "09876543210"


async def test_credentials_in_a_streams_url_become_a_header(server: ExotelServer) -> None:
    headers = server.upgrade_headers("wss://KEY:TO%4BEN@gw.test/ws/exotel")
    assert headers == {"Authorization": "Basic S0VZOlRPS0VO"}


async def test_its_applet_asks_for_the_streams_url(server: ExotelServer) -> None:
    hooks = await ExotelServer().start()
    try:
        server.via = hooks.root
        hooks.next(
            "unknown", says({"url": "wss://gw.test/ws/exotel/support.acme/t"}), says({}), says({}, status=403)
        )
        placed = await server.place_call("https://KEY:TOKEN@gw.test/xml/exotel?agent=support")
        nothing = await server.place_call("https://gw.test/xml/exotel", method="POST")
        refused = await server.place_call("https://gw.test/xml/exotel")
    finally:
        await hooks.stop()
    assert placed.stream_url == "wss://gw.test/ws/exotel/support.acme/t"
    assert (nothing.document, refused.document, refused.answered.status) == (None, None, 403)
    first, second, _ = hooks.seen
    assert (first.method, first.query["agent"], first.query["CallSid"]) == ("GET", "support", placed.call_id)
    assert first.headers["authorization"] == "Basic S0VZOlRPS0VO"
    assert (second.method, second.one("CallFrom")) == ("POST", "09876543210")
