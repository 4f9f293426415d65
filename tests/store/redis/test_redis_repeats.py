# SPDX-License-Identifier: BSD-2-Clause
"""Each step of the store, whose answer is lost and which is therefore done again: it counts once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.auth.media_tokens import NONCES
from gateway.calls.outbound.dial_limits import CpsLimiter
from gateway.calls.stream_history import CALL_SOCKETS
from gateway.config import CarrierAccount
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded
from gateway.model.session import (
    CallDetails,
    LiveTraffic,
    PendingLimit,
    QueueLimit,
    ReleasedBy,
    SessionOptions,
    SessionResult,
    SlotLimits,
    Traffic,
)
from gateway.store.history import ManagementCall
from gateway.store.interface import AtCapacity, Queued
from gateway.store.redis import redis_keys as keys
from gateway.store.redis import redis_store
from gateway.store.redis.redis_store import RedisStore
from tests.harness.redis_proxy import RedisProxy

NOW = 1000.0


@dataclass
class Line:
    """One node, one call, and all that a step may need."""

    store: RedisStore
    proxy: RedisProxy
    call: CallDetails
    other: CallDetails
    limits: SlotLimits
    options: SessionOptions
    hung_up: SessionResult

    async def repeated(self, step: Awaitable[Any], lose: str = "") -> Any:
        """Do a step whose first answer is lost; return the second."""
        self.proxy.lose = (lose or self.call.session_id).encode()
        lost = self.proxy.lost
        try:
            return await step
        finally:
            assert self.proxy.lost == lost + 1

    async def admitted(self, **details: Any) -> None:
        self.call = replace(self.call, **details)
        await self.store.admit(self.call, self.limits, NOW)

    async def state(self) -> SessionState | None:
        record = await self.store.session(self.call.session_id)
        return record.state if record is not None else None

    async def in_use(self) -> int:
        """The places that are taken, by each count that there is."""
        counts = await self.store.counts()
        load = await self.store._client.run("hvals", keys.load(self.call.agent))
        listed = await self.store._client.run("zcard", keys.of_agent(self.call.agent, "active"))
        assert counts.total_active == sum(map(int, load)) == listed
        return counts.total_active


@pytest.fixture
async def line(
    proxy: RedisProxy,
    open_node: Callable[..., Any],
    new_call: Callable[..., CallDetails],
    hung_up: SessionResult,
    browser_options: SessionOptions,
) -> Line:
    limits = SlotLimits((("http://127.0.0.1:8080", 0), ("http://127.0.0.1:9090", 1)), 1, 2)
    store = await open_node(proxy.url)
    return Line(store, proxy, new_call(), new_call(), limits, browser_options, hung_up)


async def test_a_promise(line: Line) -> None:
    limit = PendingLimit("public-0", 2)
    await line.repeated(line.store.create_pending(line.call, line.options, NOW, NOW + 300, limit))
    await line.store.create_pending(line.other, line.options, NOW, NOW + 300, limit)
    assert (await line.store.counts()).active[SessionState.CREATED] == 2


async def test_an_admission(line: Line) -> None:
    assert await line.repeated(line.store.admit(line.call, line.limits, NOW)) == "http://127.0.0.1:8080"
    assert await line.in_use() == 1


async def test_an_admission_of_a_pending_session(line: Line) -> None:
    limit = PendingLimit("public-0", 1)
    await line.store.create_pending(line.call, line.options, NOW, NOW + 300, limit)
    await line.repeated(line.store.admit(line.call, line.limits, NOW))
    assert await line.in_use() == 1
    await line.store.create_pending(line.other, line.options, NOW, NOW + 300, limit)


async def test_an_admission_that_is_refused(line: Line) -> None:
    full = SlotLimits(line.limits.instances, 1, 1)
    await line.admitted()
    line.call = line.other
    with pytest.raises(AtCapacity):
        await line.repeated(line.store.admit(line.call, full, NOW))
    assert await line.in_use() == 1


async def test_a_place_in_the_queue(line: Line) -> None:
    full = SlotLimits(line.limits.instances, 1, 1, queue=QueueLimit(1, NOW + 40))
    await line.admitted()
    line.call = line.other
    with pytest.raises(Queued) as queued:
        await line.repeated(line.store.admit(line.call, full, NOW))
    with pytest.raises(Queued) as again:
        await line.store.admit(line.call, full, NOW)
    assert queued.value.number == again.value.number
    await line.repeated(line.store.leave_queue(line.call.session_id))
    assert await line.store._client.run("zcard", keys.queue(line.call.agent)) == 0


async def test_a_withdrawal(line: Line) -> None:
    """A pending session that is withdrawn is pending again, also for its key."""
    limit = PendingLimit("public-0", 1)
    await line.store.create_pending(line.call, line.options, NOW, NOW + 300, limit)
    await line.admitted()
    attempt = line.store._own.get(line.call.session_id).attempt  # type: ignore[union-attr]
    await line.repeated(
        line.store._writes.session_later(redis_store._WITHDRAW, line.call.session_id, attempt)
    )
    assert (await line.in_use(), await line.state()) == (0, SessionState.CREATED)
    with pytest.raises(AtCapacity):
        await line.store.create_pending(line.other, line.options, NOW, NOW + 300, limit)
    await line.store.request_stop(line.call.session_id, NOW)
    await line.store.create_pending(line.other, line.options, NOW, NOW + 300, limit)


async def test_a_stream_that_is_attached_and_detached(line: Line) -> None:
    await line.admitted(stream_id=None)
    stream = replace(line.call, stream_id="MZ9")
    assert await line.repeated(line.store.attach_stream(stream, NOW)) == "http://127.0.0.1:8080"
    attempt = line.store._own.get(line.call.session_id).attempt  # type: ignore[union-attr]
    await line.repeated(line.store._writes.session_later(redis_store._DETACH, line.call.session_id, attempt))
    record = await line.store.session(line.call.session_id)
    assert record is not None
    assert (record.stream_id, await line.in_use()) == (None, 1)
    await line.store.attach_stream(stream, NOW)


async def test_a_move(line: Line) -> None:
    await line.admitted()
    elsewhere = SlotLimits(line.limits.instances[1:], 1, 9)
    moved = await line.repeated(line.store.move(line.call.session_id, elsewhere))
    assert (moved, await line.in_use()) == ("http://127.0.0.1:9090", 1)


async def test_an_admission_without_the_store(line: Line) -> None:
    await line.repeated(
        line.store.record_admission(
            line.call, line.limits, NOW, SessionOptions("telephony"), "http://127.0.0.1:8080"
        )
    )
    assert (await line.in_use(), await line.state()) == (1, SessionState.STARTING)


async def test_the_steps_of_a_call(line: Line) -> None:
    await line.admitted()
    await line.repeated(line.store.mark_running(line.call.session_id, NOW + 1))
    await line.repeated(line.store.mark_resumed(line.call.session_id, 2))
    assert await line.repeated(line.store.complete(line.call.session_id, "[]", 1.0, None, NOW + 2))
    traffic = LiveTraffic(line.call.session_id, Traffic(1, 2, 3, 4), None)
    await line.repeated(line.store.heartbeat(NOW, [traffic]))
    await line.repeated(line.store.end(line.call.session_id, line.hung_up))
    await line.repeated(line.store.correct_played(line.call.session_id, 17))
    record = await line.store.session(line.call.session_id)
    assert record is not None
    assert (record.state, record.resumed, record.reported_seconds) == (SessionState.ENDED, 2, 1.0)
    assert await line.in_use() == 0
    (used,) = await line.store.history.usage("acme", 0, 0, NOW)
    assert (used.sessions, used.seconds) == (1, line.hung_up.ended_at - NOW)


async def test_an_end_in_two_steps(line: Line) -> None:
    await line.admitted()
    await line.store.mark_running(line.call.session_id, NOW + 1)
    await line.repeated(line.store.begin_end(line.call.session_id, line.hung_up))
    assert (await line.in_use(), await line.state()) == (1, SessionState.ENDING)
    await line.repeated(line.store.release(line.call.session_id, NOW + 70, ReleasedBy.READY))
    assert (await line.in_use(), await line.state()) == (0, SessionState.ENDED)
    (used,) = await line.store.history.usage("acme", 0, 0, NOW)
    assert used.sessions == 1


async def test_an_end_unless_a_stream_came(line: Line) -> None:
    await line.admitted(stream_id=None)
    assert await line.repeated(line.store.end_if_unattached(line.call.session_id, line.hung_up))
    assert (await line.in_use(), await line.state()) == (0, SessionState.CANCELED)


async def test_a_stop(line: Line) -> None:
    await line.admitted()
    assert await line.repeated(line.store.request_stop(line.call.session_id, NOW))
    assert await line.store.stop_requests() == [line.call.session_id]
    await line.store.create_pending(line.other, line.options, NOW, NOW + 300)
    line.call = line.other
    assert await line.repeated(line.store.request_stop(line.call.session_id, NOW))
    assert (await line.store.counts()).over[SessionState.CANCELED] == 1


async def test_calls_of_a_dead_node(line: Line, open_node: Callable[..., Any]) -> None:
    dead = await open_node()
    await dead.admit(line.call, line.limits, NOW)
    await dead.heartbeat(NOW)
    for at in (0.0, 10.0, 20.0):
        await line.store.heartbeat(NOW + at)
    (lost,) = await line.repeated(line.store.reap(NOW + 20), "gateway_lost")
    assert (lost.session_id, await line.in_use()) == (line.call.session_id, 0)
    assert (await line.store.counts()).over[SessionState.FAILED] == 1


async def test_a_session_that_expires_and_one_that_is_forgotten(line: Line) -> None:
    await line.store.create_pending(line.call, line.options, NOW, NOW + 300)
    await line.repeated(line.store.reap(NOW + 300), "nobody connected in time")
    assert (await line.store.counts()).over[SessionState.CANCELED] == 1
    removed = await line.repeated(line.store.history.prune(NOW * 9, 0.0, 9), keys.TAG + "blanked")
    assert (removed.sessions, await line.state()) == (1, None)


@pytest.mark.parametrize("kind", [NONCES, CALL_SOCKETS, "idempotency"])
async def test_what_may_be_used_once(line: Line, kind: str) -> None:
    """A token, a carrier's second socket, the key of a request that is not to be done twice."""
    values = line.store.key_values
    assert await line.repeated(
        values.put_if_absent(kind, "key-4711", "1", now=NOW, expires_at=NOW + 9), "key-4711"
    )
    assert not await line.repeated(values.put_if_absent(kind, "key-4711", "2", now=NOW), "key-4711")
    found = await values.get(kind, "key-4711", NOW)
    assert found is not None
    assert found.value == "1"
    await line.repeated(values.put(kind, "key-4711", "3", now=NOW), "key-4711")
    assert [each.value for each in await values.list(kind, NOW)] == ["3"]
    assert await line.repeated(values.delete(kind, "key-4711"), "key-4711")
    assert not await line.repeated(values.delete(kind, "key-4711"), "key-4711")
    assert await values.list(kind, NOW) == ()


async def test_a_management_call(line: Line) -> None:
    call = ManagementCall(NOW, "acme", "sk-1", "PUT", "/v1/agents/a", 200, "request-4711", "::1")
    await line.repeated(line.store.history.record_call(call), "request-4711")
    _, total = await line.store.history.management_calls("acme", 0.0, NOW * 2, limit=9, offset=0)
    assert total == 1


async def test_a_turn_to_dial(line: Line) -> None:
    """An account that takes one call in ten seconds: two calls take two turns, and no third."""
    account = CarrierAccount(carrier="twilio", account="AC4711", calls_per_second=0.1)
    limiter = CpsLimiter(line.store.key_values, lambda: NOW)
    await line.repeated(limiter.wait_for_turn(account, 0.0), "AC4711")
    with pytest.raises(CallEnded, match="more calls wait"):
        await limiter.wait_for_turn(account, 9.0)
    turns = await line.store.key_values.list("dial_slot", NOW)
    assert len(turns) == 1
