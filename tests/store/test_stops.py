# SPDX-License-Identifier: BSD-2-Clause
"""Stop requests reach the worker that owns the session, from whichever worker they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import NotPending, Store

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]


async def test_a_worker_gets_the_stop_requests_of_its_own_sessions_only(
    open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits
) -> None:
    east, west = await open_worker(), await open_worker()
    call = new_call()
    await east.admit(call, many_slots, 1000.0)
    await west.request_stop(call.session_id, 1001.0)
    assert await west.stop_requests() == []
    assert await east.stop_requests() == [call.session_id]


async def test_a_second_stop_changes_nothing(store: Store, new_call: NewCall, many_slots: SlotLimits) -> None:
    call = new_call()
    await store.admit(call, many_slots, 1000.0)
    assert await store.request_stop(call.session_id, 1001.0)
    assert await store.request_stop(call.session_id, 1002.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.stop_requested_at == 1001.0


async def test_a_session_that_is_unknown_or_over_cannot_be_stopped(
    store: Store, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    assert not await store.request_stop("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", 1000.0)
    assert not await store.request_stop("half a pair \ud83d", 1000.0)
    call = new_call()
    await store.admit(call, many_slots, 1000.0)
    await store.end(call.session_id, hung_up)
    assert not await store.request_stop(call.session_id, 1061.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert record.stop_requested_at is None


async def test_a_pending_session_is_stopped_at_once(
    store: Store, new_call: NewCall, many_slots: SlotLimits, browser_options: SessionOptions
) -> None:
    call = new_call()
    await store.create_pending(call, browser_options, 1000.0, 1300.0)
    assert await store.request_stop(call.session_id, 1001.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.ended_at, record.stop_requested_at) == (
        SessionState.CANCELED,
        1001.0,
        1001.0,
    )
    assert (record.reason, record.side) == ("stopped", Party.GATEWAY)
    assert await store.stop_requests() == []
    with pytest.raises(NotPending):
        await store.admit(call, many_slots, 1002.0)
    assert not await store.request_stop(call.session_id, 1003.0)
    assert (await store.counts()).over[SessionState.CANCELED] == 1
