# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's REST over real sockets; and Twilio's own client against the tests' server
(docs/reference/carriers.md §2.6).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from gateway.carriers.rest_interface import DialedCall
from gateway.carriers.twilio.rest import INLINE_LIMIT, TwilioRest
from tests.harness.failing_server import acts_then_resets, fails, says
from tests.harness.rest_accounts import FROM, TO, account, dial_request, failure
from tests.harness.rest_server import read_document
from tests.harness.rest_twilio import ACCOUNT, AUTH_TOKEN, TwilioCall, TwilioServer

TWIML = (
    '<?xml version="1.0" encoding="UTF-8"?><Response><Connect><Stream url="wss://gw.test/ws/t">'
    '<Parameter name="caller" value="+1"/></Stream></Connect><Hangup/></Response>'
)


@pytest.fixture
async def server() -> AsyncIterator[TwilioServer]:
    twilio = await TwilioServer().start()
    yield twilio
    await twilio.stop()


@pytest.fixture
def twilio(http: aiohttp.ClientSession, server: TwilioServer) -> TwilioRest:
    return TwilioRest(account("twilio", server.api_url), http)


async def call(twilio: TwilioRest, server: TwilioServer, status: str = "in-progress") -> TwilioCall:
    """A call that was made, and where it stands."""
    made = await twilio.dial(dial_request())
    dialed = server.calls[str(made.call_id)]
    dialed.resource["status"] = status
    return dialed


# Calls out


async def test_a_short_document_goes_with_the_request(twilio: TwilioRest, server: TwilioServer) -> None:
    made = await twilio.dial(dial_request(document=TWIML))

    (request,) = server.requests_of("dial")
    assert made == DialedCall(next(iter(server.calls)))
    assert request.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
    assert request.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert request.form == [
        ("To", TO),
        ("From", FROM),
        ("Twiml", TWIML),
        ("Timeout", "30"),
        ("TimeLimit", "3600"),
        ("StatusCallback", "https://gw.test/callbacks/carrier/s-1/status"),
        ("StatusCallbackMethod", "POST"),
        ("StatusCallbackEvent", "initiated"),
        ("StatusCallbackEvent", "ringing"),
        ("StatusCallbackEvent", "answered"),
        ("StatusCallbackEvent", "completed"),
    ]


@pytest.mark.parametrize("document", [None, "x" * (INLINE_LIMIT + 1)])
async def test_a_long_document_is_fetched(
    twilio: TwilioRest, server: TwilioServer, document: str | None
) -> None:
    await twilio.dial(dial_request(document=document))
    (request,) = server.requests_of("dial")
    assert (request.one("Url"), request.one("Method")) == ("https://gw.test/xml/answer?session=s-1", "POST")
    assert request.one("Twiml") is None


async def test_the_longest_document_that_goes_with_the_request(
    twilio: TwilioRest, server: TwilioServer
) -> None:
    await twilio.dial(dial_request(document="<" * INLINE_LIMIT))
    assert server.requests_of("dial")[0].one("Url") is None


async def test_a_machine_is_reported_while_the_stream_runs(twilio: TwilioRest, server: TwilioServer) -> None:
    await twilio.dial(dial_request(machine_detection="detect"))
    (request,) = server.requests_of("dial")
    assert (request.one("MachineDetection"), request.one("AsyncAmd")) == ("Enable", "true")
    assert request.one("AsyncAmdStatusCallback") == "https://gw.test/callbacks/carrier/s-1/machine"


async def test_the_document_waits_for_the_end_of_a_machines_greeting(
    twilio: TwilioRest, server: TwilioServer
) -> None:
    await twilio.dial(dial_request(machine_detection="wait_for_end"))
    (request,) = server.requests_of("dial")
    assert (request.one("MachineDetection"), request.one("AsyncAmd")) == ("DetectMessageEnd", None)


@pytest.mark.parametrize(("requested_s", "sent"), [(1, "5"), (600, "600"), (10_000, "600")])
async def test_times_are_kept_within_what_twilio_takes(
    twilio: TwilioRest, server: TwilioServer, requested_s: int, sent: str
) -> None:
    await twilio.dial(dial_request(ring_timeout_s=requested_s, time_limit_s=1_000_000))
    assert server.requests_of("dial")[0].one("Timeout") == sent
    assert server.requests_of("dial")[0].one("TimeLimit") == "14400"


async def test_an_api_key_may_call_for_the_account(http: aiohttp.ClientSession) -> None:
    server = await TwilioServer(user="SK0001").start()
    try:
        client = TwilioRest(account("twilio", server.api_url, auth_id="SK0001"), http)
        await client.dial(dial_request())
    finally:
        await server.stop()
    assert len(server.calls) == 1


async def test_a_refused_number_is_reported_by_its_error_code(twilio: TwilioRest) -> None:
    failed = await failure(twilio.dial(dial_request(to="5550142")))
    assert (failed.kind, failed.code, failed.uncertain) == ("refused", "21211", False)
    assert "5550142" not in failed.detail
    assert "error 21211" in failed.detail


# A call that may have been made


@pytest.fixture
async def lost(twilio: TwilioRest, server: TwilioServer) -> float:
    """A call that was made, and its answer lost. Gives when it was asked for, Unix seconds."""
    since = time.time()
    server.next("dial", acts_then_resets)
    assert (await failure(twilio.dial(dial_request()))).uncertain
    return since


async def test_a_lost_call_is_found(twilio: TwilioRest, server: TwilioServer, lost: float) -> None:
    assert await twilio.find(dial_request(), since=lost) == DialedCall(next(iter(server.calls)))
    assert server.requests_of("list")[0].query["To"] == TO
    assert server.requests_of("list")[0].query["From"] == FROM


async def test_a_call_that_waits_in_twilios_queue_is_found(
    twilio: TwilioRest, server: TwilioServer, lost: float
) -> None:
    assert [dialed.resource["start_time"] for dialed in server.calls.values()] == [None]
    assert await twilio.find(dial_request(), since=lost) is not None


async def test_another_sessions_call_to_the_same_number_is_not_ours(
    twilio: TwilioRest, server: TwilioServer, lost: float
) -> None:
    other = await twilio.dial(dial_request(session_id="s-2"))
    ours = next(iter(server.calls))
    assert await twilio.find(dial_request(), since=lost) is None  # it could be either
    assert await twilio.find(dial_request(), since=lost, known={str(other.call_id)}) == DialedCall(ours)
    assert await twilio.find(dial_request(), since=lost, known=set(server.calls)) is None


async def test_neither_an_older_call_nor_one_that_came_in_is_ours(
    twilio: TwilioRest, server: TwilioServer, lost: float
) -> None:
    older, incoming = await call(twilio, server), await call(twilio, server)
    server.made_at(older, 600)
    incoming.resource["direction"] = "inbound"
    assert await twilio.find(dial_request(), since=lost) == DialedCall(next(iter(server.calls)))


async def test_nothing_is_found_where_nothing_was_made(twilio: TwilioRest, server: TwilioServer) -> None:
    assert await twilio.find(dial_request(), since=time.time()) is None


async def test_looking_may_fail_too(twilio: TwilioRest, server: TwilioServer) -> None:
    server.next("list", fails(429, 20429, Retry_After="2"))
    failed = await failure(twilio.find(dial_request(), since=0))
    assert (failed.kind, failed.retry_after_s) == ("rate_limited", 2)


# Hanging up


async def test_a_call_that_runs_is_completed(twilio: TwilioRest, server: TwilioServer) -> None:
    dialed = await call(twilio, server)
    assert await twilio.hang_up(dialed.sid)
    assert dialed.resource["status"] == "completed"
    assert [update.form for update in dialed.updates] == [[("Status", "completed")]]


@pytest.mark.parametrize("status", ["queued", "ringing"])
async def test_a_call_that_rings_is_canceled(twilio: TwilioRest, server: TwilioServer, status: str) -> None:
    dialed = await call(twilio, server, status)
    assert await twilio.hang_up(dialed.sid, answered=False)
    assert dialed.resource["status"] == "canceled"


async def test_a_call_that_was_answered_just_now_is_completed(
    twilio: TwilioRest, server: TwilioServer
) -> None:
    dialed = await call(twilio, server)
    assert await twilio.hang_up(dialed.sid, answered=False)
    assert dialed.resource["status"] == "completed"
    assert [update.one("Status") for update in dialed.updates] == ["canceled", "completed"]


@pytest.mark.parametrize("answered", [True, False])
async def test_a_call_that_is_over_is_gone(twilio: TwilioRest, server: TwilioServer, answered: bool) -> None:
    dialed = await call(twilio, server, "completed")
    assert not await twilio.hang_up(dialed.sid, answered=answered)
    assert not await twilio.hang_up("CA" + "f" * 32, answered=answered)
    server.next("update", fails(400, 21220, "Invalid call state"))
    assert not await twilio.hang_up(dialed.sid, answered=answered)


@pytest.mark.parametrize(("status", "kind"), [(401, "refused"), (429, "rate_limited"), (500, "broken")])
async def test_hanging_up_may_fail(twilio: TwilioRest, server: TwilioServer, status: int, kind: str) -> None:
    dialed = await call(twilio, server)
    server.next("update", fails(status))
    assert (await failure(twilio.hang_up(dialed.sid))).kind == kind


# Transfers and digits


async def test_a_transfer_replaces_the_document(twilio: TwilioRest, server: TwilioServer) -> None:
    dialed = await call(twilio, server)
    dial = "<Response><Dial>+14155550111</Dial></Response>"
    await twilio.transfer(dialed.sid, "+14155550111", document=dial, document_url=None, caller_id=None)
    assert dialed.updates[-1].form == [("Twiml", dial)]
    url = "https://gw.test/xml/transfer"
    await twilio.transfer(dialed.sid, "+1", document="x" * 4001, document_url=url, caller_id=None)
    assert dialed.updates[-1].form == [("Url", url), ("Method", "POST")]


async def test_a_transfer_without_a_document_is_refused(twilio: TwilioRest, server: TwilioServer) -> None:
    dialed = await call(twilio, server)
    for document in (None, "x" * 4001):
        work = twilio.transfer(dialed.sid, "+1", document=document, document_url=None, caller_id=None)
        assert (await failure(work)).kind == "refused"
    assert dialed.updates == []


async def test_a_call_that_is_over_cannot_be_transferred(twilio: TwilioRest, server: TwilioServer) -> None:
    dialed = await call(twilio, server, "completed")
    work = twilio.transfer(dialed.sid, "+1", document="<Response/>", document_url=None, caller_id=None)
    failed = await failure(work)
    assert (failed.kind, failed.code, failed.gone) == ("refused", "21220", True)


# Twilio's own client finds the server to be Twilio


class Redirected(TwilioHttpClient):
    """Sends what is meant for api.twilio.com to the tests' server."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = root

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Response:
        return super().request(method, url.replace("https://api.twilio.com", self._root), *args, **kwargs)

    def close(self) -> None:
        assert self.session is not None
        self.session.close()


@pytest.fixture
async def client(server: TwilioServer) -> AsyncIterator[Client]:
    redirected = Redirected(server.root)
    yield Client(ACCOUNT, AUTH_TOKEN, http_client=redirected)
    redirected.close()


async def test_twilios_client_creates_fetches_updates_and_lists(client: Client, server: TwilioServer) -> None:
    made = await asyncio.to_thread(
        client.calls.create,
        to=TO,
        from_=FROM,
        twiml=TWIML,
        timeout=30,
        status_callback="https://gw.test/status",
        status_callback_event=["initiated", "completed"],
    )
    assert (made.sid, made.status, made.direction) == (next(iter(server.calls)), "queued", "outbound-api")
    assert made.date_created is not None

    fetched = await asyncio.to_thread(client.calls(made.sid).fetch)
    assert (fetched.sid, fetched.to, fetched.start_time) == (made.sid, TO, None)

    server.calls[made.sid].resource["status"] = "in-progress"
    moved = await asyncio.to_thread(client.calls(made.sid).update, twiml="<Response><Hangup/></Response>")
    assert moved.status == "in-progress"
    ended = await asyncio.to_thread(client.calls(made.sid).update, status="completed")
    assert ended.status == "completed"

    listed = await asyncio.to_thread(client.calls.list, to=TO, from_=FROM)
    assert [dialed.sid for dialed in listed] == [made.sid]
    assert await asyncio.to_thread(client.calls.list, to="+14155550000") == []


async def test_what_twilios_client_sends_is_what_we_send(
    client: Client, twilio: TwilioRest, server: TwilioServer
) -> None:
    await twilio.dial(dial_request(document=TWIML, machine_detection="detect"))
    await asyncio.to_thread(
        client.calls.create,
        to=TO,
        from_=FROM,
        twiml=TWIML,
        timeout=30,
        time_limit=3600,
        status_callback="https://gw.test/callbacks/carrier/s-1/status",
        status_callback_method="POST",
        status_callback_event=["initiated", "ringing", "answered", "completed"],
        machine_detection="Enable",
        async_amd="true",
        async_amd_status_callback="https://gw.test/callbacks/carrier/s-1/machine",
        async_amd_status_callback_method="POST",
    )
    ours, theirs = server.requests_of("dial")
    assert sorted(ours.form) == sorted(theirs.form)
    assert ours.headers["authorization"] == theirs.headers["authorization"]


async def test_twilios_client_reads_the_errors(client: Client, server: TwilioServer) -> None:
    async def error(work: Any, *args: Any, **named: Any) -> tuple[int, int]:
        with pytest.raises(TwilioRestException) as caught:
            await asyncio.to_thread(work, *args, **named)
        return caught.value.status, caught.value.code

    assert await error(client.calls("CA" + "f" * 32).fetch) == (404, 20404)
    assert await error(client.calls.create, to="5550142", from_=FROM, twiml=TWIML) == (400, 21211)
    server.next("dial", fails(429, 20429, "Too Many Requests"))
    assert await error(client.calls.create, to=TO, from_=FROM, twiml=TWIML) == (429, 20429)
    stranger = Client(ACCOUNT, "wrong-token", http_client=client.http_client)
    assert await error(stranger.calls.create, to=TO, from_=FROM, twiml=TWIML) == (401, 20003)


# The server's own webhooks


async def test_its_callbacks_are_signed_as_twilio_signs(twilio: TwilioRest, server: TwilioServer) -> None:
    hooks = await TwilioServer().start()  # whoever listens: it keeps what comes
    try:
        server.via = hooks.root
        made = await twilio.dial(dial_request(document=TWIML))
        dialed = server.calls[str(made.call_id)]
        for status in ("initiated", "ringing", "in-progress", "completed"):
            await server.progress(dialed, status)
    finally:
        await hooks.stop()

    validator = RequestValidator(AUTH_TOKEN)
    assert [seen.one("CallStatus") for seen in hooks.seen] == [
        "initiated",
        "ringing",
        "in-progress",
        "completed",
    ]
    assert [seen.one("SequenceNumber") for seen in hooks.seen] == ["0", "1", "2", "3"]
    for seen in hooks.seen:
        assert (seen.path, seen.headers["host"]) == ("/callbacks/carrier/s-1/status", "gw.test")
        url = "https://gw.test/callbacks/carrier/s-1/status"
        assert validator.validate(url, dict(seen.form), seen.headers["x-twilio-signature"])


async def test_it_reads_the_document_as_twilio_does(twilio: TwilioRest, server: TwilioServer) -> None:
    made = await twilio.dial(dial_request(document=TWIML))
    placed = await server.answer(server.calls[str(made.call_id)])
    assert placed.stream_url == "wss://gw.test/ws/t"
    assert placed.document is not None
    assert placed.document.parameters == {"caller": "+1"}
    assert [verb.tag for verb in placed.document.after] == ["Hangup"]
    assert read_document("<Response><Reject/></Response>").stream_url is None


async def test_a_number_that_is_called_asks_for_its_document(server: TwilioServer) -> None:
    hooks = await TwilioServer().start()
    url = "https://gw.test/xml/twilio?agent=support&org=acme"
    try:
        server.via = hooks.root
        hooks.next("unknown", says(TWIML), fails(403))
        placed = await server.place_call(url)
        refused = await server.place_call(url, signed=False)
    finally:
        await hooks.stop()
    first, second = hooks.seen
    assert placed.stream_url == "wss://gw.test/ws/t"
    assert RequestValidator(AUTH_TOKEN).validate(url, dict(first.form), first.headers["x-twilio-signature"])
    assert (refused.document, refused.answered.status) == (None, 403)
    assert "x-twilio-signature" not in second.headers
    socket = server.upgrade_headers(placed.stream_url)
    assert RequestValidator(AUTH_TOKEN).validate(placed.stream_url, {}, socket["X-Twilio-Signature"])
