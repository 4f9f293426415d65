# SPDX-License-Identifier: BSD-2-Clause
"""Every carrier's REST client: what it can do, and every way in which it may fail, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest

from gateway.carriers.registry import CARRIERS
from gateway.carriers.rest_interface import CarrierFailed, CarrierRest, CredentialsMissing
from gateway.carriers.rest_transport import MAX_ANSWER_BYTES, MAX_RETRY_AFTER_S, TIMEOUT_S
from gateway.simulator.waiting import eventually
from tests.carriers.case import Case
from tests.carriers.cases import CASES
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
from tests.harness.rest_accounts import FROM, STREAM_TOKEN, TO, dial_request
from tests.harness.rest_server import RestServer

SHORT_S = 1.0
"""Seconds that a client waits for a carrier that never answers, once the carrier has the request."""
HIDDEN = (TO[1:], FROM[1:], STREAM_TOKEN, "s-1", "gw.test")
"""What must not be repeated of a request."""

REST_CASES = {name: case for name, case in CASES.items() if case.rest is not None}
every_case = pytest.mark.parametrize("case", REST_CASES.values(), ids=str)


def client_of(
    case: Case, api_url: str | None, http: aiohttp.ClientSession, timeout_s: float = TIMEOUT_S, **changed: Any
) -> CarrierRest:
    """The REST client of the case's account. `changed`: other settings of the account."""
    rest_class = CARRIERS[case.name].rest_class
    assert rest_class is not None
    assert case.rest is not None
    table = {**case.rest.credentials, "api_url": api_url, **changed}
    return rest_class(case.account(table), http, timeout_s=timeout_s)


@dataclass
class Line:
    """A carrier's server, and the client of an account there."""

    case: Case
    server: RestServer
    http: aiohttp.ClientSession

    @property
    def rest(self) -> CarrierRest:
        return client_of(self.case, self.server.api_url, self.http)

    @property
    def impatient(self) -> CarrierRest:
        """A client that waits for SHORT_S only."""
        return client_of(self.case, self.server.api_url, self.http, SHORT_S)

    async def answered_call(self) -> str:
        """The id of a call that was dialed and answered."""
        dialed = await self.rest.dial(dial_request())
        assert self.case.rest is not None
        self.case.rest.answer(self.server)
        call_id = dialed.call_id or dialed.request_id
        assert call_id is not None
        return call_id

    def verbs(self, call_id: str) -> dict[str, Callable[[], Awaitable[Any]]]:
        """Whatever can be requested for a call, by the name that `unsupported` has for it."""
        document = "<Response><Hangup/></Response>"
        url = "https://gw.test/transfer"
        return {
            "hangup": lambda: self.rest.hang_up(call_id),
            "transfer": lambda: self.rest.transfer(
                call_id, TO, document=document, document_url=url, caller_id=None
            ),
            "dtmf": lambda: self.rest.send_dtmf(call_id, "1"),
        }


@pytest.fixture(params=REST_CASES.values(), ids=str)
async def line(request: pytest.FixtureRequest, http: aiohttp.ClientSession) -> AsyncIterator[Line]:
    case: Case = request.param
    assert case.rest is not None
    server = await case.rest.server().start()
    yield Line(case, server, http)
    await server.stop()


async def failure(line_or_case: Line | Case, work: Any) -> CarrierFailed:
    """How the work fails, which it must. Its detail repeats nothing that is somebody's."""
    case = line_or_case.case if isinstance(line_or_case, Line) else line_or_case
    assert case.rest is not None
    with pytest.raises(CarrierFailed) as caught:
        await work
    detail = caught.value.detail
    assert detail == str(caught.value) != ""
    assert not any(hidden in detail for hidden in (case.rest.secret, *HIDDEN))
    return caught.value


# Verbs


def test_a_verb_is_supported_or_has_a_reason() -> None:
    for case in REST_CASES.values():
        assert case.rest is not None
        rest_class: Any = CARRIERS[case.name].rest_class
        assert rest_class.name == case.name
        unsupported = set(rest_class.unsupported)
        assert unsupported <= {*("hangup", "transfer", "dtmf", "machine_detection", "wait_for_end", "sip")}
        assert set(case.rest.operations) == {"hangup", "transfer", "dtmf"} - unsupported


async def test_a_call_is_hung_up_once(line: Line) -> None:
    if "hangup" in line.rest.unsupported:
        return
    call_id = await line.answered_call()
    assert await line.rest.hang_up(call_id) is True
    assert await line.rest.hang_up(call_id) is False, "it is over already"


async def test_a_call_that_rings_is_hung_up(line: Line) -> None:
    if "hangup" in line.rest.unsupported:
        return
    dialed = await line.rest.dial(dial_request())
    assert await line.rest.hang_up(dialed.call_id or dialed.request_id or "", answered=False) is True


async def test_every_other_verb_is_carried_out(line: Line) -> None:
    assert line.case.rest is not None
    call_id = await line.answered_call()
    for verb in ("transfer", "dtmf"):
        if verb in line.case.rest.operations:
            before = len(line.server.seen)
            await line.verbs(call_id)[verb]()
            assert [seen.operation for seen in line.server.seen[before:]] == [line.case.rest.operations[verb]]


async def test_a_call_whose_answer_was_lost_is_found_or_can_be_dialed_again(line: Line) -> None:
    line.server.next("dial", acts_then_resets)
    since = time.time()
    failed = await failure(line, line.rest.dial(dial_request()))
    assert failed.uncertain
    if line.rest.repeats_safely:
        await line.rest.dial(dial_request())
        assert len(line.server.calls) == 1
    found = await line.rest.find(dial_request(), since=since)
    assert found is None or found.call_id in line.server.calls
    if found is not None:
        known = await line.rest.find(dial_request(), since=since, known=list(line.server.calls))
        assert known is None, "it is another session's"


async def test_every_verb_fails_as_the_carrier_says(line: Line) -> None:
    assert line.case.rest is not None
    call_id = await line.answered_call()
    for verb, operation in line.case.rest.operations.items():
        for status, kind, uncertain in (
            (400, "refused", False),
            (429, "rate_limited", False),
            (500, "broken", True),
        ):
            line.server.next(operation, fails(status))
            failed = await failure(line, line.verbs(call_id)[verb]())
            assert (verb, failed.kind, failed.status, failed.uncertain) == (verb, kind, status, uncertain)


async def test_a_verb_for_a_call_that_is_none_of_the_accounts(line: Line) -> None:
    assert line.case.rest is not None
    verbs = line.verbs("no-such-call")
    for verb in line.case.rest.operations:
        if verb == "hangup":
            line.server.next(line.case.rest.operations[verb], fails(404))
            assert await verbs[verb]() is False
        else:
            line.server.next(line.case.rest.operations[verb], fails(404))
            failed = await failure(line, verbs[verb]())
            assert (failed.kind, failed.gone) == ("refused", True)


async def test_a_call_out_is_one_request(line: Line) -> None:
    made = await line.rest.dial(dial_request())
    assert len(line.server.seen) == len(line.server.calls) == 1
    assert (made.call_id or made.request_id) in line.server.calls


# Refusals


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422])
async def test_a_refusal_is_certain(line: Line, status: int) -> None:
    line.server.next("dial", fails(status))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == ("refused", status, False)
    assert len(line.server.seen) == 1


async def test_wrong_credentials_are_refused(line: Line) -> None:
    assert line.case.rest is not None
    client = client_of(line.case, line.server.api_url, line.http, **line.case.rest.wrong)
    failed = await failure(line, client.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == ("refused", 401, False)
    assert line.server.calls == {}


async def test_a_number_that_the_carrier_does_not_take_is_not_repeated_in_words(line: Line) -> None:
    text = f"The number {TO} ({TO[1:]}) of user bob@acme.test with {STREAM_TOKEN} is not valid, see https://a.test/1"
    line.server.next("dial", fails(400, 21211, text))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert "is not valid, see" in failed.detail
    assert not any(part in failed.detail for part in ("bob", "acme.test", "https"))


async def test_an_error_that_holds_our_secret_says_nothing_but_its_status(line: Line) -> None:
    assert line.case.rest is not None
    line.server.next("dial", fails(403, None, f"The key {line.case.rest.secret.upper()} may not call"))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert "may not" not in failed.detail


# Rate limits


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
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == ("rate_limited", 429, False)
    assert failed.retry_after_s == seconds


async def test_retry_after_may_be_a_date(line: Line) -> None:
    line.server.next("dial", fails(429, Retry_After=formatdate(time.time() + 120, usegmt=True)))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert failed.retry_after_s is not None
    assert 0 < failed.retry_after_s <= 121


@pytest.mark.parametrize("date", ["Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_date_that_is_past_or_far_is_cut(line: Line, date: str) -> None:
    line.server.next("dial", fails(429, Retry_After=date))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert failed.retry_after_s == (0 if "2000" in date else MAX_RETRY_AFTER_S)


# Errors of the carrier


@pytest.mark.parametrize("status", [301, 307, 500, 502, 503, 504])
async def test_what_failed_at_the_carrier_may_have_been_done(line: Line, status: int) -> None:
    line.server.next("dial", fails(status, Location="https://elsewhere.test/", Retry_After="9"))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain, failed.retry_after_s) == ("broken", status, True, 9)
    assert len(line.server.seen) == 1


async def test_a_request_that_came_too_slowly_may_have_been_done(line: Line) -> None:
    line.server.next("dial", fails(408))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.uncertain) == ("timeout", True)


@pytest.mark.parametrize(
    ("status", "kind", "uncertain"),
    [(200, "broken", True), (201, "broken", True), (403, "refused", False), (502, "broken", True)],
)
async def test_html_is_not_read(line: Line, status: int, kind: str, uncertain: bool) -> None:
    line.server.next("dial", says(f"<html>Blocked: {TO}</html>", status=status))
    failed = await failure(line, line.rest.dial(dial_request()))
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
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.uncertain) == ("broken", True)


@pytest.mark.parametrize(
    "answer", [{"code": {}, "errors": 5, "error": [], "RestException": "x"}, {"errors": [7]}, []]
)
async def test_an_error_of_any_shape_is_an_error(line: Line, answer: Any) -> None:
    line.server.next("dial", says(answer, status=400))
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.code) == ("refused", None)


async def test_json_that_nests_without_end_is_not_read(line: Line) -> None:
    line.server.next("dial", says("[" * 100_000))
    assert (await failure(line, line.rest.dial(dial_request()))).kind == "broken"


async def test_an_answer_without_end_is_left(line: Line) -> None:
    line.server.next("dial", trickles)
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.uncertain) == ("broken", True)
    assert str(MAX_ANSWER_BYTES) in failed.detail


# Lost connections and time-outs


@pytest.mark.parametrize("behaviour", [stalls, acts_then_stalls])
async def test_a_carrier_that_stalls_is_waited_for_so_long(line: Line, behaviour: Behaviour) -> None:
    line.server.next("dial", behaviour)
    asking = asyncio.create_task(failure(line, line.impatient.dial(dial_request())))
    await eventually(lambda: line.server.seen, "the carrier is asked")
    failed = await asking
    assert (failed.kind, failed.status, failed.uncertain) == ("timeout", None, True)
    assert len(line.server.seen) == 1


@pytest.mark.parametrize("behaviour", [resets, acts_then_resets])
async def test_a_connection_that_breaks_may_have_carried_the_request(
    line: Line, behaviour: Behaviour
) -> None:
    line.server.next("dial", behaviour)
    failed = await failure(line, line.rest.dial(dial_request()))
    assert (failed.kind, failed.status, failed.uncertain) == ("unreachable", None, True)
    assert len(line.server.seen) == 1


@every_case
async def test_a_carrier_that_takes_no_connection_was_asked_for_nothing(
    http: aiohttp.ClientSession, case: Case
) -> None:
    port = AgentPort()  # kept, and nobody listens
    try:
        failed = await failure(case, client_of(case, port.url, http).dial(dial_request()))
    finally:
        port.free()
    assert (failed.kind, failed.uncertain) == ("unreachable", False)
    assert failed.detail.endswith(" could not be reached: connection refused")


# Accounts, ids and digits


@every_case
async def test_an_account_without_credentials_has_no_client(case: Case, http: aiohttp.ClientSession) -> None:
    assert case.rest is not None
    with pytest.raises(CredentialsMissing, match="takes"):
        client_of(case, None, http, **case.rest.missing)


async def test_another_region_is_named_with_or_without_the_version(line: Line) -> None:
    for url in (line.server.root, line.server.api_url):
        await client_of(line.case, url, line.http).dial(dial_request())
    assert [seen.path for seen in line.server.seen] == 2 * [line.server.seen[0].path]
    assert line.server.calls


@pytest.mark.parametrize("call_id", ["", ".", "..", "a b", "a\r\nb", "ü", "x" * 513])
async def test_what_can_be_no_call_id_is_not_asked_for(line: Line, call_id: str) -> None:
    if "hangup" not in line.rest.unsupported:
        assert (await failure(line, line.rest.hang_up(call_id))).kind == "refused"
    if "transfer" not in line.rest.unsupported:
        work = line.rest.transfer(
            call_id, TO, document="<Response/>", document_url="https://a.test", caller_id=None
        )
        assert (await failure(line, work)).kind == "refused"
    assert line.server.seen == []


@pytest.mark.parametrize("call_id", ["../../Accounts", "a/../../b", "a%2e%2e", "a?b=c", "a#b"])
async def test_a_call_id_cannot_leave_its_place_in_the_path(line: Line, call_id: str) -> None:
    with contextlib.suppress(CarrierFailed):  # there is no such call
        await line.rest.hang_up(call_id)
    assert {seen.operation for seen in line.server.seen} <= {"update", "command", "hangup"}


@pytest.mark.parametrize("digits", ["", "1 2", "12x", "1" * 33, "e", "\uff11"])
async def test_what_are_no_digits_are_not_sent(line: Line, digits: str) -> None:
    failed = await failure(line, line.rest.send_dtmf("call", digits))
    assert (failed.kind, failed.uncertain) == ("refused", False)
    assert line.server.seen == []


async def test_an_unsupported_verb_is_refused_with_its_reason(line: Line) -> None:
    verbs = {
        "hangup": lambda: line.rest.hang_up("call"),
        "transfer": lambda: line.rest.transfer("call", TO, document=None, document_url=None, caller_id=None),
        "dtmf": lambda: line.rest.send_dtmf("call", "1"),
        "machine_detection": lambda: line.rest.dial(dial_request(machine_detection="detect")),
        "wait_for_end": lambda: line.rest.dial(dial_request(machine_detection="wait_for_end")),
        "sip": lambda: line.rest.dial(dial_request(to="sip:desk@pbx.test")),
    }
    for verb, detail in line.rest.unsupported.items():
        failed = await failure(line, verbs[verb]())
        assert (failed.kind, failed.detail, failed.uncertain) == ("refused", detail, False)
    assert line.server.seen == []
