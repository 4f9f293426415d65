# SPDX-License-Identifier: BSD-2-Clause
"""Dial-ins that are refused or fail (docs/reference/carriers.md §6.3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.api.webhooks import dialin
from gateway.api.webhooks.dialin import DIALIN
from gateway.config import Organization
from gateway.model.reasons import Reasons
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import answers_with as answers
from tests.harness.bot_requests import bot_of
from tests.harness.daily_dialin import OLD_SECRET, SECRET, dialin_log_lines, send_dialin
from tests.harness.daily_numbers_server import DailyWithNumbers, signed
from tests.harness.daily_server import API_KEY, rate_limits
from tests.harness.failing_server import fails, resets, says
from tests.harness.http_requests import HttpAnswer, send, serving
from tests.harness.start_api import Worker, gives_up_after, running_worker

# Refusals


async def refused(reply: HttpAnswer, status: int, worker: Worker, daily: DailyWithNumbers) -> dict[str, Any]:
    """The error's body; nothing was started, and nothing is left."""
    assert reply.status == status, reply.raw
    assert daily.rooms == {}
    await worker.assert_nothing_left()
    body: dict[str, Any] = reply.json
    assert API_KEY not in str(body)
    return body


@pytest.mark.parametrize("path", ["acme/other", "globex/support", "nobody/support"])
async def test_an_unknown_agent_is_404(worker: Worker, url: str, daily: DailyWithNumbers, path: str) -> None:
    reply = await send_dialin(url.replace("acme/support", path), daily.caller())
    assert (await refused(reply, 404, worker, daily))["code"] == "404"


@pytest.mark.parametrize(
    "forge",
    [
        lambda raw: {},
        lambda raw: {"X-Pinless-Signature": signed(SECRET, raw)["X-Pinless-Signature"]},
        lambda raw: {"X-Pinless-Timestamp": signed(SECRET, raw)["X-Pinless-Timestamp"]},
        lambda raw: signed("bm90IG91ciBzZWNyZXQ=", raw),
        lambda raw: signed(SECRET, raw + b" "),
        lambda raw: signed(SECRET, raw, at=1_756_000_000),
        lambda raw: signed(SECRET, raw) | {"X-Pinless-Timestamp": "soon"},
        lambda raw: signed(SECRET, raw) | {"X-Pinless-Signature": "äöü"},
    ],
)
async def test_a_webhook_with_a_wrong_signature_is_403(
    worker: Worker, url: str, daily: DailyWithNumbers, forge: Callable[[bytes], dict[str, str]]
) -> None:
    raw = json.dumps(daily.caller()).encode()
    with structlog.testing.capture_logs() as lines:
        reply = await send(url, raw=raw, **forge(raw))
    assert (await refused(reply, 403, worker, daily))["code"] == "403"
    assert [line["reason"] for line in dialin_log_lines(lines)] == ["unauthorized"]
    assert daily.seen == []


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("unit", ["s", "ms"])
@pytest.mark.parametrize("secret", [OLD_SECRET, SECRET])
async def test_either_secret_and_either_unit_of_time(
    url: str, agent: Agent, daily: DailyWithNumbers, unit: str, secret: str
) -> None:
    raw = json.dumps(daily.caller()).encode()
    assert (await send(url, raw=raw, **signed(secret, raw, unit=unit))).status == 200


@pytest.mark.usefixtures("patient")
async def test_a_signed_webhook_is_for_one_agent_at_every_worker(
    worker: Worker,
    url: str,
    agent: Agent,
    daily: DailyWithNumbers,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    raw = json.dumps(daily.caller()).encode()
    headers = signed(SECRET, raw)
    first = await send(url, raw=raw, **headers)
    assert first.status == 200
    sales = {"agents": [settings["agents"][0] | {"name": "sales"}]}
    async with (
        running_worker(tmp_path / "patchbay.db", settings | sales, "another") as another,
        serving(another, DIALIN) as address,
    ):
        replayed = await send(f"{address}/v1/public/webhooks/acme/sales/dialin", raw=raw, **headers)
    assert (replayed.status, replayed.json["code"]) == (403, "403")
    assert replayed.json["error"] == "the same signed request was for another agent"
    again = await send(url, raw=raw, **headers)  # as Daily repeats it
    assert (again.status, again.json) == (200, first.json)
    assert len(daily.requests_of("create_room")) == 1
    assert len(await worker.records()) == 1


@pytest.mark.usefixtures("patient")
async def test_without_secrets_every_webhook_is_refused(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    _without(worker, "webhook_secrets", [])
    for reply in (await send(url, daily.caller()), await send_dialin(url, daily.caller())):
        assert "webhook_secrets" in (await refused(reply, 403, worker, daily))["error"]
    assert agent.upgrades == 0


async def test_a_webhook_need_not_be_signed_where_the_operator_says_so(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    _without(worker, "webhook_secrets", [])
    _without(worker, "allow_unsigned", True)
    assert (await send(url, daily.caller())).status == 200


async def test_an_unsigned_webhook_does_not_reveal_which_agents_exist(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    other = url.replace("/support/", "/other/")
    for address in (url, other):
        assert (await refused(await send(address, daily.caller()), 403, worker, daily))["code"] == "403"
        assert (await send(address, {"Test": "test"})).status == 200
    assert (await refused(await send_dialin(other, daily.caller()), 404, worker, daily))["code"] == "404"


def _without(worker: Worker, name: str, value: Any) -> None:
    """The settings as if this were not among them."""
    acme = worker.services.calls.settings.organizations[0]
    assert acme.daily is not None
    daily = None if name == "daily" else acme.daily.model_copy(update={name: value})
    changed: Organization = acme.model_copy(update={"daily": daily})
    worker.services.calls.settings.organizations[0] = changed


async def test_an_organisation_without_a_domain(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    _without(worker, "daily", None)
    for body in (daily.caller(), {"Test": "test"}):
        with structlog.testing.capture_logs() as lines:
            reply = await send(url, body)
        assert (await refused(reply, 404, worker, daily))["error"] == Reasons.not_found.sentence
        (line,) = dialin_log_lines(lines)
        assert line["reason"] == "not_found"
        assert "[organizations.daily]" in line["words"], "for the operator, not for whoever asks"
    unknown = url.replace("/acme/", "/nobody/")
    assert (await send(unknown, daily.caller())).status == 404


@pytest.mark.parametrize("name", ["callId", "callDomain"])
@pytest.mark.parametrize("value", ["", None])
async def test_a_call_without_an_id_is_400(
    worker: Worker, url: str, daily: DailyWithNumbers, name: str, value: Any
) -> None:
    body = await refused(await send_dialin(url, daily.caller() | {name: value}), 400, worker, daily)
    assert name in body["error"]


@pytest.mark.parametrize("name", ["From", "To", "callId", "callDomain"])
@pytest.mark.parametrize("value", [4711, ["+1"], "x" * 257, "+1\r\nX-Evil: 1", "\x00", "\u202e1"])
async def test_malformed_fields_are_400(
    worker: Worker, url: str, daily: DailyWithNumbers, name: str, value: Any
) -> None:
    reply = await send_dialin(url, daily.caller() | {name: value})
    body = await refused(reply, 400, worker, daily)
    assert name in body["error"]
    assert body["code"] == "400"


async def test_the_domain_of_the_call_is_missing(worker: Worker, url: str, daily: DailyWithNumbers) -> None:
    call = daily.caller()
    del call["callDomain"]
    assert "callDomain" in (await refused(await send_dialin(url, call), 400, worker, daily))["error"]


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b'{"callId":"1","callId":"2"}',
        b'{"callId": NaN}',
        b'{"callId":"\xff"}',
        b'{"callId":"\\ud800"}',
        b"From=%2B1&callId=1",
        b'{"callId":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)
async def test_bodies_that_are_not_json(
    worker: Worker, url: str, daily: DailyWithNumbers, raw: bytes
) -> None:
    reply = await send(url, raw=raw, **signed(SECRET, raw))
    assert (await refused(reply, 400, worker, daily))["code"] == "400"


async def test_a_body_that_is_too_large(worker: Worker, url: str, daily: DailyWithNumbers) -> None:
    reply = await send_dialin(url, daily.caller(sipHeaders={"X-Long": "x" * 70_000}))
    assert (await refused(reply, 413, worker, daily))["code"] == "413"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("given", "reply"),
    [
        (None, {}),
        ({}, {}),
        ("X-A: 1", {}),
        (["X-A"], {}),
        ({"X-A": "1", "X-B": ""}, {"X-A": "1", "X-B": ""}),
        ({"X-A": "1", "X-Number": 4711, "X-None": None, "X-List": ["a"], "X-Flag": True}, {"X-A": "1"}),
        ({"X-A": "1", "X-Evil": "1\r\nVia: SIP/2.0", "X-Nul": "\x00"}, {"X-A": "1"}),
        ({"X-A": "1", "X-Evil\r\nVia": "1", "": "1", "X Y": "1", "X:Y": "1"}, {"X-A": "1"}),
        ({"X-A": "1", "X-Long": "x" * 1025}, {"X-A": "1"}),
        ({"X-A": "ü"}, {"X-A": "ü"}),
    ],
)
async def test_sip_headers_that_can_be_passed_on_are(
    url: str, agent: Agent, daily: DailyWithNumbers, given: Any, reply: dict[str, str]
) -> None:
    assert (await send_dialin(url, daily.caller(sipHeaders=given))).status == 200
    assert (await bot_of(agent)).json["dialin_settings"]["sip_headers"] == reply


@pytest.mark.usefixtures("patient")
async def test_the_number_of_sip_headers_is_limited(url: str, agent: Agent, daily: DailyWithNumbers) -> None:
    many = {f"X-{number}": "1" for number in range(500)}
    assert (await send_dialin(url, daily.caller(sipHeaders=many))).status == 200
    assert len((await bot_of(agent)).json["dialin_settings"]["sip_headers"]) == 64


@pytest.mark.usefixtures("patient")
async def test_no_slot_is_free(worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers) -> None:
    assert (await worker.start()).status == 200
    with structlog.testing.capture_logs() as lines:
        reply = await send_dialin(url, daily.caller())
    assert reply.status == 429
    assert reply.headers["Retry-After"] == "5"
    assert "PCC-AGENT-AT-CAPACITY" in reply.json["error"]
    assert [line["reason"] for line in dialin_log_lines(lines)] == ["at_capacity"]
    assert daily.seen == []


@pytest.mark.usefixtures("patient")
async def test_a_gateway_that_drains(worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers) -> None:
    worker.services.active.draining = True
    reply = await send_dialin(url, daily.caller())
    assert (await refused(reply, 503, worker, daily))["code"] == "draining"


async def test_too_many_are_being_started(
    worker: Worker, url: str, daily: DailyWithNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialin, "MAX_STARTING", 0)
    reply = await send_dialin(url, daily.caller())
    assert (await refused(reply, 503, worker, daily))["code"] == "overloaded"
    assert daily.seen == []


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("operation", ["create_room", "create_token"])
@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (fails(401, "authentication-error"), "daily_refused"),
        (rate_limits("7"), "daily_rate_limited"),
        (fails(503), "daily_broken"),
        (resets, "daily_unreachable"),
        (says("<html>", makes=True), "daily_unreadable"),
    ],
)
async def test_daily_fails(
    worker: Worker,
    url: str,
    agent: Agent,
    daily: DailyWithNumbers,
    operation: str,
    behaviour: Any,
    code: str,
) -> None:
    daily.next(operation, behaviour)
    with structlog.testing.capture_logs() as lines:
        reply = await send_dialin(url, daily.caller())
    assert (await refused(reply, 502, worker, daily))["code"] == code
    assert [line["reason"] for line in dialin_log_lines(lines)] == [code]
    assert agent.upgrades == 0


@pytest.mark.usefixtures("patient")
async def test_daily_answers_without_a_sip_address(
    worker: Worker, url: str, agent: Agent, daily: DailyWithNumbers
) -> None:
    room = {"name": "a-room", "url": "https://acme.daily.test/a-room", "config": {}}
    daily.next("create_room", says(room))
    assert (await refused(await send_dialin(url, daily.caller()), 502, worker, daily))[
        "code"
    ] == "daily_unreadable"


@pytest.mark.usefixtures("patient")
async def test_the_agent_fails(
    worker: Worker, url: str, agent_at: Callable[..., Any], port: AgentPort, daily: DailyWithNumbers
) -> None:
    gives_up_after(worker, 0.6)
    reply = await send_dialin(url, daily.caller())
    assert (await refused(reply, 502, worker, daily))["code"] == "agent_unreachable"


@pytest.mark.usefixtures("patient")
async def test_an_agent_that_answers_at_once(
    worker: Worker, url: str, agent_at: Callable[..., Any], port: AgentPort, daily: DailyWithNumbers
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    await agent_at(port, answers(raw, then="close"))
    reply = await send_dialin(url, daily.caller())
    assert reply.status == 200
    assert (await worker.over(reply.json["sessionId"])).reason == "agent_ended"
