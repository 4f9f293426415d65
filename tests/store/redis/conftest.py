# SPDX-License-Identifier: BSD-2-Clause
"""Redis servers that tests stop, start and freeze, and a proxy that loses replies."""

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


class LosingProxy:
    """Passes bytes on to a server. Once told, it lets a command through and cuts off what is answered."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self.lose: bytes | None = None
        """The next command that contains these bytes is executed, and its reply lost."""
        self.lost = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        answers = asyncio.create_task(_copy(from_server, writer))
        try:
            while data := await reader.read(65536):
                if self.lose is not None and self.lose in data:
                    self.lose = None
                    self.lost += 1
                    answers.cancel()
                    to_server.write(data)
                    await from_server.read(65536)  # it is done
                    break
                to_server.write(data)
        finally:
            answers.cancel()
            writer.close()
            to_server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[LosingProxy]:
    """A proxy before the test's server, which knows the scripts already: each reply is of their work."""
    for text in (*vars(redis_scripts).values(), *vars(redis_end_scripts).values()):
        if isinstance(text, str) and text.startswith("#!lua") and "return" in text:
            server.load(text)
    running = LosingProxy(server.port)
    await running.start()
    yield running
    await running.stop()


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
