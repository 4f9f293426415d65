# SPDX-License-Identifier: BSD-2-Clause
"""Redis servers that tests stop, start and freeze, behind a proxy where replies are to be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S
from gateway.store.interface import StoreFailed
from gateway.store.redis import redis_client, redis_end_scripts, redis_locator, redis_scripts
from gateway.store.redis.redis_address import parse_redis_url
from gateway.store.redis.redis_store import RedisStore
from gateway.store.worker_id import WorkerId
from tests.harness.redis_proxy import RedisProxy
from tests.harness.redis_server import RedisServer


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    running = RedisServer()
    yield running
    running.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs is given up soon."""
    monkeypatch.setattr(redis_client, "BUDGET_S", 0.4)
    monkeypatch.setattr(redis_client, "SOCKET_S", 0.2)
    monkeypatch.setattr(redis_locator, "ASK_S", 0.1)


async def settled(step: Callable[[], Any]) -> Any:
    """Do a step again until the store answers."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await step()
            except StoreFailed:
                await asyncio.sleep(0.05)


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[RedisProxy]:
    """A proxy before the test's server, which knows the scripts already: each reply is of their work."""
    for text in (*vars(redis_scripts).values(), *vars(redis_end_scripts).values()):
        if isinstance(text, str) and text.startswith("#!lua") and "return" in text:
            server.load(text)
    running = RedisProxy(server.port)
    yield running
    running.stop()


@pytest.fixture
async def open_node(server: RedisServer) -> AsyncIterator[Callable[..., Any]]:
    """Open a store as the worker of one more machine, "node-0" first; all are closed in the end."""
    opened: list[RedisStore] = []

    async def open_one(url: str = "", **options: Any) -> RedisStore:
        name = f"node-{len(opened)}"
        worker = WorkerId(name, f"machine-{len(opened)}", 1, 1)
        store = RedisStore(
            parse_redis_url(url or server.url()), worker, **{"close_s": 0.1, "server_clock": False, **options}
        )
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()
