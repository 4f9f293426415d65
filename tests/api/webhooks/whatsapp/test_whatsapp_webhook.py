# SPDX-License-Identifier: BSD-2-Clause
"""Meta's webhook: verification, signatures, bodies, and what is about no call (docs/reference/carriers.md
§7).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.agents.instance_health import Health
from gateway.api.webhooks import whatsapp_events
from gateway.api.webhooks.whatsapp import WHATSAPP
from gateway.api.webhooks.whatsapp_handler import RECORD_LIFETIME_S
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.http_requests import send, serving
from tests.harness.start_api import Worker, running_worker, tables
from tests.harness.whatsapp_events import (
    OLD_SECRET,
    SECRET,
    answers,
    call,
    event,
    next_whatsapp_event,
    send_event,
    signed,
)

# Verification


def verification_url(url: str, **given: str) -> str:
    query = {"mode": "subscribe", "challenge": "1158201444", "verify_token": "pk_acme"} | given
    return f"{url}?{urlencode({f'hub.{name}': value for name, value in query.items() if value})}"


async def test_the_challenge_is_answered(url: str) -> None:
    answer = await send(verification_url(url), method="GET")
    assert (answer.status, answer.raw) == (200, b"1158201444")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_a_key_that_was_made_later_verifies(worker: Worker, url: str) -> None:
    _, key = await worker.services.calls.api_keys.create("acme", "public", "meta")
    assert (await send(verification_url(url, verify_token=key), method="GET")).status == 200


@pytest.mark.parametrize(
    "given",
    [
        {"verify_token": ""},
        {"verify_token": "pk_acm"},
        {"verify_token": "pk_globex"},
        {"verify_token": "sk_acme"},
        {"mode": ""},
        {"mode": "unsubscribe"},
        {"challenge": ""},
        {"challenge": "<script>alert(1)</script>"},
        {"challenge": "1" * 257},
    ],
)
async def test_any_other_verification_is_refused(url: str, given: dict[str, str]) -> None:
    answer = await send(verification_url(url, **given), method="GET")
    assert answer.status == 403
    assert answer.json["code"] == "403"


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[str]:
    """The webhook's URL at a worker that takes few requests a second."""
    limits = {"requests_per_second": 0.01, "requests_burst": 3}
    acme = {"whatsapp": {"app_secrets": [SECRET]}}
    settings = tables("http://127.0.0.1:1", acme=acme, limits=limits)
    async with (
        running_worker(tmp_path / "guarded.db", settings) as worker,
        serving(worker, WHATSAPP) as address,
    ):
        yield f"{address}/v1/public/webhooks/acme/support/whatsapp"


async def test_unknown_tokens_are_counted_by_address(guarded: str) -> None:
    guesses = [
        await send(verification_url(guarded, verify_token=f"pk_guess{number}"), method="GET")
        for number in range(5)
    ]
    assert [answer.status for answer in guesses] == [403, 403, 403, 429, 429]
    assert int(guesses[-1].headers["Retry-After"]) > 1


async def test_a_key_has_its_rate_as_a_token_too(guarded: str) -> None:
    answers = [await send(verification_url(guarded), method="GET") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]


async def test_a_parameter_twice(url: str) -> None:
    assert (await send(verification_url(url) + "&hub.mode=subscribe", method="GET")).status == 400


async def test_an_agent_that_is_not_there(url: str) -> None:
    other = url.replace("/support/", "/other/")
    assert (await send(verification_url(other), method="GET")).status == 404
    assert (await send_event(other, event())).status == 404


# Events of calls that come again


async def test_a_signed_event_of_a_call_is_for_one_agent(
    worker: Worker, url: str, agents: list[Agent], settings: dict[str, Any], tmp_path: Path
) -> None:
    connect = event(call("connect", timestamp=str(int(worker.services.calls.now()))))
    assert (await send_event(url, connect)).status == 200
    sales = {"agents": [settings["agents"][0] | {"name": "sales"}]}
    async with (
        running_worker(tmp_path / "patchbay.db", settings | sales, "another") as another,
        serving(another, WHATSAPP) as address,
    ):
        replayed = await send_event(f"{address}/v1/public/webhooks/acme/sales/whatsapp", connect)
    assert (replayed.status, replayed.json["code"]) == (403, "403")
    again = await send_event(url, connect)  # as Meta repeats it
    assert (again.status, again.json) == (200, {"status": "ignored"})
    assert len(await worker.records()) == 1


async def test_a_connect_that_is_older_than_the_memory_of_calls_starts_nothing(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    yesterday = int(worker.services.calls.now() - RECORD_LIFETIME_S)
    answer = await send_event(url, event(call("connect", timestamp=str(yesterday))))
    assert (answer.status, answer.json) == (200, {"status": "ignored"})
    assert await worker.records() == []


# What is about no call


async def test_messages_go_to_an_instance_that_is_ready(
    worker: Worker, url: str, agents: list[Agent], ports: list[AgentPort]
) -> None:
    agents[0].ready = 503
    await worker.sees(ports[0].url, Health.STARTING)
    answer = await send_event(url, event(messages=[{"id": "wamid.1", "text": {"body": "hello"}}]))
    assert (answer.status, answer.json) == (200, {"status": "success"})
    received = await next_whatsapp_event(agents[1])
    assert "x-daily-session-id" not in received.headers
    assert await worker.records() == []


async def test_messages_go_to_another_instance_where_one_is_gone(
    worker: Worker, url: str, agents: list[Agent], ports: list[AgentPort]
) -> None:
    await agents[0].stop()
    assert (await send_event(url, event())).status == 200
    await next_whatsapp_event(agents[1])


async def test_no_instance_is_ready(
    worker: Worker, url: str, agents: list[Agent], ports: list[AgentPort]
) -> None:
    for agent, port in zip(agents, ports, strict=True):
        agent.ready = 503
        await worker.sees(port.url, Health.STARTING)
    assert (await send_event(url, event())).status == 504


@pytest.mark.parametrize(("status", "body"), [(400, '{"detail":"no"}'), (500, "oh"), (200, "")])
async def test_the_agents_answer_comes_back(url: str, agents: list[Agent], status: int, body: str) -> None:
    agents[0].answer = answers(status, body)
    answer = await send_event(url, event())
    assert (answer.status, answer.raw) == (status, body.encode())


async def test_an_answer_without_end(url: str, agents: list[Agent]) -> None:
    agents[0].answer = answers(200, "x" * 70_000)
    assert (await send_event(url, event())).json["code"] == "agent_failed"


# Refusals


@pytest.mark.parametrize(
    "forge",
    [
        lambda raw: {},
        lambda raw: {"X-Hub-Signature-256": ""},
        lambda raw: {"X-Hub-Signature-256": signed(raw)["X-Hub-Signature-256"].removeprefix("sha256=")},
        lambda raw: signed(raw + b" "),
        lambda raw: signed(raw, "not-our-secret"),
    ],
)
async def test_an_event_that_is_not_metas(
    worker: Worker, url: str, agents: list[Agent], forge: Callable[[bytes], dict[str, str]]
) -> None:
    raw = json.dumps(event(call("connect"))).encode()
    answer = await send(url, raw=raw, **forge(raw))
    assert (answer.status, answer.json["code"]) == (403, "403")
    assert all(agent.calls.empty() for agent in agents)
    assert await worker.records() == []


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
async def test_either_secret(url: str, agents: list[Agent], secret: str) -> None:
    raw = json.dumps(event()).encode()
    assert (await send(url, raw=raw, **signed(raw, secret))).status == 200


@pytest.mark.parametrize(
    ("app", "status"),
    [(None, 404), ({}, 403), ({"allow_unsigned": False}, 403), ({"allow_unsigned": True}, 200)],
)
async def test_an_unsigned_event_is_refused_unless_the_operator_says_otherwise(
    tmp_path: Path, settings: dict[str, Any], agents: list[Agent], app: Any, status: int
) -> None:
    if app is None:
        del settings["organizations"][0]["whatsapp"]
    else:
        settings["organizations"][0]["whatsapp"] = app
    async with running_worker(tmp_path / "open.db", settings) as worker, serving(worker, WHATSAPP) as address:
        url = f"{address}/v1/public/webhooks/acme/support/whatsapp"
        assert (await send(url, event())).status == status
        assert (await send(url, event(call("connect")))).status == status
        assert len(await worker.records()) == (1 if status == 200 else 0)
        verified = await send(verification_url(url), method="GET")
        assert verified.status == (404 if app is None else 200)


async def test_an_unsigned_event_does_not_reveal_which_agents_exist(url: str, agents: list[Agent]) -> None:
    for address in (url, url.replace("/support/", "/other/")):
        assert (await send(address, event())).status == 403
    for organization in ("globex", "nobody"):
        answer = await send_event(url.replace("/acme/", f"/{organization}/"), event())
        assert answer.status == 404


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"entry":1,"entry":2}',
        b"\xff",
        json.dumps(event(call("connect") | {"id": 4711})).encode(),
        json.dumps(event(call("connect") | {"id": ""})).encode(),
        json.dumps(event(call("connect") | {"id": "wacid\r\n1"})).encode(),
        json.dumps(event(call("connect") | {"id": "x" * 257})).encode(),
        json.dumps(event(*(call("connect", f"wacid.{n}") for n in range(17)))).encode(),
    ],
)
async def test_invalid_bodies_are_refused(worker: Worker, url: str, agents: list[Agent], raw: bytes) -> None:
    answer = await send(url, raw=raw, **signed(raw))
    assert (answer.status, answer.json["code"]) == (400, "400")
    assert all(agent.calls.empty() for agent in agents)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"entry": "x"},
        {"entry": [1, {"changes": 2}, {"changes": [3, {"value": 4}]}]},
        event(calls={"id": "wacid.1"}),
        event(calls=["wacid.1"]),
    ],
)
async def test_bodies_about_no_call_are_forwarded(url: str, agents: list[Agent], body: Any) -> None:
    assert (await send_event(url, body)).status == 200
    await next_whatsapp_event(agents[0])


async def test_a_body_that_is_too_large(url: str, agents: list[Agent]) -> None:
    answer = await send_event(url, event(text="x" * 300_000))
    assert (answer.status, answer.json["code"]) == (413, "413")


async def test_of_a_large_event_only_its_calls_are_read(
    worker: Worker, url: str, agents: list[Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making values of all of it would hold up the sound of the worker's calls."""

    def parse(raw: bytes) -> Any:
        raise AssertionError("the whole event is parsed")

    monkeypatch.setattr(whatsapp_events, "parse", parse)
    messages = [{"from": "14155550100", "text": {"body": "x" * 100}} for _ in range(400)]
    assert (await send_event(url, event(call("connect"), messages=messages))).status == 200
    await next_whatsapp_event(agents[0])
    await eventually(lambda: len(worker.services.active) == 1, "the call is held")
    assert (await send_event(url, event(messages=messages))).status == 200


@pytest.mark.parametrize("calls", [[{"id": 1}] * 10, ["x"] * 10, [call("connect", "w" * 300)]])
async def test_a_large_event_that_is_not_metas_is_refused(
    url: str, agents: list[Agent], calls: list[Any]
) -> None:
    answer = await send_event(url, event(calls=calls, text="x" * 50_000))
    assert (answer.status, answer.json["code"]) == (400, "400")
    assert all(agent.calls.empty() for agent in agents)
