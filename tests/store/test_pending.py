# SPDX-License-Identifier: BSD-2-Clause
"""Pending sessions, whose sockets come later, to any worker, or never."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, PendingLimit, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import UNUSED_S, AtCapacity, NotPending, Store, StoreFailed
from gateway.store.worker_id import STALE_S

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]

UNTIL = 1300.0
"""When the pending sessions of these tests expire; they are created at 1000.0."""
UNKNOWN = {"carrier": "", "call_id": None, "stream_id": None, "from_number": None, "to_number": None}


async def test_a_pending_session_is_admitted_when_its_socket_comes(
    store: Store,
    new_call: NewCall,
    one_slot: SlotLimits,
    browser_options: SessionOptions,
    hung_up: SessionResult,
) -> None:
    pending = new_call(**UNKNOWN)
    await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    record = await store.session(pending.session_id)
    assert record is not None
    assert (record.state, record.instance, record.owner) == (SessionState.CREATED, "", "")
    assert (record.created_at, record.admitted_at, record.promised_until) == (1000.0, None, UNTIL)
    for field in dataclasses.fields(browser_options):
        assert getattr(record, field.name) == getattr(browser_options, field.name)
    assert not record.active

    call = dataclasses.replace(pending, carrier="generic", stream_id="MZ0815")
    assert await store.admit(call, one_slot, 1020.0) == "http://127.0.0.1:8080"
    record = await store.session(call.session_id)
    assert record is not None
    assert record.active
    assert (record.state, record.instance) == (SessionState.STARTING, "http://127.0.0.1:8080")
    assert (record.owner, record.carrier, record.stream_id) == ("worker-0", "generic", "MZ0815")
    assert (record.created_at, record.admitted_at) == (1000.0, 1020.0)
    assert (record.transport, record.metadata) == ("websocket", '{"ticket": 4711}')

    await store.mark_running(call.session_id, 1020.5)
    await store.end(call.session_id, hung_up)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.started_at, record.ended_at) == (SessionState.ENDED, 1020.5, 1060.5)
    assert (await store.counts()).total == 1


async def test_options_that_a_pending_session_lacks_are_set_at_admission(
    store: Store, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    call = new_call()
    await store.create_pending(call, SessionOptions("websocket", max_duration=60), 1000.0, UNTIL)
    later = dataclasses.replace(browser_options, transport="telephony", start_type="cold")
    await store.admit(call, one_slot, 1001.0, later)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.transport, record.max_duration) == ("websocket", 60)
    assert (record.start_type, record.metadata, record.idle_timeout) == ("cold", '{"ticket": 4711}', 30)


async def test_options_are_stored_without_a_pending_session(
    store: Store, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    call = new_call()
    await store.admit(call, one_slot, 1000.0, browser_options)
    record = await store.session(call.session_id)
    assert record is not None
    for field in dataclasses.fields(browser_options):
        assert getattr(record, field.name) == getattr(browser_options, field.name)
    assert (record.admitted_at, record.promised_until) == (1000.0, None)


async def test_pending_sessions_occupy_no_slot(
    store: Store, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    pending_sessions = [new_call() for _ in range(20)]
    for pending in pending_sessions:
        await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    counts = await store.counts()
    assert (counts.active[SessionState.CREATED], counts.total_active, counts.total) == (20, 0, 20)

    await store.admit(new_call(), one_slot, 1001.0)
    with pytest.raises(AtCapacity, match="1 of 1 slots in use"):
        await store.admit(pending_sessions[0], one_slot, 1001.0)


async def test_a_refused_session_stays_pending(
    store: Store,
    new_call: NewCall,
    one_slot: SlotLimits,
    browser_options: SessionOptions,
    hung_up: SessionResult,
) -> None:
    other, pending = new_call(), new_call()
    await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    await store.admit(other, one_slot, 1000.0)
    with pytest.raises(AtCapacity):
        await store.admit(pending, one_slot, 1001.0)
    await store.end(other.session_id, hung_up)
    await store.admit(pending, one_slot, 1002.0)


async def test_a_pending_session_that_expires_is_canceled(
    store: Store, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    pending, lasting = new_call(), new_call()
    await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    await store.create_pending(lasting, browser_options, 1000.0, UNTIL + 1)
    await store.reap(UNTIL - 0.5)
    with pytest.raises(NotPending):  # expired, though not removed yet
        await store.admit(pending, one_slot, UNTIL)
    assert await store.reap(UNTIL) == []
    record = await store.session(pending.session_id)
    assert record is not None
    assert (record.state, record.ended_at, record.reason) == (SessionState.CANCELED, UNTIL, "idle_timeout")
    assert (record.side, record.detail) == (Party.GATEWAY, "nobody connected in time")
    with pytest.raises(NotPending):
        await store.admit(pending, one_slot, UNTIL)
    counts = await store.counts()
    assert (counts.active[SessionState.CREATED], counts.over[SessionState.CANCELED]) == (1, 1)
    await store.admit(lasting, one_slot, UNTIL)


@pytest.mark.parametrize(("result", "state"), [("ended", "canceled"), ("failed", "failed")])
async def test_a_pending_session_can_be_ended(
    result: str,
    state: str,
    store: Store,
    new_call: NewCall,
    browser_options: SessionOptions,
    hung_up: SessionResult,
) -> None:
    pending = new_call()
    await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    await store.end(pending.session_id, dataclasses.replace(hung_up, state=SessionState(result)))
    record = await store.session(pending.session_id)
    assert record is not None
    assert record.state == state


async def test_a_pending_session_is_created_once(
    store: Store, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    call = new_call()
    await store.create_pending(call, browser_options, 1000.0, UNTIL)
    with pytest.raises(StoreFailed):
        await store.create_pending(call, browser_options, 1000.0, UNTIL)
    await store.admit(call, one_slot, 1001.0)
    with pytest.raises(StoreFailed):
        await store.create_pending(call, browser_options, 1002.0, UNTIL)


async def test_a_session_that_runs_is_not_admitted_again(
    store: Store,
    new_call: NewCall,
    many_slots: SlotLimits,
    browser_options: SessionOptions,
    hung_up: SessionResult,
) -> None:
    call = new_call()
    await store.create_pending(call, browser_options, 1000.0, UNTIL)
    await store.admit(call, many_slots, 1001.0)
    with pytest.raises(NotPending):
        await store.admit(call, many_slots, 1002.0)
    await store.end(call.session_id, hung_up)
    with pytest.raises(NotPending):
        await store.admit(call, many_slots, 1003.0)
    assert (await store.counts()).total == 1


@pytest.mark.parametrize("other", [{"agent": "sales.acme"}, {"organization": "other"}])
async def test_a_pending_session_is_admitted_for_its_own_agent_only(
    other: dict[str, str],
    store: Store,
    new_call: NewCall,
    one_slot: SlotLimits,
    browser_options: SessionOptions,
) -> None:
    pending = new_call()
    await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    with pytest.raises(NotPending):
        await store.admit(dataclasses.replace(pending, **other), one_slot, 1001.0)
    await store.admit(pending, one_slot, 1002.0)


async def test_a_key_has_so_many_pending_sessions_and_no_more(
    store: Store,
    new_call: NewCall,
    one_slot: SlotLimits,
    browser_options: SessionOptions,
) -> None:
    limit = PendingLimit("public-0", 2)
    calls = [new_call(), new_call()]
    for call in calls:
        await store.create_pending(call, browser_options, 1000.0, UNTIL, limit)
    with pytest.raises(AtCapacity) as full:
        await store.create_pending(new_call(), browser_options, 1000.0, UNTIL, limit)
    assert (full.value.in_use, full.value.limit) == (2, 2)
    assert (await store.counts()).total == 2

    # Nobody else has less for it: another key, another organisation, a caller.
    await store.create_pending(new_call(), browser_options, 1000.0, UNTIL, PendingLimit("private-0", 2))
    globex = new_call(agent="support.globex", organization="globex")
    await store.create_pending(globex, browser_options, 1000.0, UNTIL, limit)
    await store.admit(calls[0], one_slot, 1001.0)  # its socket came
    await store.request_stop(calls[1].session_id, 1001.0)
    for _ in range(2):
        await store.create_pending(new_call(), browser_options, 1002.0, UNTIL, limit)
    with pytest.raises(AtCapacity):
        await store.create_pending(new_call(), browser_options, 1002.0, UNTIL, limit)
    # When they have expired there is room, though they have not been removed yet.
    await store.create_pending(new_call(), browser_options, UNTIL, UNTIL + 300, limit)


async def test_a_session_whose_socket_never_came_is_forgotten_a_day_later(
    store: Store,
    new_call: NewCall,
    one_slot: SlotLimits,
    browser_options: SessionOptions,
    hung_up: SessionResult,
) -> None:
    unused, used = new_call(), new_call()
    for call in (unused, used):
        await store.create_pending(call, browser_options, 1000.0, UNTIL)
    await store.admit(used, one_slot, 1001.0)
    await store.mark_running(used.session_id, 1002.0)
    await store.end(used.session_id, hung_up)
    for now in (UNTIL, UNTIL + UNUSED_S - 1):
        await store.reap(now)
        assert await store.session(unused.session_id) is not None
    await store.reap(UNTIL + UNUSED_S)
    assert await store.session(unused.session_id) is None
    assert await store.session(used.session_id) is not None
    assert (await store.counts()).over[SessionState.CANCELED] == 1


async def test_a_second_cancelled_admission_does_not_free_the_slot_of_the_first(
    store: Store, new_call: NewCall, many_slots: SlotLimits, browser_options: SessionOptions
) -> None:
    call = new_call()
    await store.create_pending(call, browser_options, 1000.0, UNTIL)
    await store.admit(call, many_slots, 1001.0)
    second = asyncio.create_task(store.admit(call, many_slots, 1002.0))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.admitted_at) == (SessionState.STARTING, 1001.0)


async def test_a_pending_session_outlives_the_worker_that_created_it(
    open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    maker, heir = await open_worker(), await open_worker()
    call = new_call()
    await maker.create_pending(call, browser_options, 1000.0, UNTIL)
    await maker.close()
    for now in (1000.0, 1010.0, 1000.0 + 2 * STALE_S):
        await heir.heartbeat(now)
        assert await heir.reap(now) == []
    await heir.admit(call, one_slot, 1030.0)
