# SPDX-License-Identifier: BSD-2-Clause
"""`Idempotency-Key`: one start for repeated requests, on any worker."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.api.framework.errors import ApiError
from gateway.api.framework.idempotency import (
    ANSWER_LIFETIME_S,
    DOCUMENT_KIND,
    RUNNING_S,
    IdempotentRequest,
    decrypt,
    encrypt,
    fingerprint_of,
    run_once,
)
from gateway.api.framework.operation import Answer
from gateway.store.interface import StoreFailed
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import answer_of, answers_with, bot_of, holds
from tests.harness.daily_server import API_KEY, DailyServer
from tests.harness.start_api import Worker, running_worker, tables

KEY = {"Idempotency_Key": "order-4711"}


@pytest.fixture
async def daily() -> AsyncIterator[DailyServer]:
    server = await DailyServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def workers(tmp_path: Path, port: AgentPort, daily: DailyServer) -> AsyncIterator[list[Worker]]:
    """Two workers on one store; the agent has places enough."""
    settings = tables(
        port.url,
        agent={"sessions_per_instance": 50},
        acme={"daily": {"api_key": API_KEY, "api_url": daily.api_url}},
    )
    settings["agents"].append({"name": "sales", "organization": "acme", "instances": [port.url]})
    settings["agents"].append({"name": "support", "organization": "globex", "instances": [port.url]})
    file = tmp_path / "patchbay.db"
    async with running_worker(file, settings) as one, running_worker(file, settings) as other:
        yield [one, other]


async def test_a_repeated_request_gets_the_same_answer_and_starts_once(
    workers: list[Worker], agent: Agent
) -> None:
    one, other = workers
    first = await one.start("support", {"body": {"a": 1}}, **KEY)
    for worker in (one, other, one):
        again = await worker.start("support", {"body": {"a": 1}}, **KEY)
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert (await bot_of(agent)).session == first.body["sessionId"]
    assert agent.upgrades == 1
    assert len(await one.records()) == 1


async def test_the_answer_is_repeated_after_the_session(workers: list[Worker], agent: Agent) -> None:
    one, other = workers
    first = await one.start(**KEY)
    (await bot_of(agent)).end()
    await one.over(first.body["sessionId"])
    assert (await other.start(**KEY)).body == first.body


async def test_a_room_is_created_once(workers: list[Worker], agent: Agent, daily: DailyServer) -> None:
    one, other = workers
    first = await one.start("support", {"createDailyRoom": True}, **KEY)
    assert (await other.start("support", {"createDailyRoom": True}, **KEY)).body == first.body
    assert len(daily.rooms) == 1


async def test_a_key_is_for_one_request(workers: list[Worker], agent: Agent) -> None:
    one, other = workers
    await one.start("support", {"body": 1}, **KEY)
    for reply in (
        await other.start("support", {"body": 2}, **KEY),
        await other.start("sales", {"body": 1}, **KEY),
    ):
        assert (reply.status, reply.body["code"]) == (409, "409")
        assert "another request" in reply.body["error"]
    await bot_of(agent)
    assert agent.upgrades == 1


async def test_organisations_do_not_share_keys(workers: list[Worker], agent: Agent) -> None:
    one, _ = workers
    first = await one.start(**KEY)
    other = await one.start(key="pk_globex", **KEY)
    assert other.status == 200
    assert other.body != first.body


async def test_keys_of_an_organisation_share_the_idempotency_key(workers: list[Worker], agent: Agent) -> None:
    one, _ = workers
    first = await one.start(**KEY)
    assert (await one.start(key="sk_acme", **KEY)).body == first.body


async def test_without_a_key_each_request_starts(workers: list[Worker], agent: Agent) -> None:
    one, _ = workers
    for _ in range(2):
        await one.start()
        await bot_of(agent)
    assert agent.upgrades == 2


async def test_a_failure_is_not_stored(
    workers: list[Worker], agent_at: Callable[..., Any], port: AgentPort
) -> None:
    one, other = workers
    agent = await agent_at(port, answers_with(answer_of(500)))
    assert (await one.start(**KEY)).status == 502
    agent.answer = holds
    assert (await other.start(**KEY)).status == 200
    await bot_of(agent)
    assert agent.upgrades == 2


async def test_while_the_first_runs_the_second_is_409(
    workers: list[Worker], agent: Agent, daily: DailyServer
) -> None:
    one, other = workers
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(server: DailyServer, request: Any, act: Callable[[], Any]) -> Any:
        arrived.set()
        await go_on.wait()
        return act()

    daily.next("create_room", slow)
    running = asyncio.create_task(one.start("support", {"createDailyRoom": True}, **KEY))
    await arrived.wait()
    reply = await other.start("support", {"createDailyRoom": True}, **KEY)
    assert (reply.status, reply.body["code"]) == (409, "409")
    assert "still running" in reply.body["error"]
    assert "Retry-After" in reply.headers
    go_on.set()
    first = await running
    assert first.status == 200
    assert (await other.start("support", {"createDailyRoom": True}, **KEY)).body == first.body


async def test_of_many_simultaneous_requests_one_starts(workers: list[Worker], agent: Agent) -> None:
    replies = await asyncio.gather(*(worker.start(**KEY) for worker in workers * 5))
    await bot_of(agent)
    assert agent.upgrades == 1
    assert {reply.status for reply in replies} <= {200, 409}
    assert len({reply.body["sessionId"] for reply in replies if reply.status == 200}) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "schlüssel"])
async def test_a_malformed_key_is_400(workers: list[Worker], agent: Agent, key: str) -> None:
    reply = await workers[0].start(Idempotency_Key=key)
    assert (reply.status, reply.body["code"]) == (400, "400")
    assert agent.upgrades == 0


# What tells it from a cache: time, and workers that die


async def document_of(worker: Worker) -> Any:
    (document,) = await worker.store.key_values.list(DOCUMENT_KIND, worker.services.calls.now())
    return document


async def test_an_answer_is_stored_for_a_day(workers: list[Worker], agent: Agent) -> None:
    one, _ = workers
    before = one.services.calls.now()
    await one.start(**KEY)
    document = await document_of(one)
    assert before + ANSWER_LIFETIME_S <= document.expires_at <= one.services.calls.now() + ANSWER_LIFETIME_S
    assert "order-4711" not in document.key


async def test_a_stored_answer_cannot_be_read_without_the_key(workers: list[Worker], agent: Agent) -> None:
    """A token would lie in the store, and in its copies, for a day."""
    one, other = workers
    first = await one.start("support", {"transport": "websocket"}, **KEY)
    kept = (await document_of(one)).value
    assert kept.isascii()
    for secret in (first.body["token"], first.body["sessionId"], "order-4711"):
        assert secret not in kept
        assert base64.b64encode(secret.encode()).decode()[:8] not in kept
    assert (await other.start("support", {"transport": "websocket"}, **KEY)).body == first.body


def test_equal_answers_are_encrypted_differently() -> None:
    secret = bytes(32)
    first, second = encrypt('{"a": "é"}', secret), encrypt('{"a": "é"}', secret)
    assert first != second
    assert decrypt(first, secret) == decrypt(second, secret) == '{"a": "é"}'


def test_an_answer_with_a_changed_byte_does_not_decrypt() -> None:
    secret = bytes(range(32))
    raw = base64.b64decode(encrypt('{"status": 200}', secret))
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1
        with pytest.raises(StoreFailed, match="does not decrypt"):
            decrypt(base64.b64encode(changed).decode(), secret)
    with pytest.raises(StoreFailed, match="does not decrypt"):
        decrypt(base64.b64encode(raw).decode(), bytes(32))


async def test_a_client_gets_no_answer_that_was_changed_in_the_store(
    workers: list[Worker], agent: Agent
) -> None:
    first, second = workers
    await first.start(**KEY)
    document = await document_of(first)
    record = json.loads(document.value)
    raw = bytearray(base64.b64decode(record["answer"]))
    raw[20] ^= 1
    record["answer"] = base64.b64encode(raw).decode()
    await first.store.key_values.put(
        DOCUMENT_KIND,
        document.key,
        json.dumps(record),
        now=first.services.calls.now(),
        expires_at=document.expires_at,
    )
    reply = await second.start(**KEY)
    assert (reply.status, reply.body["code"]) == (503, "store_failed")
    await bot_of(agent)
    assert agent.upgrades == 1


async def test_a_worker_that_dies_frees_the_key_soon(workers: list[Worker]) -> None:
    one, _ = workers
    seen: list[float] = []

    async def work() -> Answer:
        seen.append((await document_of(one)).expires_at - one.services.calls.now())
        raise ApiError(502, "502", "the agent is gone")

    with pytest.raises(ApiError):
        await run_once(one.services, IdempotentRequest("acme", "key", fingerprint_of(b"1")), work)
    assert seen[0] <= one.services.calls.settings.limits.agent_connect_timeout + RUNNING_S
    assert await one.store.key_values.list(DOCUMENT_KIND, one.services.calls.now()) == ()


async def test_a_start_is_answered_although_its_answer_cannot_be_stored(workers: list[Worker]) -> None:
    one, _ = workers

    async def work() -> Answer:
        await one.store.close()
        return Answer(200, {"sessionId": "1"})

    answer = await run_once(one.services, IdempotentRequest("acme", "key", fingerprint_of(b"1")), work)
    assert answer.body == {"sessionId": "1"}


async def test_nothing_starts_while_the_store_does_not_answer(workers: list[Worker]) -> None:
    one, _ = workers
    await one.store.close()

    async def work() -> Answer:
        raise AssertionError("it was done")

    with pytest.raises(StoreFailed):
        await run_once(one.services, IdempotentRequest("acme", "key", fingerprint_of(b"1")), work)


def test_a_fingerprint_keeps_its_parts_apart() -> None:
    assert fingerprint_of(b"a", b"bc") != fingerprint_of(b"ab", b"c")
