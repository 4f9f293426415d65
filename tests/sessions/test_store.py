# SPDX-License-Identifier: BSD-2-Clause
"""The store, as one worker uses it."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import LifecycleError, SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore

Ring = Callable[..., CallDetails]


async def test_the_record_tells_the_whole_call(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    call = ring()
    assert await store.session(call.session_id) is None

    assert await store.admit(call, one_place, 1000.0) == "http://127.0.0.1:8080"
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

    await store.started(call.session_id, 1000.5)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.started_at) == (SessionState.RUNNING, 1000.5)

    await store.ended(call.session_id, hung_up)
    record = await store.session(call.session_id)
    assert record is not None
    assert not record.active
    assert (record.state, record.reason, record.side) == (SessionState.ENDED, "caller_hangup", Party.CALLER)
    assert (record.detail, record.close_code) == ("stop received", 1000)
    assert (record.started_at, record.first_agent_sound_at, record.ended_at) == (1000.5, 1001.25, 1060.5)
    assert (record.frames_in, record.bytes_in) == (3000, 480_000)
    assert (record.frames_out, record.bytes_out) == (1500, 240_000)


async def test_the_end_of_a_call_frees_its_place(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    call = ring()
    await store.admit(call, one_place, 1000.0)
    with pytest.raises(AtCapacity, match="1 of 1 places taken"):
        await store.admit(ring(), one_place, 1001.0)
    store.ended(call.session_id, hung_up)
    await store.admit(ring(), one_place, 1002.0)


async def test_a_refused_call_leaves_nothing_behind(
    store: SqliteStore, ring: Ring, one_place: SlotLimits
) -> None:
    await store.admit(ring(), one_place, 1000.0)
    refused = ring()
    with pytest.raises(AtCapacity):
        await store.admit(refused, one_place, 1000.0)
    assert await store.session(refused.session_id) is None
    assert (await store.counts()).total == 1


async def test_each_agent_has_its_own_places(store: SqliteStore, ring: Ring, one_place: SlotLimits) -> None:
    await store.admit(ring("support.acme"), one_place, 1000.0)
    await store.admit(ring("sales.acme"), one_place, 1000.0)


async def test_the_first_end_wins(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    call = ring()
    await store.admit(call, one_place, 1000.0)
    store.started(call.session_id, 1000.5)
    store.ended(call.session_id, hung_up)
    crash = dataclasses.replace(
        hung_up, state=SessionState.FAILED, reason="agent_lost", side=Party.AGENT, ended_at=1061.0
    )
    await store.ended(call.session_id, crash)
    await store.started(call.session_id, 1062.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.reason, record.ended_at) == (SessionState.ENDED, "caller_hangup", 1060.5)
    counts = await store.counts()
    assert (counts.over[SessionState.ENDED], counts.over[SessionState.FAILED], counts.total) == (1, 0, 1)


async def test_a_call_that_is_over_before_the_agent_ran_is_canceled(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    call = ring()
    await store.admit(call, one_place, 1000.0)
    await store.ended(call.session_id, hung_up)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.state is SessionState.CANCELED


async def test_an_end_nobody_knows_is_no_harm(store: SqliteStore, hung_up: SessionResult) -> None:
    await store.ended("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", hung_up)
    await store.started("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", 1000.0)
    assert (await store.counts()).total == 0


def test_a_session_cannot_end_as_running(hung_up: SessionResult) -> None:
    with pytest.raises(LifecycleError):
        dataclasses.replace(hung_up, state=SessionState.RUNNING)


async def test_a_carriers_text_may_be_anything(store: SqliteStore, ring: Ring, one_place: SlotLimits) -> None:
    call = ring(call_id="half a pair \ud83d", stream_id="nul \0 and ümlaut", from_number="x" * 60_000)
    await store.admit(call, one_place, 1000.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.call_id, record.stream_id) == ("half a pair ?", "nul \0 and ümlaut")
    assert record.from_number == "x" * 60_000


async def test_one_bad_operation_spoils_no_other_of_its_group(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, hung_up: SessionResult
) -> None:
    first, last = ring(), ring()
    twice = dataclasses.replace(ring(), session_id=first.session_id)
    impossible = dataclasses.replace(hung_up, close_code=1 << 80)
    answers = await asyncio.gather(
        store.admit(first, many_places, 1000.0),
        store.admit(twice, many_places, 1000.0),
        store.ended(first.session_id, impossible),
        store.admit(last, many_places, 1000.0),
        return_exceptions=True,
    )
    assert answers[0] == answers[3] == "http://127.0.0.1:8080"
    assert isinstance(answers[1], StoreFailed)
    assert isinstance(answers[2], OverflowError)
    assert (await store.counts()).active[SessionState.STARTING] == 2


async def test_a_caller_who_gave_up_while_admitted_holds_no_place(
    store: SqliteStore, file: Path, ring: Ring, one_place: SlotLimits
) -> None:
    call = ring()
    admission = asyncio.create_task(store.admit(call, one_place, 1000.0))
    await asyncio.sleep(
        0
    )  # the operation is on its way; from here the loop stands still until it is committed
    onlooker = sqlite3.connect(file)
    deadline = time.monotonic() + 30
    while not onlooker.execute("SELECT 1 FROM session WHERE id = ?", (call.session_id,)).fetchone():
        assert time.monotonic() < deadline
    onlooker.close()
    admission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admission
    assert await store.session(call.session_id) is None
    await store.admit(ring(), one_place, 1001.0)


async def test_sessions_are_listed_newest_first(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, hung_up: SessionResult
) -> None:
    support = [ring("support.acme") for _ in range(5)]
    sales, other = ring("sales.acme"), ring("desk.other")
    for second, call in enumerate([*support, sales, other]):
        await store.admit(call, many_places, 1000.0 + second)
    for call in support[:2]:
        await store.ended(call.session_id, hung_up)

    async def listed(**wanted: Any) -> tuple[list[str], int]:
        records, total = await store.sessions(**wanted)
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
    assert await listed(agent="nobody.acme") == ([], 0)
    with pytest.raises(ValueError, match="negative"):
        await listed(limit=-1)


async def test_counts_tell_every_state(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, hung_up: SessionResult
) -> None:
    calls = [ring() for _ in range(6)]
    for call in calls:
        await store.admit(call, many_places, 1000.0)
    for call in calls[:4]:
        store.started(call.session_id, 1001.0)
    store.ended(calls[0].session_id, hung_up)
    store.ended(calls[1].session_id, dataclasses.replace(hung_up, state=SessionState.FAILED))
    store.ended(calls[4].session_id, dataclasses.replace(hung_up, state=SessionState.CANCELED))
    counts = await store.counts()
    assert counts.active == {
        SessionState.CREATED: 0,
        SessionState.STARTING: 1,
        SessionState.RUNNING: 2,
        SessionState.ENDING: 0,
    }
    assert counts.over == {SessionState.ENDED: 1, SessionState.FAILED: 1, SessionState.CANCELED: 1}
    assert (counts.total_active, counts.total) == (3, 6)


async def test_what_was_recorded_outlives_the_worker(
    work_at: Callable[..., Any], ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    call = ring()
    before = await work_at()
    await before.admit(call, one_place, 1000.0)
    before.ended(call.session_id, hung_up)  # not awaited: the close writes it
    await before.close()
    after = await work_at()
    record = await after.session(call.session_id)
    assert record.ended_at == hung_up.ended_at


async def test_a_closed_store_says_so(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, hung_up: SessionResult
) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreFailed, match="is not open"):
        await store.admit(ring(), one_place, 1000.0)
    store.ended("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", hung_up)  # nobody looks, and nothing complains
    with pytest.raises(StoreFailed, match="opened already"):
        await store.open()
