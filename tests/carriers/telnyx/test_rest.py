# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's Call Control over real sockets (docs/reference/carriers.md §3.5)."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.carriers.rest_interface import DialedCall
from gateway.carriers.telnyx.rest import TelnyxRest
from tests.harness.failing_server import acts_then_resets, fails, says
from tests.harness.rest_accounts import FROM, TO, account, dial_request, failure
from tests.harness.rest_telnyx import API_KEY, CONNECTION, TelnyxCall, TelnyxServer


@pytest.fixture
async def server() -> AsyncIterator[TelnyxServer]:
    telnyx = await TelnyxServer().start()
    yield telnyx
    await telnyx.stop()


@pytest.fixture
def telnyx(http: aiohttp.ClientSession, server: TelnyxServer) -> TelnyxRest:
    return TelnyxRest(account("telnyx", server.api_url), http)


async def call(telnyx: TelnyxRest, server: TelnyxServer, state: str = "answered") -> TelnyxCall:
    """A call that was made, and where it stands."""
    made = await telnyx.dial(dial_request())
    dialed = server.calls[str(made.call_id)]
    dialed.state = state
    return dialed


# Calls out


async def test_the_stream_is_a_part_of_the_request(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    made = await telnyx.dial(dial_request(document="<Response/>"))

    (request,) = server.requests_of("dial")
    assert made == DialedCall(next(iter(server.calls)))
    assert (request.path, request.headers["authorization"]) == ("/v2/calls", f"Bearer {API_KEY}")
    assert request.body == {
        "connection_id": CONNECTION,
        "to": TO,
        "from": FROM,
        "stream_url": dial_request().stream_url,
        "stream_track": "inbound_track",
        "stream_bidirectional_mode": "rtp",
        "stream_bidirectional_codec": "PCMU",
        "stream_bidirectional_sampling_rate": 8000,
        "client_state": base64.b64encode(b"s-1").decode(),
        "command_id": "patchbay-dial-s-1",
        "timeout_secs": 30,
        "time_limit_secs": 3600,
        "webhook_url": "https://gw.test/callbacks/carrier/s-1/status",
        "webhook_url_method": "POST",
    }


@pytest.mark.parametrize(("detection", "sent"), [("detect", "detect"), ("wait_for_end", "greeting_end")])
async def test_a_machine_is_listened_for(
    telnyx: TelnyxRest, server: TelnyxServer, detection: str, sent: str
) -> None:
    await telnyx.dial(dial_request(machine_detection=detection))
    assert server.requests_of("dial")[0].body["answering_machine_detection"] == sent


async def test_times_are_kept_within_what_telnyx_takes(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    await telnyx.dial(dial_request(ring_timeout_s=1, time_limit_s=1))
    await telnyx.dial(dial_request(ring_timeout_s=9999, time_limit_s=99999, session_id="s-2"))
    sent = [(seen.body["timeout_secs"], seen.body["time_limit_secs"]) for seen in server.requests_of("dial")]
    assert sent == [(5, 30), (600, 14400)]


async def test_what_a_client_gave_comes_back(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    await telnyx.dial(dial_request(client_state="grün"))
    assert base64.b64decode(server.requests_of("dial")[0].body["client_state"]).decode() == "grün"


async def test_a_call_that_may_have_been_made_is_dialled_again_safely(
    telnyx: TelnyxRest, server: TelnyxServer
) -> None:
    server.next("dial", acts_then_resets)
    assert (await failure(telnyx.dial(dial_request()))).uncertain
    assert await telnyx.find(dial_request(), since=0) is None
    assert telnyx.repeats_safely

    again = await telnyx.dial(dial_request())
    assert list(server.calls) == [again.call_id]
    other = await telnyx.dial(dial_request(session_id="s-2"))
    assert other != again


async def test_a_repeat_that_was_ignored_without_an_id_is_a_call(
    telnyx: TelnyxRest, server: TelnyxServer
) -> None:
    server.next("dial", says({"data": {"result": "ok"}}))
    assert await telnyx.dial(dial_request()) == DialedCall(None)


async def test_without_an_application_nobody_is_called(
    http: aiohttp.ClientSession, server: TelnyxServer
) -> None:
    client = TelnyxRest(account("telnyx", server.api_url, connection_id=None), http)
    failed = await failure(client.dial(dial_request()))
    assert (failed.kind, failed.uncertain) == ("refused", False)
    assert "connection_id" in failed.detail
    assert server.seen == []


async def test_a_refused_number_is_reported_by_its_error_code(telnyx: TelnyxRest) -> None:
    failed = await failure(telnyx.dial(dial_request(to="5550142")))
    assert (failed.kind, failed.status, failed.code) == ("refused", 422, "10016")
    assert "5550142" not in failed.detail


async def test_too_many_requests(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    server.next("dial", fails(429, 10011))
    failed = await failure(telnyx.dial(dial_request()))
    assert (failed.kind, failed.code, failed.uncertain) == ("rate_limited", "10011", False)
    assert "Too many requests" in failed.detail


# Control


@pytest.mark.parametrize("answered", [True, False])
async def test_a_call_is_hung_up_once(telnyx: TelnyxRest, server: TelnyxServer, answered: bool) -> None:
    dialed = await call(telnyx, server, "answered" if answered else "bridging")
    assert await telnyx.hang_up(dialed.id, answered=answered)
    assert dialed.state == "ended"
    assert server.requests_of("command")[0].path == f"/v2/calls/{dialed.id}/actions/hangup"
    assert not await telnyx.hang_up(dialed.id, answered=answered)  # 90018


async def test_a_call_that_is_not_known_any_more_is_gone(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    server.next("command", fails(404, 10005))
    assert not await telnyx.hang_up("v3:gone")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, 10009, "refused"), (422, 90015, "refused"), (429, 10011, "rate_limited"), (500, 10007, "broken")],
)
async def test_hanging_up_may_fail(
    telnyx: TelnyxRest, server: TelnyxServer, status: int, code: int, kind: str
) -> None:
    dialed = await call(telnyx, server)
    server.next("command", fails(status, code))
    failed = await failure(telnyx.hang_up(dialed.id))
    assert (failed.kind, failed.code) == (kind, str(code))


async def test_a_number_is_transferred_to(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    dialed = await call(telnyx, server)
    await telnyx.transfer(dialed.id, "+14155550111", document=None, document_url=None, caller_id=None)
    await telnyx.transfer(dialed.id, "+14155550111", document=None, document_url=None, caller_id=FROM)
    assert dialed.commands == [
        ("transfer", {"to": "+14155550111"}),
        ("transfer", {"to": "+14155550111", "from": FROM}),
    ]


@pytest.mark.parametrize("address", ["sip:desk@acme.test", "SIPS:desk@acme.test"])
async def test_a_sip_address_is_referred_to(telnyx: TelnyxRest, server: TelnyxServer, address: str) -> None:
    dialed = await call(telnyx, server)
    await telnyx.transfer(dialed.id, address, document=None, document_url=None, caller_id=FROM)
    assert dialed.commands == [("refer", {"sip_address": address})]


async def test_digits_are_sent(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    dialed = await call(telnyx, server)
    await telnyx.send_dtmf(dialed.id, "1w2A*#")
    assert dialed.commands == [("send_dtmf", {"digits": "1w2A*#", "duration_millis": 250})]


async def test_a_call_that_is_over_takes_nothing_more(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    dialed = await call(telnyx, server, "ended")
    for work in (
        telnyx.send_dtmf(dialed.id, "1"),
        telnyx.transfer(dialed.id, "+1", document=None, document_url=None, caller_id=None),
        telnyx.transfer(dialed.id, "sip:a@b.test", document=None, document_url=None, caller_id=None),
    ):
        failed = await failure(work)
        assert (failed.kind, failed.code, failed.gone) == ("refused", "90018", True)


async def test_a_call_that_is_not_answered_cannot_be_transferred(
    telnyx: TelnyxRest, server: TelnyxServer
) -> None:
    dialed = await call(telnyx, server, "bridging")
    work = telnyx.transfer(dialed.id, "+1", document=None, document_url=None, caller_id=None)
    failed = await failure(work)
    assert (failed.kind, failed.code, failed.gone) == ("refused", "90034", False)


# The server's own webhooks


async def test_its_events_are_signed_as_telnyx_signs(telnyx: TelnyxRest, server: TelnyxServer) -> None:
    hooks = await TelnyxServer().start()  # whoever listens: it keeps what comes
    try:
        server.via = hooks.root
        dialed = await call(telnyx, server, "bridging")
        await server.event(dialed, "call.answered")
        await server.event(dialed, "call.hangup", hangup_cause="normal_clearing", hangup_source="callee")
    finally:
        await hooks.stop()

    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(server.public_key))
    assert dialed.state == "ended"
    for seen, event_type in zip(hooks.seen, ("call.answered", "call.hangup"), strict=True):
        raw = json.dumps(seen.body, separators=(",", ":")).encode()
        signature = base64.b64decode(seen.headers["telnyx-signature-ed25519"])
        key.verify(signature, seen.headers["telnyx-timestamp"].encode() + b"|" + raw)
        assert seen.path == "/callbacks/carrier/s-1/status"
        assert seen.body["data"]["event_type"] == event_type
        assert seen.body["data"]["payload"]["call_control_id"] == dialed.id


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_get_is_signed_over_nothing(server: TelnyxServer, method: str) -> None:
    """docs/reference/carriers.md §9.2: the query is not covered."""
    texml = '<Response><Connect><Stream url="wss://gw.test/ws/telnyx?token=t"/></Connect></Response>'
    hooks = await TelnyxServer().start()
    try:
        server.via = hooks.root
        hooks.next("unknown", says(texml))
        placed = await server.place_call("https://gw.test/xml/telnyx?agent=support", method=method)
    finally:
        await hooks.stop()
    (seen,) = hooks.seen
    assert placed.stream_url == "wss://gw.test/ws/telnyx?token=t"
    assert (seen.method, seen.query["agent"]) == (method, "support")
    assert (seen.query.get("CallSid") or seen.one("CallSid")) == placed.call_id
    raw = urlencode(placed.fields).encode() if method == "POST" else b""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(server.public_key))
    signature = base64.b64decode(seen.headers["telnyx-signature-ed25519"])
    key.verify(signature, seen.headers["telnyx-timestamp"].encode() + b"|" + raw)
