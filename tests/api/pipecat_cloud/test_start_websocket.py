# SPDX-License-Identifier: BSD-2-Clause
"""Starts for a media socket: a promise and a token, and no agent yet (docs/reference/public-api.md,
"Start").
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.calls.session_start import media_url
from gateway.config import Settings
from gateway.model.lifecycle import SessionState
from tests.harness.agent import Agent, AgentPort
from tests.harness.start_api import Worker, running_worker, tables
from tests.harness.token_use import redeem

PUBLIC = "https://voice.example.com"


@pytest.fixture
async def worker(tmp_path: Path, port: AgentPort, agent: Agent) -> AsyncIterator[Worker]:
    settings = tables(
        port.url, agent={"websocket_auth": "token", "region": "eu-central"}, server={"public_url": PUBLIC}
    )
    async with running_worker(tmp_path / "patchbay.db", settings) as one:
        yield one


async def test_a_socket_is_promised_and_no_agent_starts(worker: Worker, agent: Agent) -> None:
    before = worker.services.calls.now()
    reply = await worker.start("support", {"transport": "websocket"})

    assert reply.status == 200
    assert set(reply.body) == {"wsUrl", "token", "sessionId"}
    assert reply.body["wsUrl"] == "wss://eu-central.voice.example.com/ws/generic/support.acme"
    assert agent.upgrades == 0
    record = await worker.store.session(reply.body["sessionId"])
    assert record is not None
    assert (record.state, record.transport) == (SessionState.CREATED, "websocket")
    assert record.promised_until is not None
    assert 300 <= record.promised_until - before < 330
    assert worker.bots.running == 0


async def test_the_token_opens_the_session_that_was_promised(worker: Worker) -> None:
    reply = await worker.start("support", {"transport": "websocket"})
    redeemed = await redeem(worker.services.calls.tokens, reply.body["token"], "support.acme", "acme")
    assert redeemed.session_id == reply.body["sessionId"]


async def test_the_body_comes_back_for_the_query_and_the_token_is_bound_to_it(worker: Worker) -> None:
    body = {"name": "Zoë", "numbers": [1, 2.5]}
    reply = await worker.start("support", {"transport": "websocket", "body": body})
    assert json.loads(base64.b64decode(reply.body["body"], validate=True)) == body
    redeemed = await redeem(worker.services.calls.tokens, reply.body["token"], "support.acme", "acme")
    assert redeemed.allows(reply.body["body"])
    assert not redeemed.allows(base64.b64encode(b'{"name":"Eve"}').decode())
    assert not redeemed.allows(None)


async def test_a_key_has_so_many_sessions_without_a_socket(
    tmp_path: Path, port: AgentPort, agent: Agent
) -> None:
    settings = tables(port.url, agent={"websocket_auth": "token"}, limits={"pending_per_key": 2})
    async with running_worker(tmp_path / "patchbay.db", settings) as worker:
        for _ in range(2):
            assert (await worker.start("support", {"transport": "websocket"})).status == 200
        reply = await worker.start("support", {"transport": "websocket"})
        assert (reply.status, reply.body["code"], reply.headers["Retry-After"]) == (429, "429", "1")
        assert reply.body["error"] == "2 sessions of this key wait for their media socket; it may have 2"
        assert len(await worker.records()) == 2
        # Whoever has the operator's own key is not refused for what strangers did with the public one.
        assert (await worker.start("support", {"transport": "websocket"}, key="sk_acme")).status == 200
        record = (await worker.records())[-1]
        assert await worker.store.request_stop(record.session_id, worker.services.calls.now())
        assert (await worker.start("support", {"transport": "websocket"})).status == 200


async def test_a_socket_carries_4096_bytes_of_json(worker: Worker) -> None:
    fits = "x" * (4096 - len('""'))
    reply = await worker.start("support", {"transport": "websocket", "body": fits + "x"})
    assert (reply.status, reply.body["code"]) == (413, "413")
    assert await worker.records() == []
    assert (await worker.start("support", {"transport": "websocket", "body": fits})).status == 200


async def test_a_pending_session_holds_no_slot(worker: Worker) -> None:
    for _ in range(3):
        assert (await worker.start("support", {"transport": "websocket"})).status == 200
    assert (await worker.start()).status == 200


async def test_without_tokens_a_body_has_no_way_to_the_agent(
    port: AgentPort, agent: Agent, tmp_path: Path
) -> None:
    async with running_worker(tmp_path / "other.db", tables(port.url)) as worker:
        reply = await worker.start("support", {"transport": "websocket", "body": {}})
        assert (reply.status, reply.body["code"]) == (400, "400")
        assert "websocket_auth" in reply.body["error"]
        assert await worker.records() == []
        reply = await worker.start("support", {"transport": "websocket"}, Host="elsewhere.test")
        assert reply.body["wsUrl"] == f"ws://127.0.0.1:{worker.port}/ws/generic/support.acme"


@pytest.mark.parametrize(
    ("public_url", "url"),
    [
        ("https://voice.example.com", "wss://us-east.voice.example.com/ws/generic/support.acme"),
        ("http://voice.example.com:8080", "ws://us-east.voice.example.com:8080/ws/generic/support.acme"),
        ("https://example.com/edge", "wss://us-east.example.com/edge/ws/generic/support.acme"),
        ("https://us-west.example.com", "wss://us-east.example.com/ws/generic/support.acme"),
        ("http://localhost:7860", "ws://us-east.localhost:7860/ws/generic/support.acme"),
        ("http://192.0.2.1:7860", "ws://192.0.2.1:7860/ws/generic/support.acme"),
        ("https://[2001:db8::1]", "wss://[2001:db8::1]/ws/generic/support.acme"),
    ],
)
def test_the_url_is_the_public_one_in_the_agents_region(public_url: str, url: str) -> None:
    settings = Settings.model_validate(
        tables("http://127.0.0.1:8080", agent={"region": "us-east"}, server={"public_url": public_url})
    )
    assert media_url(settings, settings.agents[0], ("127.0.0.1", 7860)) == url


@pytest.mark.parametrize(
    ("address", "host"),
    [(("127.0.0.1", 4711), "127.0.0.1:4711"), (("::1", 4711), "[::1]:4711"), (None, "127.0.0.1:7860")],
)
def test_without_a_public_url_it_is_where_the_caller_reached_us(
    address: tuple[str, int] | None, host: str
) -> None:
    settings = Settings.model_validate(tables("http://127.0.0.1:8080"))
    assert media_url(settings, settings.agents[0], address) == f"ws://{host}/ws/generic/support.acme"
