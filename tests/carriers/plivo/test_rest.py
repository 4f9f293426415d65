# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's REST over real sockets (docs/reference/carriers.md §4.5)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
from plivo.utils import validate_v3_signature

from gateway.carriers.plivo.rest import PlivoRest
from gateway.carriers.rest_interface import DialedCall
from tests.harness import rest_plivo
from tests.harness.failing_server import acts_then_resets, fails, says
from tests.harness.rest_accounts import FROM, TO, account, dial_request, failure
from tests.harness.rest_plivo import AUTH_ID, AUTH_TOKEN, PlivoCall, PlivoServer


@pytest.fixture
async def server() -> AsyncIterator[PlivoServer]:
    plivo = await PlivoServer().start()
    yield plivo
    await plivo.stop()


@pytest.fixture
def plivo(http: aiohttp.ClientSession, server: PlivoServer) -> PlivoRest:
    return PlivoRest(account("plivo", server.api_url), http)


async def call(plivo: PlivoRest, server: PlivoServer, state: str = "in-progress") -> PlivoCall:
    """A call that was made, and where it stands."""
    made = await plivo.dial(dial_request())
    dialed = next(dialed for dialed in server.calls.values() if dialed.request_uuid == made.request_id)
    dialed.state = state
    return dialed


# Calls out


async def test_a_call_out_names_where_its_document_is(plivo: PlivoRest, server: PlivoServer) -> None:
    made = await plivo.dial(dial_request(document="<Response/>"))

    (request,), (call,) = server.requests_of("dial"), server.calls.values()
    assert made == DialedCall(None, call.request_uuid)
    assert request.path == f"/v1/Account/{AUTH_ID}/Call/"
    assert request.body == {
        "from": FROM,
        "to": TO,
        "answer_url": "https://gw.test/xml/answer?session=s-1",
        "answer_method": "POST",
        "ring_url": "https://gw.test/callbacks/carrier/s-1/ring",
        "ring_method": "POST",
        "hangup_url": "https://gw.test/callbacks/carrier/s-1/hangup",
        "hangup_method": "POST",
        "ring_timeout": 30,
        "time_limit": 3600,
    }


async def test_a_machine_is_reported_while_the_call_goes_on(plivo: PlivoRest, server: PlivoServer) -> None:
    await plivo.dial(dial_request(machine_detection="detect"))
    body = server.requests_of("dial")[0].body
    assert body["machine_detection"] == "true"
    assert body["machine_detection_url"] == "https://gw.test/callbacks/carrier/s-1/machine"


async def test_the_account_may_stand_for_the_auth_id(
    http: aiohttp.ClientSession, server: PlivoServer
) -> None:
    client = PlivoRest(account("plivo", server.api_url, auth_id=None, account=AUTH_ID), http)
    await client.dial(dial_request())
    assert len(server.calls) == 1


async def test_a_refused_number_is_not_repeated(plivo: PlivoRest) -> None:
    failed = await failure(plivo.dial(dial_request(to="5550142x")))
    assert (failed.kind, failed.status, failed.code) == ("refused", 400, None)
    assert failed.detail == "Plivo answered 400: … is not a valid phone number"


# A call that may have been made


@pytest.fixture(params=[True, False], ids=["queued", "live"])
async def lost(request: pytest.FixtureRequest, plivo: PlivoRest, server: PlivoServer) -> PlivoCall:
    """A call that was made, and its answer lost."""
    server.queueing = request.param
    server.next("dial", acts_then_resets)
    assert (await failure(plivo.dial(dial_request()))).uncertain
    assert not plivo.repeats_safely
    (dialed,) = server.calls.values()
    return dialed


async def test_a_lost_call_is_found(plivo: PlivoRest, lost: PlivoCall) -> None:
    assert await plivo.find(dial_request(), since=time.time()) == DialedCall(lost.uuid)


async def test_another_sessions_call_to_the_same_number_is_not_ours(
    plivo: PlivoRest, server: PlivoServer, lost: PlivoCall
) -> None:
    other = await call(plivo, server)
    assert await plivo.find(dial_request(), since=time.time()) is None  # it could be either
    assert await plivo.find(dial_request(), since=time.time(), known={other.uuid}) == DialedCall(lost.uuid)


async def test_calls_elsewhere_are_not_ours(plivo: PlivoRest, lost: PlivoCall) -> None:
    assert await plivo.find(dial_request(to="+14155550000"), since=time.time()) is None
    assert await plivo.find(dial_request(from_number="+14155550000"), since=time.time()) is None


async def test_an_older_call_is_not_ours(plivo: PlivoRest, server: PlivoServer) -> None:
    older = await call(plivo, server)
    older.began -= timedelta(minutes=10)
    assert await plivo.find(dial_request(), since=time.time()) is None


async def test_a_call_that_ends_while_it_is_looked_at_is_not_found(
    plivo: PlivoRest, server: PlivoServer
) -> None:
    await call(plivo, server)
    server.next("fetch", fails(404, None, "call not found"))
    assert await plivo.find(dial_request(), since=time.time()) is None


async def test_looking_may_fail_too(plivo: PlivoRest, server: PlivoServer) -> None:
    server.next("list", says({"calls": 5}), fails(500))
    assert (await failure(plivo.find(dial_request(), since=0))).kind == "broken"
    assert (await failure(plivo.find(dial_request(), since=0))).kind == "broken"
    await call(plivo, server)
    server.next("fetch", fails(429))
    assert (await failure(plivo.find(dial_request(), since=0))).kind == "rate_limited"


async def test_a_list_of_anything_is_looked_through(plivo: PlivoRest, server: PlivoServer) -> None:
    dialed = await call(plivo, server)
    server.next(
        "list", says({"calls": [None, "..", {}, "unknown"]}), says({"calls": [dialed.uuid, dialed.uuid]})
    )
    assert await plivo.find(dial_request(), since=time.time()) == DialedCall(dialed.uuid)


# Hanging up


async def test_a_call_that_runs_is_deleted(plivo: PlivoRest, server: PlivoServer) -> None:
    dialed = await call(plivo, server)
    assert await plivo.hang_up(dialed.uuid)
    assert dialed.state == "over"
    assert [seen.operation for seen in server.seen] == ["dial", "hangup"]
    assert not await plivo.hang_up(dialed.uuid)


async def test_a_call_that_waits_is_a_request(plivo: PlivoRest, server: PlivoServer) -> None:
    server.own_request_ids = True
    dialed = await call(plivo, server, "queued")
    assert await plivo.hang_up(dialed.request_uuid, answered=False)
    assert dialed.state == "over"


async def test_a_call_that_rings_is_no_request_any_more(plivo: PlivoRest, server: PlivoServer) -> None:
    dialed = await call(plivo, server, "ringing")
    assert await plivo.hang_up(dialed.uuid, answered=False)
    assert [seen.operation for seen in server.seen] == ["dial", "cancel", "hangup"]
    assert not await plivo.hang_up(dialed.uuid, answered=False)


@pytest.mark.parametrize(("status", "kind"), [(401, "refused"), (429, "rate_limited"), (500, "broken")])
async def test_hanging_up_may_fail(plivo: PlivoRest, server: PlivoServer, status: int, kind: str) -> None:
    dialed = await call(plivo, server)
    server.next("hangup", fails(status))
    assert (await failure(plivo.hang_up(dialed.uuid))).kind == kind


# Transfers and digits


async def test_a_transfer_names_its_document(plivo: PlivoRest, server: PlivoServer) -> None:
    dialed = await call(plivo, server)
    url = "https://gw.test/xml/transfer"
    await plivo.transfer(dialed.uuid, "+1", document="<Response/>", document_url=url, caller_id=None)
    assert dialed.transfers == [{"legs": "aleg", "aleg_url": url, "aleg_method": "POST"}]


async def test_a_transfer_without_a_url_is_refused(plivo: PlivoRest, server: PlivoServer) -> None:
    dialed = await call(plivo, server)
    work = plivo.transfer(dialed.uuid, "+1", document="<Response/>", document_url=None, caller_id=None)
    assert (await failure(work)).kind == "refused"
    assert dialed.transfers == []


async def test_digits_are_sent(plivo: PlivoRest, server: PlivoServer) -> None:
    dialed = await call(plivo, server)
    await plivo.send_dtmf(dialed.uuid, "1234#")
    assert dialed.digits == [{"digits": "1234#", "leg": "aleg"}]


async def test_a_call_that_is_over_takes_nothing_more(plivo: PlivoRest, server: PlivoServer) -> None:
    dialed = await call(plivo, server, "over")
    for work in (
        plivo.send_dtmf(dialed.uuid, "1"),
        plivo.transfer(dialed.uuid, "+1", document=None, document_url="https://gw.test/x", caller_id=None),
    ):
        failed = await failure(work)
        assert (failed.kind, failed.status, failed.gone) == ("refused", 404, True)


# The server's own webhooks


async def test_its_callbacks_are_signed_as_plivo_signs(plivo: PlivoRest, server: PlivoServer) -> None:
    hooks = await PlivoServer().start()  # whoever listens: it keeps what comes
    try:
        server.via = hooks.root
        dialed = await call(plivo, server, "ringing")
        await server.ring(dialed)
        await server.post(dialed.body["answer_url"], server.fields(dialed, "StartApp", "in-progress"))
        await server.hung_up(dialed, "busy", code="3010")
    finally:
        await hooks.stop()

    urls = [dialed.body[name] for name in ("ring_url", "answer_url", "hangup_url")]
    assert [seen.one("Event") for seen in hooks.seen] == ["Ring", "StartApp", "Hangup"]
    for seen, url in zip(hooks.seen, urls, strict=True):
        nonce, signature = (seen.headers[f"x-plivo-signature-v3{end}"] for end in ("-nonce", ""))
        assert validate_v3_signature("POST", url, nonce, AUTH_TOKEN, signature, dict(seen.form))
        assert seen.one("From") == FROM[1:]


async def test_its_upgrade_is_signed_as_documented(
    server: PlivoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/reference/carriers.md §9.3's vector."""
    monkeypatch.setattr(rest_plivo, "nonce", lambda: "12345")
    server.auth_token = "my_auth_token"
    headers = server.upgrade_headers("wss://gw.example.com/ws/plivo/tok_abc")
    assert headers["X-Plivo-Signature-V3"] == "H3ejSMeblTcLX1iNiQnBD5Af1hbdtJ1fo4d/KaD7Rjw="


async def test_it_asks_for_documents_as_plivo_does(plivo: PlivoRest, server: PlivoServer) -> None:
    stream = (
        '<Stream bidirectional="true" keepCallAlive="true">wss://gw.test/ws/plivo?token=t&amp;a=b</Stream>'
    )
    hooks = await PlivoServer().start()
    try:
        server.via = hooks.root
        dialed = await call(plivo, server, "ringing")
        await plivo.transfer(
            dialed.uuid, "+1", document=None, document_url="https://gw.test/moved", caller_id=None
        )
        hooks.next(
            "unknown", says(f"<Response>{stream}<Hangup/></Response>"), says("<Response><Dial/></Response>")
        )
        answered = await server.answer(dialed)
        moved = await server.transferred(dialed)
    finally:
        await hooks.stop()
    assert answered.stream_url == "wss://gw.test/ws/plivo?token=t&a=b"
    assert answered.document is not None
    assert answered.document.stream["keepCallAlive"] == "true"
    assert [verb.tag for verb in answered.document.after] == ["Hangup"]
    assert moved.document is not None
    assert [verb.tag for verb in moved.document.verbs] == ["Dial"]
    assert [seen.path for seen in hooks.seen] == ["/xml/answer", "/moved"]
