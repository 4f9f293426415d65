# SPDX-License-Identifier: BSD-2-Clause
"""The scripts of a worker share a connection; where it fails, a call still gets its slot, and only one."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.session import CallDetails, SlotLimits
from gateway.simulator.waiting import eventually
from gateway.store.redis import redis_client
from gateway.store.redis.redis_address import parse_redis_url
from gateway.store.redis.redis_client import RedisClient
from gateway.store.redis.redis_values import script
from tests.harness.certificates import issue_certificate
from tests.harness.redis_proxy import RedisProxy
from tests.harness.redis_server import RedisServer

NewCall = Callable[..., CallDetails]
OpenNode = Callable[..., Any]
NOW = 1000.0
COUNT = script("#!lua\nreturn redis.call('INCR', KEYS[1])")
SAY = script("#!lua\nreturn {ARGV[1], ARGV[2], 3}")
KEYS = ("{patchbay}:test",)


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[RedisClient]:
    """A client whose scripts share a connection already."""
    running = RedisClient(parse_redis_url(server.url()), close_s=0.1)
    await running.open()
    await eventually(lambda: running._shared._answers is not None, "the shared connection")
    yield running
    await running.close()


def scripts_run(server: RedisServer) -> int:
    """Return how many scripts the server has been asked for by their hashes."""
    line = next(each for each in server.ask("INFO commandstats").split() if "cmdstat_evalsha:" in each)
    return int(line.partition("calls=")[2].partition(",")[0])


async def test_many_calls_at_once_need_one_connection(server: RedisServer, client: RedisClient) -> None:
    before = server.ask("CLIENT LIST").count("name=patchbay ")
    numbers = await asyncio.gather(*(client.script(COUNT, KEYS, ()) for _ in range(500)))
    assert sorted(numbers) == list(range(1, 501))
    assert server.ask("CLIENT LIST").count("name=patchbay ") == before == 2  # the other pinged


async def test_each_call_gets_its_own_answer_whatever_the_others_do(client: RedisClient) -> None:
    async def ask(number: int) -> bool:
        asked = asyncio.create_task(client.script(SAY, KEYS, (f"call {number}", "Zoë")))
        if number % 3 == 0:
            await asyncio.sleep(0)
            asked.cancel()
        try:
            return bool(await asked == [f"call {number}", "Zoë", 3])
        except asyncio.CancelledError:
            return number % 3 == 0

    assert all(await asyncio.gather(*(ask(number) for number in range(300))))


async def test_what_the_server_refuses_is_asked_once_more_and_told(client: RedisClient) -> None:
    wrong = script("#!lua\nreturn redis.call('NOTHING', KEYS[1])")
    with pytest.raises(redis_client.StoreFailed, match=r"Unknown (Redis )?command"):
        await client.script(wrong, KEYS, ())
    assert await client.script(COUNT, KEYS, ()) == 1  # over the pool
    await eventually(lambda: _connects_again(client), "the shared connection")
    assert await client.script(COUNT, KEYS, ()) == 2


async def test_a_connection_that_is_lost_is_made_again(server: RedisServer, client: RedisClient) -> None:
    server.ask("CLIENT KILL TYPE normal")
    assert await client.script(COUNT, KEYS, ()) == 1
    await eventually(lambda: _connects_again(client), "the shared connection")
    assert await client.script(COUNT, KEYS, ()) == 2


async def test_a_call_that_no_answer_comes_to_asks_again(
    proxy: RedisProxy, open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits
) -> None:
    store = await open_node(proxy.url)
    await eventually(lambda: store._client._shared._answers is not None, "the shared connection")
    call = new_call()
    proxy.lose = call.session_id.encode()
    assert await store.admit(call, one_slot, NOW) == "http://127.0.0.1:8080"
    assert proxy.lost == 1
    assert (await store.counts()).total_active == 1


async def test_a_server_that_hangs_is_given_up_by_all_who_wait(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "SOCKET_S", 0.1)
    monkeypatch.setattr(redis_client, "BUDGET_S", 0.3)
    client = RedisClient(parse_redis_url(server.url()), close_s=0.1)
    await client.open()
    await eventually(lambda: client._shared._answers is not None, "the shared connection")
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    answers = await asyncio.gather(
        *(client.script(COUNT, KEYS, ()) for _ in range(10)), return_exceptions=True
    )
    assert all(isinstance(answer, redis_client.StoreFailed) for answer in answers)
    server.process.send_signal(signal.SIGCONT)
    await eventually(lambda: _connects_again(client), "the shared connection")
    assert isinstance(await client.script(COUNT, KEYS, ()), int)
    await client.close()


async def test_scripts_share_a_connection_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        tls_port = probe.getsockname()[1]
    server = RedisServer(
        *("--tls-port", str(tls_port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"),
    )
    try:
        url = f"rediss://localhost:{tls_port}/0"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        client = RedisClient(parse_redis_url(url), close_s=0.1)
        await client.open()
        await eventually(lambda: client._shared._answers is not None, "the shared connection")
        long = "x" * 200_000
        answers = await asyncio.gather(*(client.script(SAY, KEYS, (long, str(n))) for n in range(20)))
        assert answers == [[long, str(n), 3] for n in range(20)]
        assert scripts_run(server) >= 20
        await client.close()
    finally:
        server.stop()


def _connects_again(client: RedisClient) -> bool:
    client._shared.connect()
    return client._shared._answers is not None
