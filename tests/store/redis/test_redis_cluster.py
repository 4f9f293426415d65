# SPDX-License-Identifier: BSD-2-Clause
"""Every script on a server in cluster mode: it refuses keys that are not declared or are in other slots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from gateway.model.session import (
    CallDetails,
    PendingLimit,
    QueueLimit,
    ReleasedBy,
    SessionOptions,
    SessionResult,
    SlotLimits,
)
from gateway.store.history import ManagementCall, Removed
from gateway.store.interface import AtCapacity, Queued, SessionFilter, StoreFailed
from gateway.store.redis.redis_address import parse_redis_url
from gateway.store.redis.redis_store import RedisStore
from gateway.store.worker_id import WorkerId
from tests.harness.redis_server import RedisServer
from tests.harness.redis_topologies import Cluster, until
from tests.store.redis.conftest import settled

NOW = 1000.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    """One server that owns all slots."""
    server = RedisServer("--cluster-enabled", "yes")
    server.own_all_slots()
    yield server
    server.stop()


@pytest.fixture
async def node(cluster: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(parse_redis_url(cluster.url()), WorkerId("node", "machine", 1, 1), server_clock=False)
    await store.open()
    yield store
    await store.close()


async def test_a_life_of_sessions(
    node: RedisStore,
    cluster: RedisServer,
    new_call: Callable[..., CallDetails],
    one_slot: SlotLimits,
    hung_up: SessionResult,
    browser_options: SessionOptions,
) -> None:
    limits = replace(one_slot, queue=QueueLimit(3, NOW + 40))
    call, waits, expires = new_call(stream_id=None), new_call(), new_call()
    await node.heartbeat(NOW)
    await node.create_pending(expires, browser_options, NOW, NOW + 5, PendingLimit("public-0", 2))
    await node.admit(call, limits, NOW)
    with pytest.raises(Queued):
        await node.admit(waits, limits, NOW)
    await node.attach_stream(replace(call, stream_id="MZ1"), NOW)
    await node.move(call.session_id, limits)
    await node.mark_running(call.session_id, NOW + 1)
    await node.mark_resumed(call.session_id, 1)
    await node.correct_start_type(call.session_id, "cold")
    assert await node.request_stop(call.session_id, NOW + 2)
    assert await node.stop_requests() == [call.session_id]
    assert await node.complete(call.session_id, "[]", 1.0, None, NOW + 3)
    await node.begin_end(call.session_id, hung_up)
    assert [record.session_id for record in await node.ending()] == [call.session_id]
    await node.release(call.session_id, NOW + 70, ReleasedBy.READY)
    await node.leave_queue(waits.session_id)
    await node.reap(NOW + 10)
    _, total = await node.sessions(SessionFilter(organization="acme", active=False))
    assert total == 2

    lost = RedisStore(parse_redis_url(cluster.url()), WorkerId("lost", "elsewhere", 1, 1), server_clock=False)
    await lost.open()
    await lost.admit(new_call(), one_slot, NOW)
    await lost.close()
    for at in (0.0, 10.0, 20.0):
        await node.heartbeat(NOW + at)
    assert len(await node.reap(NOW + 20)) == 1

    await node.key_values.put("kind", "key", "1", now=NOW, expires_at=NOW + 1)
    await node.reap(NOW + 21)
    assert await node.key_values.list("kind", NOW) == ()
    await node.history.record_call(
        ManagementCall(NOW, "acme", "sk-1", "DELETE", "/v1/agents/a", 200, "r1", "::1")
    )
    assert await node.history.prune(NOW * 9, NOW * 9, 9) == Removed(3, 3, 1)
    (used,) = await node.history.usage("acme", 0, 0, NOW)
    assert used.sessions == 2


# Several masters


@pytest.fixture(scope="module")
def masters() -> Iterator[Cluster]:
    """Three masters, and a replica of the one that has the store's slot."""
    running = Cluster(masters=3, replicas=1)
    yield running
    running.stop()


@pytest.fixture
async def far_node(masters: Cluster) -> AsyncIterator[RedisStore]:
    """A store whose URL names two nodes that do not have it, one of which is gone for a while."""
    _, *others, _ = masters.nodes
    store = RedisStore(parse_redis_url(masters.url(*others)), WorkerId("node", "machine", 1, 1))
    await store.open()
    yield store
    await store.close()


async def test_calls_are_counted_while_their_slot_gets_another_master(
    masters: Cluster,
    far_node: RedisStore,
    new_call: Callable[..., CallDetails],
    one_slot: SlotLimits,
    hung_up: SessionResult,
) -> None:
    first, second, _, replica = masters.nodes
    await far_node.heartbeat(NOW)
    calls = [new_call(agent) for agent in ("support.acme", "sales.acme")]
    for call in calls:
        await far_node.admit(call, one_slot, NOW)
    assert far_node._client.locator.current == ("127.0.0.1", first.port)

    # Its master dies, and the replica is elected.
    until("it has caught up", lambda: first.run("WAIT", 1, 1000))
    first.kill()
    await settled(lambda: far_node.heartbeat(NOW))
    assert far_node._client.locator.current == ("127.0.0.1", replica.port)
    with pytest.raises(AtCapacity):
        await far_node.admit(new_call(), one_slot, NOW)

    # The slot moves, key by key, to another master.
    masters.start_to_move(replica, second)
    masters.move_keys(replica, second, most=3)
    with pytest.raises(StoreFailed, match="its slot is on the way"):
        await far_node.admit(new_call("other.acme"), one_slot, NOW)
    ended = far_node.end(calls[0].session_id, hung_up)
    masters.move_keys(replica, second)
    masters.end_move(replica, second)
    await ended
    await far_node.heartbeat(NOW)
    assert far_node._client.locator.current == ("127.0.0.1", second.port)
    with pytest.raises(AtCapacity):
        await far_node.admit(new_call("sales.acme"), one_slot, NOW)
    await far_node.admit(new_call(), one_slot, NOW)
    assert (await far_node.counts()).total_active == 2
    _, total = await far_node.sessions(SessionFilter(organization="acme", active=False))
    assert total == 1
