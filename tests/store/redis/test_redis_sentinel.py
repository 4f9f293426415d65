# SPDX-License-Identifier: BSD-2-Clause
"""A primary dies and its replica, which knows less, takes its place: calls are counted as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, StoreFailed
from gateway.store.redis.redis_address import RedisAddress, StorePasswords, parse_redis_url
from gateway.store.redis.redis_store import RedisStore
from gateway.store.worker_id import WorkerId
from tests.harness.redis_server import RedisServer
from tests.harness.redis_topologies import WatchedPair, freeze
from tests.store.redis.conftest import settled

NOW = 1000.0
PASSWORDS = StorePasswords(server="correct horse", sentinel="battery staple")


@pytest.fixture
def pair() -> Iterator[WatchedPair]:
    running = WatchedPair(password=PASSWORDS.server, sentinel_password=PASSWORDS.sentinel)
    yield running
    running.stop()


async def opened(address: RedisAddress, name: str) -> RedisStore:
    store = RedisStore(address, WorkerId(name, name, 1, 1), server_clock=False, close_s=0.1)
    await store.open()
    return store


async def test_calls_of_the_last_second_are_counted_after_a_fail_over(
    pair: WatchedPair, new_call: Callable[..., CallDetails], hung_up: SessionResult
) -> None:
    address = parse_redis_url(pair.url(), PASSWORDS)
    east, west = await opened(address, "east"), await opened(address, "west")
    limits = SlotLimits((("http://127.0.0.1:8080", 0),), 9, 9)
    full = SlotLimits(limits.instances, 2, 9)
    ends, runs, moves, comes, short = (new_call() for _ in range(5))
    for call in (ends, runs, moves):
        await east.admit(call, limits, NOW)
    for call in (ends, moves):
        await east.mark_running(call.session_id, NOW)
    for node in (east, west):
        await node.heartbeat(NOW)
    pair.first.run("WAIT", 1, 1000)

    # What follows is acknowledged, and lost.
    pair.part()
    await east.end(ends.session_id, hung_up)
    await east.mark_running(runs.session_id, NOW + 1)
    moved_to = await east.move(moves.session_id, SlotLimits((("http://127.0.0.1:7070", 0),), 2, 9))
    await east.admit(short, limits, NOW + 1)
    await east.begin_end(short.session_id, hung_up)
    await east.release(short.session_id, NOW + 2, None)
    await west.admit(comes, limits, NOW + 1)
    pair.first.kill()
    await asyncio.to_thread(pair.wait_for_primary, pair.second)
    freeze(pair.sentinels[0])
    for node in (east, west):
        await settled(lambda node=node: node.heartbeat(NOW + 3))
        await node.heartbeat(NOW + 6)

    assert east._client.locator.current == ("127.0.0.1", pair.second.port)
    records = {each: await west.session(each.session_id) for each in (ends, runs, moves, comes, short)}
    assert [(record.state, record.owner) for record in records.values() if record is not None] == [
        (SessionState.ENDED, "east"),
        (SessionState.RUNNING, "east"),
        (SessionState.RUNNING, "east"),
        (SessionState.STARTING, "west"),
        (SessionState.CANCELED, "east"),
    ]
    assert records[moves] is not None
    assert records[moves].instance == moved_to
    assert (await west.counts()).total_active == 3
    (used,) = await west.history.usage("acme", 0, 0, NOW)
    assert used.sessions == 2 + 3
    with pytest.raises(AtCapacity, match="3 of"):
        await west.admit(new_call(), full, NOW + 7)
    await west.admit(new_call(), limits, NOW + 7)

    for node in (east, west):
        await node.close()


class SentinelThatSays:
    """A Sentinel that says what a test wants, or nothing."""

    def __init__(self, primary: RedisServer, epoch: int) -> None:
        self.primary = primary
        self.epoch = epoch
        self.is_silent = False
        self.asked = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Return its port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        while data := await reader.read(65536):
            if self.is_silent:
                continue
            if b"SENTINEL" not in data:
                writer.write(b"+OK\r\n" * data.count(b"*"))  # the names of the client's library
                continue
            self.asked += 1
            values = "ip", "127.0.0.1", "port", str(self.primary.port), "config-epoch", str(self.epoch)
            answer = "".join(f"${len(each)}\r\n{each}\r\n" for each in values)
            writer.write(f"*{len(values)}\r\n{answer}".encode())
        writer.close()


@pytest.fixture
def other() -> Iterator[RedisServer]:
    """Another server, which is empty."""
    running = RedisServer()
    yield running
    running.stop()


@pytest.fixture
async def sentinels(server: RedisServer) -> AsyncIterator[list[SentinelThatSays]]:
    """Three that know the test's server as the primary."""
    yield (three := [SentinelThatSays(server, 1) for _ in range(3)])
    for each in three:
        await each.stop()


@pytest.fixture
async def node(sentinels: list[SentinelThatSays]) -> AsyncIterator[RedisStore]:
    """A store that asks the Sentinels."""
    hosts = ",".join([f"127.0.0.1:{await each.start()}" for each in sentinels])
    store = await opened(parse_redis_url(f"redis+sentinel://{hosts}/calls"), "node")
    yield store
    await store.close()


@pytest.mark.usefixtures("impatient")
async def test_a_primary_that_follows_another_is_left_for_the_one_that_sentinels_name(
    server: RedisServer,
    other: RedisServer,
    sentinels: list[SentinelThatSays],
    node: RedisStore,
    new_call: Callable[..., CallDetails],
    one_slot: SlotLimits,
) -> None:
    call = new_call()
    await node.admit(call, one_slot, NOW)
    server.run("REPLICAOF", "127.0.0.1", other.port)  # its connections stay: it answers READONLY
    with pytest.raises(StoreFailed, match=r"calls does not answer: .*is a replica"):
        await node.admit(new_call(), one_slot, NOW)
    for each in sentinels:
        each.primary, each.epoch = other, 2
    await node.heartbeat(NOW)
    with pytest.raises(AtCapacity):  # its call came with it
        await node.admit(new_call(), one_slot, NOW)
    assert "role:master" in other.text("INFO", "replication")


async def test_a_sentinel_that_is_cut_off_leads_nobody_to_the_old_primary(
    server: RedisServer, other: RedisServer, sentinels: list[SentinelThatSays], node: RedisStore
) -> None:
    await node.heartbeat(NOW)
    for each in sentinels[1:]:
        each.primary, each.epoch = other, 2
    await node._client.relocate()
    await node.heartbeat(NOW)
    assert node._client.locator.current == ("127.0.0.1", other.port)
    sentinels[1].is_silent = True  # of three one says the old, one the new, one nothing
    await node._client.relocate()
    await node.heartbeat(NOW)
    assert node._client.locator.current == ("127.0.0.1", other.port)


@pytest.mark.usefixtures("impatient")
async def test_one_sentinel_that_answers_is_enough(
    server: RedisServer, sentinels: list[SentinelThatSays], node: RedisStore
) -> None:
    for each in sentinels[:2]:
        each.is_silent = True
    await node._client.relocate()
    await node.heartbeat(NOW)
    sentinels[2].is_silent = True
    await node._client.relocate()
    with pytest.raises(StoreFailed, match="no Sentinel answers"):
        await node.heartbeat(NOW)


async def test_a_server_that_becomes_a_replica_is_left(
    server: RedisServer,
    other: RedisServer,
    open_node: Callable[..., Any],
    new_call: Callable[..., CallDetails],
    one_slot: SlotLimits,
) -> None:
    store = await open_node()
    await store.heartbeat(NOW)
    server.run("REPLICAOF", "127.0.0.1", other.port)
    with pytest.raises(StoreFailed, match="is a replica"):
        await store.admit(new_call(), one_slot, NOW)
    server.run("REPLICAOF", "NO", "ONE")
    await store.admit(new_call(), one_slot, NOW)


@pytest.mark.usefixtures("impatient")
async def test_a_primary_whose_replicas_are_gone_takes_no_writes(
    server: RedisServer,
    other: RedisServer,
    sentinels: list[SentinelThatSays],
    node: RedisStore,
    new_call: Callable[..., CallDetails],
    one_slot: SlotLimits,
) -> None:
    """`min-replicas-to-write`: while a network is divided, what it acknowledged would be lost."""
    await node.heartbeat(NOW)
    server.run("CONFIG", "SET", "min-replicas-to-write", "1")
    with pytest.raises(StoreFailed, match="NOREPLICAS"):
        await node.admit(new_call(), one_slot, NOW)
    for each in sentinels:
        each.primary, each.epoch = other, 2
    await node.admit(new_call(), one_slot, NOW)
