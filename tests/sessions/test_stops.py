# SPDX-License-Identifier: BSD-2-Clause
"""A wish to stop a session reaches the worker that carries it, from whichever worker was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import NotPromised
from gateway.store.sqlite.sqlite_store import SqliteStore

Ring = Callable[..., CallDetails]
WorkAt = Callable[..., Any]
Hire = Callable[..., Any]


async def test_a_stop_from_another_process_is_seen(
    hire: Hire, store: SqliteStore, file: Path, ring: Ring, many_places: SlotLimits, hung_up: SessionResult
) -> None:
    calls = [ring() for _ in range(3)]
    for call in calls:
        await store.admit(call, many_places, 1000.0)
    other = await hire("other")
    await other.does(do="open", path=str(file))
    await store.changed()
    assert not await store.changed()
    assert await store.stops_requested() == []

    for call in (calls[2], calls[0]):
        assert await other.does(do="stop", session_id=call.session_id)
    assert await store.changed()
    assert not await store.changed()
    assert await store.stops_requested() == [calls[0].session_id, calls[2].session_id]
    record = await store.session(calls[0].session_id)
    assert record is not None
    assert (record.state, record.stop_requested_at) == (
        SessionState.STARTING,
        1000.0,
    )  # its worker has to end it

    await store.ended(calls[0].session_id, hung_up)
    assert await store.stops_requested() == [calls[2].session_id]


async def test_nothing_has_changed_because_of_ones_own_calls(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, hung_up: SessionResult
) -> None:
    assert await store.changed()  # the first time nobody knows
    call = ring()
    await store.admit(call, many_places, 1000.0)
    await store.started(call.session_id, 1000.5)
    await store.beat(1001.0)
    await store.ended(call.session_id, hung_up)
    assert not await store.changed()


async def test_a_stop_asked_of_the_worker_itself_is_seen_too(
    store: SqliteStore, ring: Ring, many_places: SlotLimits
) -> None:
    call = ring()
    await store.admit(call, many_places, 1000.0)
    await store.changed()
    assert await store.request_stop(call.session_id, 1001.0)
    assert await store.changed()
    assert not await store.changed()
    assert await store.stops_requested() == [call.session_id]


async def test_a_worker_is_told_of_its_own_sessions_only(
    work_at: WorkAt, ring: Ring, many_places: SlotLimits
) -> None:
    east, west = await work_at(), await work_at()
    call = ring()
    await east.admit(call, many_places, 1000.0)
    await west.request_stop(call.session_id, 1001.0)
    assert await west.stops_requested() == []
    assert await east.stops_requested() == [call.session_id]


async def test_a_second_stop_changes_nothing(store: SqliteStore, ring: Ring, many_places: SlotLimits) -> None:
    call = ring()
    await store.admit(call, many_places, 1000.0)
    assert await store.request_stop(call.session_id, 1001.0)
    assert await store.request_stop(call.session_id, 1002.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.stop_requested_at == 1001.0


async def test_what_is_unknown_or_over_cannot_be_stopped(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, hung_up: SessionResult
) -> None:
    assert not await store.request_stop("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", 1000.0)
    assert not await store.request_stop("half a pair \ud83d", 1000.0)
    call = ring()
    await store.admit(call, many_places, 1000.0)
    await store.ended(call.session_id, hung_up)
    assert not await store.request_stop(call.session_id, 1061.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.stop_requested_at is None


async def test_a_promise_is_stopped_at_once(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, browser: SessionOptions
) -> None:
    call = ring()
    await store.promise(call, browser, 1000.0, 1300.0)
    assert await store.request_stop(call.session_id, 1001.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.ended_at, record.stop_requested_at) == (
        SessionState.CANCELED,
        1001.0,
        1001.0,
    )
    assert (record.reason, record.side) == ("stopped", Party.GATEWAY)
    assert await store.stops_requested() == []
    with pytest.raises(NotPromised):
        await store.admit(call, many_places, 1002.0)
    assert not await store.request_stop(call.session_id, 1003.0)
    assert (await store.counts()).over[SessionState.CANCELED] == 1
