# SPDX-License-Identifier: BSD-2-Clause
"""Redis loses replies, refuses, hangs, and comes back empty; nothing is counted twice, and calls go on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, QueueLimit, SessionOptions, SessionResult, SlotLimits
from gateway.simulator.waiting import WAIT_S, eventually
from gateway.store.interface import AtCapacity, Queued, SessionFilter, StoreFailed
from gateway.store.notifications import Topic
from gateway.store.redis.redis_address import parse_redis_url
from gateway.store.redis.redis_store import RedisStore
from gateway.store.worker_id import STALE_S, WorkerId
from tests.harness.redis_proxy import RedisProxy
from tests.harness.redis_server import RedisServer

NewCall = Callable[..., CallDetails]
OpenNode = Callable[..., Any]
NOW = 1000.0


async def slots_in_use(store: RedisStore) -> int:
    return (await store.counts()).total_active


# A reply that is lost


async def test_a_call_whose_admission_was_answered_to_nobody_has_one_slot(
    proxy: RedisProxy, open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits
) -> None:
    store = await open_node(proxy.url)
    call = new_call()
    proxy.lose = call.session_id.encode()
    assert await store.admit(call, one_slot, NOW) == "http://127.0.0.1:8080"
    assert proxy.lost == 1
    assert await slots_in_use(store) == 1
    with pytest.raises(AtCapacity, match="1 of 1"):
        await store.admit(new_call(), one_slot, NOW)


async def test_a_call_keeps_its_number_in_the_queue(
    proxy: RedisProxy, open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits
) -> None:
    store = await open_node(proxy.url)
    limits = replace(one_slot, queue=QueueLimit(1, NOW + 40))
    await store.admit(new_call(), limits, NOW)
    waits = new_call()
    proxy.lose = waits.session_id.encode()
    with pytest.raises(Queued):
        await store.admit(waits, limits, NOW)
    with pytest.raises(AtCapacity) as full:
        await store.admit(new_call(), limits, NOW)
    assert not isinstance(full.value, Queued)


async def test_a_token_whose_use_was_answered_to_nobody_was_used_by_its_caller(
    proxy: RedisProxy, open_node: OpenNode
) -> None:
    store = await open_node(proxy.url)
    proxy.lose = b"nonce-4711"
    assert await store.key_values.put_if_absent("nonce", "nonce-4711", "1", now=NOW, expires_at=NOW + 60)
    assert proxy.lost == 1
    assert not await store.key_values.put_if_absent("nonce", "nonce-4711", "1", now=NOW)


async def test_every_step_may_be_repeated(
    proxy: RedisProxy,
    open_node: OpenNode,
    new_call: NewCall,
    one_slot: SlotLimits,
    hung_up: SessionResult,
    browser_options: SessionOptions,
) -> None:
    store = await open_node(proxy.url)
    call, pending = new_call(stream_id=None), new_call("sales.acme")
    call_id, pending_id = call.session_id.encode(), pending.session_id.encode()

    async def repeated(lose: bytes, step: Any) -> Any:
        proxy.lose = lose
        answer = await step
        assert proxy.lose is None
        return answer

    await repeated(pending_id, store.create_pending(pending, browser_options, NOW, NOW + 300))
    await repeated(call_id, store.admit(call, one_slot, NOW))
    assert await repeated(call_id, store.attach_stream(replace(call, stream_id="MZ1"), NOW))
    moved = SlotLimits((("http://127.0.0.1:9090", 0),), 1, 9)
    assert await repeated(call_id, store.move(call.session_id, moved)) == "http://127.0.0.1:9090"
    await repeated(call_id, store.mark_running(call.session_id, NOW + 1))
    assert await repeated(call_id, store.complete(call.session_id, "[]", 1.0, None, NOW + 2))
    assert await repeated(pending_id, store.request_stop(pending.session_id, NOW + 3))
    await repeated(call_id, store.end(call.session_id, hung_up))
    counts = await store.counts()
    assert counts.total_active == 0
    assert {state.value: number for state, number in counts.over.items() if number} == {
        "ended": 1,
        "canceled": 1,
    }
    (used,) = await store.history.usage("acme", 0, 0, NOW)
    assert (used.sessions, used.seconds) == (1, hung_up.ended_at - NOW)


async def test_arrivals_with_lost_replies_fill_exactly_the_slots(
    proxy: RedisProxy, open_node: OpenNode, new_call: NewCall
) -> None:
    nodes = [await open_node(proxy.url) for _ in range(3)]
    limits = SlotLimits(tuple((f"http://127.0.0.1:{9000 + n}", 0) for n in range(60)), 1, 50)

    async def arrive(number: int) -> bool:
        call = new_call()
        if number % 10 == 0:
            proxy.lose = call.session_id.encode()
        try:
            await nodes[number % 3].admit(call, limits, NOW)
        except AtCapacity:
            return False
        return True

    admitted = await asyncio.gather(*(arrive(number) for number in range(150)))
    assert sum(admitted) == 50
    assert await slots_in_use(nodes[0]) == 50


# A server that is gone, hangs or forgets


async def test_what_is_owed_to_a_server_that_is_gone_is_written_when_it_is_back(
    server: RedisServer,
    open_node: OpenNode,
    new_call: NewCall,
    one_slot: SlotLimits,
    hung_up: SessionResult,
) -> None:
    store = await open_node()
    call = new_call()
    await store.admit(call, one_slot, NOW)
    server.kill()
    with pytest.raises(StoreFailed, match=r"redis://127\.0\.0\.1:[0-9]+/0 does not answer"):
        await store.admit(new_call(), one_slot, NOW)
    running = store.mark_running(call.session_id, NOW + 1)
    await eventually(lambda: store.failing, "the write has failed once")
    assert store.pending_writes >= 1
    server.start()
    async with asyncio.timeout(WAIT_S):
        await running
    await store.heartbeat(NOW)  # the server has lost everything
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.owner) == (SessionState.RUNNING, "node-0")
    assert not store.failing
    await store.end(call.session_id, hung_up)
    assert (await store.counts()).over[SessionState.ENDED] == 1


async def test_calls_are_counted_again_after_a_restart_without_data(
    server: RedisServer, open_node: OpenNode, new_call: NewCall, hung_up: SessionResult
) -> None:
    east, west = await open_node(), await open_node()
    limits = SlotLimits((("http://127.0.0.1:8080", 0),), 3, 1)
    calls = [new_call() for _ in range(3)]
    for node, call in zip((east, west, west), calls, strict=True):
        await node.admit(call, limits, NOW)
        await node.mark_running(call.session_id, NOW + 1)
    server.kill()
    server.start()
    for node in (east, west):
        await node.heartbeat(NOW + 5)
        await node.heartbeat(NOW + 6)
    with pytest.raises(AtCapacity, match="3 of 3"):
        await east.admit(new_call(), limits, NOW + 7)
    assert (await east.counts()).active[SessionState.RUNNING] == 3
    await west.end(calls[1].session_id, hung_up)
    await east.admit(new_call(), limits, NOW + 8)


async def test_a_call_that_another_worker_has_attached_is_not_written_again_by_the_one_that_dialled(
    server: RedisServer, open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    east, west = await open_node(), await open_node()
    dialled, own = new_call(stream_id=None), new_call("sales.acme", stream_id=None)
    for call in (dialled, own):
        await east.admit(call, one_slot, NOW)
    await west.attach_stream(replace(dialled, stream_id="MZ1"), NOW)
    await east.attach_stream(replace(own, stream_id="MZ2"), NOW)
    for call in (dialled, own):
        east.forget_attached(call.session_id)
    await west.end(dialled.session_id, hung_up)
    await west.close()
    server.kill()
    server.start()
    await east.heartbeat(NOW + 5)
    await east.heartbeat(NOW + 6)
    active, _ = await east.sessions(SessionFilter(active=True))
    assert [(one.session_id, one.owner) for one in active] == [(own.session_id, "node-0")]


async def test_calls_are_counted_again_though_a_new_call_comes_first(
    server: RedisServer, open_node: OpenNode, new_call: NewCall
) -> None:
    """The new call makes the worker known to the server before its heartbeat does."""
    store = await open_node()
    limits = SlotLimits((("http://127.0.0.1:8080", 0),), 3, 1)
    await store.heartbeat(NOW)
    for _ in range(2):
        await store.admit(new_call(), limits, NOW)
    server.kill()
    server.start()
    await store.admit(new_call(), limits, NOW + 1)
    await store.heartbeat(NOW + 3)
    assert await slots_in_use(store) == 3
    with pytest.raises(AtCapacity, match="3 of 3"):
        await store.admit(new_call(), limits, NOW + 4)


async def test_a_session_that_is_ending_leaves_no_slot_taken_after_a_restart_without_data(
    server: RedisServer, open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_node()
    await store.heartbeat(NOW)
    call = new_call()
    await store.admit(call, one_slot, NOW)
    await store.mark_running(call.session_id, NOW + 1)
    await store.begin_end(call.session_id, hung_up)
    server.kill()
    server.start()
    await store.heartbeat(NOW + 3)
    await store.release(call.session_id, NOW + 70, None)
    assert await slots_in_use(store) == 0
    await store.admit(new_call(), one_slot, NOW + 71)


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "compared"])
async def test_a_session_that_another_worker_ended_does_not_come_back(
    server: RedisServer, open_node: OpenNode, new_call: NewCall, hung_up: SessionResult, is_read: bool
) -> None:
    east, west = await open_node(), await open_node()
    call = new_call()
    await east.admit(call, SlotLimits((("http://127.0.0.1:8080", 0),), 3, 1), NOW)
    await east.heartbeat(NOW)
    await west.end(call.session_id, hung_up)
    if is_read:  # as whoever waits for the end does
        await east.session(call.session_id)
    else:
        east._client.locator.connected += 1
        await east.heartbeat(NOW + 3)
    server.kill()
    server.start()
    await east.heartbeat(NOW + 6)
    assert await slots_in_use(east) == 0


async def test_a_call_whose_worker_was_taken_for_dead_goes_on(
    open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    cut_off, other = await open_node(), await open_node()
    call = new_call()
    await cut_off.admit(call, one_slot, NOW)
    await cut_off.mark_running(call.session_id, NOW + 1)
    for at in (0.0, 10.0, 20.0):
        await other.heartbeat(NOW + at)
    assert len(await other.reap(NOW + 20)) == 1
    await cut_off.heartbeat(NOW + 21)
    record = await other.session(call.session_id)
    assert record is not None
    assert (record.state, record.reason, record.ended_at) == (SessionState.RUNNING, None, None)
    with pytest.raises(AtCapacity):
        await other.admit(new_call(), one_slot, NOW + 22)
    await cut_off.end(call.session_id, hung_up)
    record = await other.session(call.session_id)
    assert record is not None
    assert (record.state, record.reason) == (SessionState.ENDED, "caller_hangup")
    counts = await other.counts()
    assert (counts.total_active, counts.over[SessionState.FAILED]) == (0, 0)
    (used,) = await other.history.usage("acme", 0, 0, NOW + 99)
    assert (used.sessions, used.seconds) == (1, hung_up.ended_at - NOW)


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_hangs_refuses_calls_and_keeps_no_slot(
    server: RedisServer, open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits
) -> None:
    store = await open_node()
    await store.counts()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreFailed):
            await store.admit(new_call(), one_slot, NOW)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    async with asyncio.timeout(WAIT_S):
        while store.pending_writes or store.failing:
            await asyncio.sleep(0.01)
    await store.admit(new_call(), one_slot, NOW)  # what was cut off was withdrawn
    assert await slots_in_use(store) == 1


async def test_a_full_server_refuses_calls_and_lets_calls_end(
    server: RedisServer, open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    store = await open_node()
    call = new_call()
    await store.admit(call, one_slot, NOW)
    await store._client.run("config_set", "maxmemory", "1")
    with pytest.raises(StoreFailed, match="memory"):
        await store.key_values.put("kind", "key", "value", now=NOW)
    for step in (
        store.admit(new_call(), one_slot, NOW),
        store.create_pending(new_call(), SessionOptions("websocket"), NOW, NOW + 300),
    ):
        with pytest.raises(StoreFailed, match="memory"):
            await step
    await store.heartbeat(NOW)
    await store.mark_running(call.session_id, NOW)
    await store.move(call.session_id, one_slot)
    await store.end(call.session_id, hung_up)
    assert await slots_in_use(store) == 0


async def test_a_password_is_in_no_error(server: RedisServer) -> None:
    server.kill()
    url = f"redis://patchbay:correct-horse@127.0.0.1:{server.port}/0"
    store = RedisStore(parse_redis_url(url), WorkerId("node", "machine", 1, 1))
    with pytest.raises(StoreFailed) as failure:
        await store.open()
    assert "correct-horse" not in str(failure.value)
    assert str(server.port) in str(failure.value)


# Liveness by the server's clock


async def test_the_clock_of_a_machine_does_not_matter(
    open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits
) -> None:
    """A node whose clock is ten minutes late neither dies nor takes others for dead."""
    late, right = await open_node(server_clock=True), await open_node(server_clock=True)
    await late.admit(new_call(), one_slot, NOW)
    for _ in range(3):
        await late.heartbeat(NOW - 600)
        await right.heartbeat(NOW)
        assert await right.reap(NOW) == []
        assert await late.reap(NOW - 600) == []
    assert await slots_in_use(right) == 1


async def test_a_silent_node_is_found_by_the_servers_clock(
    open_node: OpenNode, new_call: NewCall, one_slot: SlotLimits
) -> None:
    dead, other = await open_node(server_clock=True), await open_node(server_clock=True)
    call = new_call()
    await dead.admit(call, one_slot, NOW)
    await dead.heartbeat(NOW)
    await other.heartbeat(NOW)
    for name, back_s in (("node-0", STALE_S * 2), ("node-1", STALE_S * 3)):
        key = f"{{patchbay}}:worker:{name}"
        field = "beat_at" if name == "node-0" else "heard_since"
        at = float(await other._client.run("hget", key, field))
        await other._client.run("hset", key, field, at - back_s)
    (lost,) = await other.reap(NOW)
    assert (lost.session_id, lost.reason) == (call.session_id, "gateway_lost")
    assert await slots_in_use(other) == 0


# Notifications


async def test_subscribers_look_again_when_the_server_is_back(
    server: RedisServer, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.notifications.RECHECK_S", 3600.0)
    east, west = await open_node(), await open_node()
    with east.notifications.subscribe(Topic.AGENTS_CHANGED) as subscription:
        await subscription.wait()  # the first returns at once
        assert await subscription.wait(WAIT_S)  # it is subscribed now
        server.kill()
        server.start()
        assert await subscription.wait(WAIT_S)  # whatever was published meanwhile
        await eventually(lambda: not west.failing, "it is back")
        await west.key_values.put("agent", "acme/new", "{}", now=NOW)
        west.notifications.publish(Topic.AGENTS_CHANGED, "acme/new")
        assert await subscription.wait(WAIT_S)
