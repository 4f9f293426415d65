# SPDX-License-Identifier: BSD-2-Clause
"""`POST /v1/public/{agent}/start` over real HTTP (docs/reference/public-api.md, "Start")."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.instance_health import Health
from gateway.model.lifecycle import SessionState
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.start_api import Reply, Worker, gives_up_after, running_worker, tables


def assert_refused(reply: Reply, status: int, code: str | None = None) -> None:
    """A refusal as the SDK reads it: an object with `error` and `code`, both text."""
    assert reply.status == status, reply.body
    assert reply.body["code"] == (code or str(status))
    assert isinstance(reply.body["error"], str)
    assert reply.body["error"]


async def assert_nothing_happened(worker: Worker, agent: Agent) -> None:
    assert await worker.records() == []
    assert agent.upgrades == 0


# What the SDK sends


async def test_a_plain_start_is_a_request_to_the_agent(worker: Worker, agent: Agent) -> None:
    reply = await worker.start("support", {"createDailyRoom": False, "body": {"customer": 4711}})

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    bot = await bot_of(agent)
    assert reply.body == {"sessionId": bot.session}
    assert bot.json == {"customer": 4711}
    assert not [name for name in bot.headers if name.startswith("x-daily-") and name != "x-daily-session-id"]
    record = await worker.store.session(bot.session)
    assert record is not None
    assert (record.agent, record.organization, record.transport) == ("support.acme", "acme", "bot")
    assert record.state is SessionState.RUNNING
    bot.end()
    assert (await worker.over(bot.session)).completion_status == "HTTP_COMPLETED"


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"body": null}', b'{"createDailyRoom": false}'])
async def test_without_a_body_the_agent_gets_an_empty_object(
    worker: Worker, agent: Agent, raw: bytes
) -> None:
    assert (await worker.start(raw=raw)).status == 200
    assert (await bot_of(agent)).body == b"{}"


@pytest.mark.parametrize(
    "body", [{}, [], "text", 0, False, 1.5, 12345678901234567890123, {"a": [{"b": None}], "ü": "😀"}]
)
async def test_a_body_may_be_any_json(worker: Worker, agent: Agent, body: Any) -> None:
    assert (await worker.start("support", {"body": body})).status == 200
    assert (await bot_of(agent)).json == body


async def test_a_private_key_may_start_too(worker: Worker, agent: Agent) -> None:
    assert (await worker.start(key="sk_acme")).status == 200


async def test_unknown_fields_are_ignored(worker: Worker, agent: Agent) -> None:
    assert (await worker.start("support", {"somethingNew": 1, "transport": None})).status == 200


async def test_the_request_does_not_choose_the_agents_address(worker: Worker, agent: Agent) -> None:
    reply = await worker.start(
        "support",
        {"body": {"room_url": "https://elsewhere.test/"}, "instance": "http://127.0.0.1:1"},
        Host="elsewhere.test",
        X_Forwarded_Host="elsewhere.test",
        x_daily_session_id="mine",
        x_daily_room_url="https://elsewhere.test/",
    )
    bot = await bot_of(agent)
    assert bot.session == reply.body["sessionId"] != "mine"
    assert "x-daily-room-url" not in bot.headers


# webrtc


async def test_webrtc_is_named_in_the_agents_headers(worker: Worker, agent: Agent) -> None:
    reply = await worker.start("support", {"transport": "webrtc"})
    bot = await bot_of(agent)
    assert reply.body == {"sessionId": bot.session}
    assert bot.headers["x-daily-transport-type"] == "webrtc"


async def test_webrtc_has_ice_servers_on_request(worker: Worker, agent: Agent) -> None:
    reply = await worker.start("support", {"transport": "webrtc", "enableDefaultIceServers": True})
    assert reply.body["iceConfig"] == {"iceServers": [{"urls": ["stun:stun.l.google.com:19302"]}]}


TURN = ["turn:turn.example.com:3478?transport=udp", "turns:[2001:db8::1]:5349?transport=tcp"]


async def test_an_organisations_ice_servers_come_with_credentials_for_the_session(
    agent: Agent, port: AgentPort, tmp_path: Path
) -> None:
    servers = [
        {"urls": ["stun:stun.example.com"]},
        {"urls": TURN, "shared_secret": "north"},
        {"urls": TURN[:1], "username": "all", "credential": "aloud"},
    ]
    settings = tables(port.url, agent={"max_session_duration": 900}, acme={"ice_servers": servers})
    async with running_worker(tmp_path / "patchbay.db", settings) as worker:
        before = int(time.time())
        reply = await worker.start("support", {"transport": "webrtc", "enableDefaultIceServers": True})
        stun, own, shared = reply.body["iceConfig"]["iceServers"]
        (await bot_of(agent)).end()
    assert stun == {"urls": ["stun:stun.example.com"]}
    assert shared == {"urls": TURN[:1], "username": "all", "credential": "aloud"}
    until, _, session = own["username"].partition(":")
    assert session == reply.body["sessionId"]
    assert before + 900 <= int(until) <= int(time.time()) + 900
    digest = hmac.digest(b"north", own["username"].encode(), "sha1")  # as coturn checks it
    assert base64.b64decode(own["credential"]) == digest
    assert own["urls"] == TURN


async def test_other_transports_have_no_ice_servers(worker: Worker, agent: Agent) -> None:
    assert "iceConfig" not in (await worker.start("support", {"enableDefaultIceServers": True})).body


# Refusals


@pytest.mark.parametrize("key", [None, "pk_nobody", "sk_nobody", ""])
async def test_a_start_without_a_valid_key(worker: Worker, agent: Agent, key: str | None) -> None:
    assert_refused(await worker.start(key=key), 401, "PCC-1002")
    await assert_nothing_happened(worker, agent)


@pytest.mark.parametrize("name", ["nobody", "support.acme", "SUPPORT", "%2e%2e", "support%00", "s" * 500])
async def test_no_such_agent(worker: Worker, agent: Agent, name: str) -> None:
    reply = await worker.start(name)
    assert_refused(reply, 404)
    await assert_nothing_happened(worker, agent)


async def test_another_organisations_agent_is_404(worker: Worker, agent: Agent) -> None:
    unknown = await worker.start("nobody", key="pk_globex")
    others = await worker.start("support", key="pk_globex")
    assert_refused(others, 404)
    assert others.body == unknown.body
    await assert_nothing_happened(worker, agent)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"body": NaN}',
        b'{"body": 1e999}',
        b'{"body": 1, "body": 2}',
        b'{"body": "\xff"}',
        b'{"body": "\\ud800"}',
        b'{"body": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"createDailyRoom": "true"}',
        b'{"createDailyRoom": 1}',
        b'{"createDailyRoom": null}',
        b'{"dailyRoomProperties": []}',
        b'{"dailyMeetingTokenProperties": "x"}',
        b'{"enableDefaultIceServers": 0}',
        b'{"transport": "carrier-pigeon"}',
        b'{"transport": 1}',
        b'{"transport": "webrtc", "createDailyRoom": true}',
        b'{"transport": "websocket", "createDailyRoom": true}',
    ],
)
async def test_an_invalid_request_starts_nothing(worker: Worker, agent: Agent, raw: bytes) -> None:
    assert_refused(await worker.start(raw=raw), 400)
    await assert_nothing_happened(worker, agent)


async def test_a_body_is_at_most_a_million_bytes_of_json(worker: Worker, agent: Agent) -> None:
    fits = "x" * (1_000_000 - len('""'))
    assert_refused(await worker.start("support", {"body": fits + "x"}), 413)
    await assert_nothing_happened(worker, agent)

    assert (await worker.start("support", {"body": fits})).status == 200
    assert (await bot_of(agent)).json == fits


async def test_a_far_too_large_body_is_refused(worker: Worker, agent: Agent) -> None:
    assert_refused(await worker.start(raw=b" " * 2_000_000), 413)
    await assert_nothing_happened(worker, agent)


async def test_at_capacity(worker: Worker, agent: Agent) -> None:
    first = await worker.start()
    reply = await worker.start()
    assert reply.status == 429
    assert int(reply.headers["Retry-After"]) > 0
    assert reply.body["status"] == 429
    assert reply.body["code"] == "429"
    assert "PCC-AGENT-AT-CAPACITY" in reply.body["error"]
    assert reply.body["message"] == "Rate limit exceeded. Please try again later"
    assert [record.session_id for record in await worker.records()] == [first.body["sessionId"]]
    await bot_of(agent)
    assert agent.upgrades == 1


async def test_simultaneous_starts_succeed_while_there_are_slots(worker: Worker, agent: Agent) -> None:
    replies = await asyncio.gather(*(worker.start() for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [200] + [429] * 7
    await bot_of(agent)
    assert agent.upgrades == 1


async def test_not_ready(worker: Worker, agent_at: Callable[..., Any], port: AgentPort) -> None:
    gives_up_after(worker, 0.6)
    agent = await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Health.STARTING)
    assert_refused(await worker.start(), 400, "PCC-1001")
    assert agent.upgrades == 0
    await worker.assert_nothing_left()


async def test_an_agent_that_does_not_listen_is_502(worker: Worker) -> None:
    gives_up_after(worker, 0.6)
    assert_refused(await worker.start(), 502, "agent_unreachable")
    await worker.assert_nothing_left()


async def test_a_draining_gateway_starts_nothing(worker: Worker, agent: Agent) -> None:
    worker.services.active.draining = True
    reply = await worker.start()
    assert_refused(reply, 503, "draining")
    assert "Retry-After" in reply.headers
    await assert_nothing_happened(worker, agent)


async def test_no_other_method(worker: Worker) -> None:
    async with worker.http.get(
        f"http://127.0.0.1:{worker.port}/v1/public/support/start",
        headers={"Authorization": "Bearer pk_acme"},
    ) as answer:
        assert answer.status == 405
        assert json.loads(await answer.text())["code"] == "405"
