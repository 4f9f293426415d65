# SPDX-License-Identifier: BSD-2-Clause
"""The store, as one worker uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import LifecycleError, SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, SessionFilter, Store, StoreFailed

NewCall = Callable[..., CallDetails]


async def test_the_record_tells_the_whole_call(
    store: Store, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    call = new_call()
    assert await store.session(call.session_id) is None

    assert await store.admit(call, one_slot, 1000.0) == "http://127.0.0.1:8080"
    record = await store.session(call.session_id)
    assert record is not None
    for field in dataclasses.fields(call):
        assert getattr(record, field.name) == getattr(call, field.name)
    assert (record.state, record.instance, record.owner) == (
        SessionState.STARTING,
        "http://127.0.0.1:8080",
        "worker-0",
    )
    assert (record.created_at, record.started_at, record.ended_at, record.side) == (1000.0, None, None, None)
    assert record.active

    await store.mark_running(call.session_id, 1000.5)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.started_at) == (SessionState.RUNNING, 1000.5)

    await store.end(call.session_id, hung_up)
    record = await store.session(call.session_id)
    assert record is not None
    assert not record.active
    assert (record.state, record.reason, record.side) == (SessionState.ENDED, "caller_hangup", Party.CALLER)
    assert (record.detail, record.close_code) == ("stop received", 1000)
    assert (record.started_at, record.first_agent_sound_at, record.ended_at) == (1000.5, 1001.25, 1060.5)
    assert (record.frames_in, record.bytes_in) == (3000, 480_000)
    assert (record.frames_out, record.bytes_out) == (1500, 240_000)


async def test_the_end_of_a_call_frees_its_slot(
    store: Store, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0)
    with pytest.raises(AtCapacity, match="1 of 1 slots in use"):
        await store.admit(new_call(), one_slot, 1001.0)
    store.end(call.session_id, hung_up)
    await store.admit(new_call(), one_slot, 1002.0)


async def test_a_refused_call_is_not_stored(store: Store, new_call: NewCall, one_slot: SlotLimits) -> None:
    await store.admit(new_call(), one_slot, 1000.0)
    refused = new_call()
    with pytest.raises(AtCapacity):
        await store.admit(refused, one_slot, 1000.0)
    assert await store.session(refused.session_id) is None
    assert (await store.counts()).total == 1


async def test_each_agent_has_slots_of_its_own(store: Store, new_call: NewCall, one_slot: SlotLimits) -> None:
    await store.admit(new_call("support.acme"), one_slot, 1000.0)
    await store.admit(new_call("sales.acme"), one_slot, 1000.0)


async def test_the_first_end_wins(
    store: Store, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0)
    store.mark_running(call.session_id, 1000.5)
    store.end(call.session_id, hung_up)
    crash = dataclasses.replace(
        hung_up, state=SessionState.FAILED, reason="agent_lost", side=Party.AGENT, ended_at=1061.0
    )
    await store.end(call.session_id, crash)
    await store.mark_running(call.session_id, 1062.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.reason, record.ended_at) == (SessionState.ENDED, "caller_hangup", 1060.5)
    counts = await store.counts()
    assert (counts.over[SessionState.ENDED], counts.over[SessionState.FAILED], counts.total) == (1, 0, 1)


async def test_a_call_that_is_over_before_the_agent_ran_is_canceled(
    store: Store, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0)
    await store.end(call.session_id, hung_up)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.state is SessionState.CANCELED


async def test_the_end_of_an_unknown_session_is_ignored(store: Store, hung_up: SessionResult) -> None:
    await store.end("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", hung_up)
    await store.mark_running("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", 1000.0)
    assert (await store.counts()).total == 0


def test_a_session_cannot_end_as_running(hung_up: SessionResult) -> None:
    with pytest.raises(LifecycleError):
        dataclasses.replace(hung_up, state=SessionState.RUNNING)


async def test_text_from_a_carrier_may_be_anything(
    store: Store, new_call: NewCall, one_slot: SlotLimits
) -> None:
    call = new_call(call_id="half a pair \ud83d", stream_id="nul \0 and ümlaut", from_number="x" * 60_000)
    await store.admit(call, one_slot, 1000.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.call_id, record.stream_id) == ("half a pair ?", "nul \0 and ümlaut")
    assert record.from_number == "x" * 60_000


async def test_sessions_are_listed_newest_first(
    store: Store, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    support = [new_call("support.acme") for _ in range(5)]
    sales, other = new_call("sales.acme"), new_call("desk.other")
    for second, call in enumerate([*support, sales, other]):
        await store.admit(call, many_slots, 1000.0 + second)
    for call in support[:2]:
        await store.end(call.session_id, hung_up)

    async def listed(limit: int = 100, offset: int = 0, **conditions: Any) -> tuple[list[str], int]:
        records, total = await store.sessions(SessionFilter(**conditions), limit=limit, offset=offset)
        return [record.session_id for record in records], total

    ids = [call.session_id for call in support]
    assert await listed() == ([other.session_id, sales.session_id, *ids[::-1]], 7)
    assert await listed(agent="support.acme") == (ids[::-1], 5)
    assert await listed(organization="acme") == ([sales.session_id, *ids[::-1]], 6)
    assert await listed(agent="support.acme", organization="other") == ([], 0)
    assert await listed(agent="support.acme", active=True) == (ids[:1:-1], 3)
    assert await listed(active=False) == ([ids[1], ids[0]], 2)
    assert await listed(agent="support.acme", limit=2, offset=1) == ([ids[3], ids[2]], 5)
    assert await listed(agent="support.acme", limit=0) == ([], 5)
    assert await listed(agent="unknown.acme") == ([], 0)
    with pytest.raises(ValueError, match="negative"):
        await listed(limit=-1)


async def test_sessions_are_counted_by_state(
    store: Store, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    calls = [new_call() for _ in range(6)]
    for call in calls:
        await store.admit(call, many_slots, 1000.0)
    for call in calls[:4]:
        store.mark_running(call.session_id, 1001.0)
    store.end(calls[0].session_id, hung_up)
    store.end(calls[1].session_id, dataclasses.replace(hung_up, state=SessionState.FAILED))
    store.end(calls[4].session_id, dataclasses.replace(hung_up, state=SessionState.CANCELED))
    counts = await store.counts()
    assert counts.active == {
        SessionState.CREATED: 0,
        SessionState.STARTING: 1,
        SessionState.RUNNING: 2,
        SessionState.ENDING: 0,
    }
    assert counts.over == {SessionState.ENDED: 1, SessionState.FAILED: 1, SessionState.CANCELED: 1}
    assert (counts.total_active, counts.total) == (3, 6)


async def test_a_record_outlives_its_worker(
    open_worker: Callable[..., Any], new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    call = new_call()
    before = await open_worker()
    await before.admit(call, one_slot, 1000.0)
    before.end(call.session_id, hung_up)  # not awaited: the close writes it
    await before.close()
    after = await open_worker()
    record = await after.session(call.session_id)
    assert record.ended_at == hung_up.ended_at


async def test_a_closed_store_fails(store: Store, hung_up: SessionResult) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreFailed):
        await store.counts()
    store.end("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", hung_up)  # its future is ignored
    with pytest.raises(StoreFailed):
        await store.open()
