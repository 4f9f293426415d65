# SPDX-License-Identifier: BSD-2-Clause
"""Every way in which a carrier's REST may fail, over real sockets, for each carrier."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest

from gateway.carriers.rest_interface import CarrierFailed, CarrierRest, CredentialsMissing
from gateway.carriers.rest_transport import (
    MAX_ANSWER_BYTES,
    MAX_RETRY_AFTER_S,
    RestAccess,
    RestApi,
    RestTimeouts,
    RestTransport,
)
from gateway.simulator.waiting import eventually
from tests.harness.agent import AgentPort
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
from tests.harness.rest_accounts import (
    CREDENTIALS,
    FROM,
    SECRETS,
    SERVERS,
    STREAM_TOKEN,
    TO,
    account,
    dial_request,
    make_client,
    rest,
)
from tests.harness.rest_server import RestServer

CARRIERS = ("twilio", "telnyx", "plivo", "exotel")
SHORT_S = 1.0  # how long a carrier may stall where a test waits for it, having asked it


@dataclass
class Line:
    """A carrier's server, and the REST of an account there."""

    carrier: str
    server: RestServer
    rest: CarrierRest
    http: aiohttp.ClientSession

    @property
    def hasty(self) -> CarrierRest:
        """It is not waited for long."""
        return rest(self.server, self.carrier, self.http, SHORT_S)


@pytest.fixture(params=CARRIERS)
async def line(request: pytest.FixtureRequest, http: aiohttp.ClientSession) -> AsyncIterator[Line]:
    server = await SERVERS[request.param]().start()
    yield Line(request.param, server, rest(server, request.param, http), http)
    await server.stop()


async def failure(work: Any) -> CarrierFailed:
    """How the work fails, which it must; its words hold nothing that is anybody's."""
    with pytest.raises(CarrierFailed) as caught:
        await work
    detail = caught.value.detail
    assert detail == str(caught.value) != ""
    assert not any(
        hidden in detail for hidden in (*SECRETS, TO[1:], FROM[1:], STREAM_TOKEN, "s-1", "gw.test")
    )
    return caught.value


async def test_a_call_out_is_one_request(line: Line) -> None:
    made = await line.rest.dial(dial_request())
    assert len(line.server.seen) == len(line.server.calls) == 1
    assert (made.call_id or made.request_id) in line.server.calls


# No


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422])
async def test_a_refusal_is_certain(line: Line, status: int) -> None:
    line.server.next("dial", fails(status))
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == ("refused", status, False)
    assert len(line.server.seen) == 1


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_wrong_credentials_are_refused(http: aiohttp.ClientSession, carrier: str) -> None:
    server = await SERVERS[carrier]().start()
    try:
        wrong = {"api_key": "wrong-key"} if carrier == "telnyx" else {"auth_tokens": ["wrong-key"]}
        client = make_client(account(carrier, server.api_url, **wrong), http)
        failed = await failure(client.dial(dial_request()))
    finally:
        await server.stop()
    assert (failed.kind, failed.status, failed.uncertain) == ("refused", 401, False)
    assert server.calls == {}


async def test_a_number_that_the_carrier_does_not_take_is_not_repeated_in_words(line: Line) -> None:
    text = f"The number {TO} ({TO[1:]}) of user bob@acme.test with {STREAM_TOKEN} is not valid, see https://a.test/1"
    line.server.next("dial", fails(400, 21211, text))
    failed = await failure(line.rest.dial(dial_request()))
    assert "is not valid, see" in failed.detail
    assert not any(part in failed.detail for part in ("bob", "acme.test", "https"))


async def test_an_error_that_holds_our_secret_says_nothing_but_its_status(line: Line) -> None:
    secret = {"twilio": 0, "telnyx": 1, "plivo": 2, "exotel": 3}[line.carrier]
    line.server.next("dial", fails(403, None, f"The key {SECRETS[secret].upper()} may not call"))
    failed = await failure(line.rest.dial(dial_request()))
    assert "may not" not in failed.detail


# Not now


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("0", 0),
        ("999999999", MAX_RETRY_AFTER_S),
        ("soon", None),
        ("-3", None),
        ("1e3", None),
    ],
)
async def test_too_many_requests(line: Line, retry_after: str | None, seconds: int | None) -> None:
    headers = {} if retry_after is None else {"Retry_After": retry_after}
    line.server.next("dial", fails(429, 20429, "Too many requests", **headers))
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == ("rate_limited", 429, False)
    assert failed.retry_after_s == seconds


async def test_retry_after_may_be_a_date(line: Line) -> None:
    line.server.next("dial", fails(429, Retry_After=formatdate(time.time() + 120, usegmt=True)))
    failed = await failure(line.rest.dial(dial_request()))
    assert failed.retry_after_s is not None
    assert 0 < failed.retry_after_s <= 121


@pytest.mark.parametrize("date", ["Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_date_that_is_past_or_far_is_cut(line: Line, date: str) -> None:
    line.server.next("dial", fails(429, Retry_After=date))
    failed = await failure(line.rest.dial(dial_request()))
    assert failed.retry_after_s == (0 if "2000" in date else MAX_RETRY_AFTER_S)


# Broken


@pytest.mark.parametrize("status", [301, 307, 500, 502, 503, 504])
async def test_what_failed_at_the_carrier_may_have_been_done(line: Line, status: int) -> None:
    line.server.next("dial", fails(status, Location="https://elsewhere.test/", Retry_After="9"))
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain, failed.retry_after_s) == ("broken", status, True, 9)
    assert len(line.server.seen) == 1


async def test_a_request_that_came_too_slowly_may_have_been_done(line: Line) -> None:
    line.server.next("dial", fails(408))
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.uncertain) == ("timeout", True)


@pytest.mark.parametrize(
    ("status", "kind", "uncertain"),
    [(200, "broken", True), (201, "broken", True), (403, "refused", False), (502, "broken", True)],
)
async def test_html_is_not_read(line: Line, status: int, kind: str, uncertain: bool) -> None:
    line.server.next("dial", says(f"<html>Blocked: {TO}</html>", status=status))
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == (kind, status, uncertain)
    assert "Blocked" not in failed.detail


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        7,
        None,
        {"sid": None, "data": None, "request_uuid": 5, "Call": []},
        {"sid": "a b", "data": {"call_control_id": ""}, "request_uuid": "..", "Call": {"Sid": "x" * 600}},
        {"sid": "", "data": [], "request_uuid": "a\n", "Call": {"Sid": None}},
    ],
)
async def test_an_answer_without_an_id_is_no_call(line: Line, answer: Any) -> None:
    line.server.next("dial", says(answer, makes=True))
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.uncertain) == ("broken", True)


@pytest.mark.parametrize(
    "answer", [{"code": {}, "errors": 5, "error": [], "RestException": "x"}, {"errors": [7]}, []]
)
async def test_an_error_of_any_shape_is_an_error(line: Line, answer: Any) -> None:
    line.server.next("dial", says(answer, status=400))
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.code) == ("refused", None)


async def test_json_that_nests_without_end_is_not_read(line: Line) -> None:
    line.server.next("dial", says("[" * 100_000))
    assert (await failure(line.rest.dial(dial_request()))).kind == "broken"


async def test_an_answer_without_end_is_left(line: Line) -> None:
    line.server.next("dial", trickles)
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.uncertain) == ("broken", True)
    assert str(MAX_ANSWER_BYTES) in failed.detail


# Silence


@pytest.mark.parametrize("behaviour", [stalls, acts_then_stalls])
async def test_a_carrier_that_stalls_is_waited_for_so_long(line: Line, behaviour: Behaviour) -> None:
    line.server.next("dial", behaviour)
    asking = asyncio.create_task(failure(line.hasty.dial(dial_request())))
    await eventually(lambda: line.server.seen, "the carrier is asked")
    failed = await asking
    assert (failed.kind, failed.status, failed.uncertain) == ("timeout", None, True)
    assert len(line.server.seen) == 1


@pytest.mark.parametrize("behaviour", [resets, acts_then_resets])
async def test_a_connection_that_breaks_may_have_carried_the_request(
    line: Line, behaviour: Behaviour
) -> None:
    line.server.next("dial", behaviour)
    failed = await failure(line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == ("unreachable", None, True)
    assert len(line.server.seen) == 1


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_carrier_that_takes_no_connection_was_asked_for_nothing(
    http: aiohttp.ClientSession, carrier: str
) -> None:
    port = AgentPort()  # kept, and nobody listens
    try:
        client = make_client(account(carrier, port.url), http)
        failed = await failure(client.dial(dial_request()))
    finally:
        port.free()
    assert (failed.kind, failed.uncertain) == ("unreachable", False)


async def test_a_connection_that_is_not_taken_in_time_carried_nothing(http: aiohttp.ClientSession) -> None:
    port = AgentPort()
    full = port.listen()
    full.listen(0)
    waiting = []
    try:
        for _ in range(4):  # more than the backlog holds: from then on the kernel drops what comes
            one = full.__class__()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port.number))
            waiting.append(one)
        api = RestApi("Twilio", port.url, lambda _: (None, None))
        slow = RestTransport(api, RestAccess(port.url, "x", ()), http, RestTimeouts(connect_s=SHORT_S))
        failed = await failure(slow.send("POST", "/calls", body={}))
    finally:
        for one in (*waiting, full):
            one.close()
        port.free()
    assert (failed.kind, failed.uncertain) == ("unreachable", False)


# What goes out


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_account_without_credentials_calls_nobody(carrier: str) -> None:
    nothing = dict.fromkeys(CREDENTIALS[carrier], None) | ({} if carrier == "telnyx" else {"auth_tokens": []})
    with pytest.raises(CredentialsMissing, match="takes"):
        make_client(account(carrier, None, **nothing), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_another_region_is_named_with_or_without_the_version(
    http: aiohttp.ClientSession, carrier: str
) -> None:
    server = await SERVERS[carrier]().start()
    try:
        for url in (server.root, server.api_url):
            await make_client(account(carrier, url), http).dial(dial_request())
    finally:
        await server.stop()
    assert [seen.path for seen in server.seen] == 2 * [server.seen[0].path]
    assert server.calls


@pytest.mark.parametrize("call_id", ["", ".", "..", "a b", "a\r\nb", "ü", "x" * 513])
async def test_what_can_be_no_call_id_is_not_asked_for(line: Line, call_id: str) -> None:
    if "hangup" not in line.rest.unsupported:
        assert (await failure(line.rest.hang_up(call_id))).kind == "refused"
    if "transfer" not in line.rest.unsupported:
        work = line.rest.transfer(
            call_id, TO, document="<Response/>", document_url="https://a.test", caller_id=None
        )
        assert (await failure(work)).kind == "refused"
    assert line.server.seen == []


@pytest.mark.parametrize("call_id", ["../../Accounts", "a/../../b", "a%2e%2e", "a?b=c", "a#b"])
async def test_a_call_id_cannot_leave_its_place_in_the_path(line: Line, call_id: str) -> None:
    with contextlib.suppress(CarrierFailed):  # there is no such call
        await line.rest.hang_up(call_id)
    assert {seen.operation for seen in line.server.seen} <= {"update", "command", "hangup"}


@pytest.mark.parametrize("digits", ["", "1 2", "12x", "1" * 33, "e", "\uff11"])
async def test_what_are_no_digits_are_not_sent(line: Line, digits: str) -> None:
    failed = await failure(line.rest.send_dtmf("call", digits))
    assert (failed.kind, failed.uncertain) == ("refused", False)
    assert line.server.seen == []


async def test_what_a_carrier_cannot_do_is_refused_in_its_words(line: Line) -> None:
    asked = {
        "hangup": lambda: line.rest.hang_up("call"),
        "transfer": lambda: line.rest.transfer("call", TO, document=None, document_url=None, caller_id=None),
        "dtmf": lambda: line.rest.send_dtmf("call", "1"),
        "machine_detection": lambda: line.rest.dial(dial_request(machine_detection="detect")),
        "wait_for_end": lambda: line.rest.dial(dial_request(machine_detection="wait_for_end")),
    }
    for wanted, detail in line.rest.unsupported.items():
        failed = await failure(asked[wanted]())
        assert (failed.kind, failed.detail, failed.uncertain) == ("refused", detail, False)
    assert line.server.seen == []
