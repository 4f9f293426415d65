# SPDX-License-Identifier: BSD-2-Clause
"""Reports of agents on their sessions, and the completion status."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import Store

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]

TRANSCRIPT = '[{"role": "user", "text": "Grüezi", "timestamp": 1.5}]'
RESULTS = '{"booked": true}'


async def test_a_report_is_stored_once(
    open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    east, west = await open_worker(), await open_worker()
    call = new_call()
    await east.admit(call, many_slots, 1000.0)
    await east.mark_running(call.session_id, 1000.5)
    answers = await asyncio.gather(
        east.complete(call.session_id, TRANSCRIPT, 58.5, RESULTS, 1059.0),
        west.complete(call.session_id, TRANSCRIPT, 58.5, RESULTS, 1059.0),
    )
    assert sorted(answers) == [False, True]
    assert not await west.complete(call.session_id, "[]", 1, None, 1060.0)
    await east.end(call.session_id, hung_up)
    record = await west.session(call.session_id)
    assert (record.transcript, record.results) == (TRANSCRIPT, RESULTS)
    assert (record.reported_seconds, record.completed_at, record.ended_at) == (58.5, 1059.0, 1060.5)


async def test_only_an_active_session_gets_a_report(
    store: Store,
    new_call: NewCall,
    many_slots: SlotLimits,
    browser_options: SessionOptions,
    hung_up: SessionResult,
) -> None:
    unknown, pending, over = new_call(), new_call(), new_call()
    await store.create_pending(pending, browser_options, 1000.0, 1300.0)
    await store.admit(over, many_slots, 1000.0)
    await store.end(over.session_id, hung_up)
    for call in (unknown, pending, over):
        assert not await store.complete(call.session_id, TRANSCRIPT, 58.5, RESULTS, 1061.0)
    for call in (pending, over):
        record = await store.session(call.session_id)
        assert record is not None
        assert (record.completed_at, record.transcript, record.results) == (None, None, None)


async def test_a_report_may_be_empty(store: Store, new_call: NewCall, many_slots: SlotLimits) -> None:
    call = new_call()
    await store.admit(call, many_slots, 1000.0)
    assert await store.complete(call.session_id, None, None, None, 1001.0)
    assert not await store.complete(call.session_id, TRANSCRIPT, None, None, 1002.0)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.completed_at, record.transcript, record.reported_seconds) == (1001.0, None, None)


async def test_a_list_has_no_reports_unless_requested(
    store: Store, new_call: NewCall, many_slots: SlotLimits
) -> None:
    call = new_call()
    await store.admit(call, many_slots, 1000.0)
    await store.complete(call.session_id, TRANSCRIPT, 58, RESULTS, 1059.0)
    ((brief,), _) = await store.sessions()
    ((whole,), _) = await store.sessions(with_reports=True)
    assert whole == await store.session(call.session_id)
    assert brief == dataclasses.replace(whole, transcript=None, results=None)
    assert repr(whole.reported_seconds) == "58"  # as it was reported


async def test_the_completion_status_is_stored_with_the_end(
    store: Store, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    silent, call = new_call(), new_call()
    for one, status in ((silent, None), (call, "WS_CONNECTION_CLOSED")):
        await store.admit(one, many_slots, 1000.0)
        await store.end(one.session_id, dataclasses.replace(hung_up, completion_status=status))
        record = await store.session(one.session_id)
        assert record is not None
        assert record.completion_status == status
