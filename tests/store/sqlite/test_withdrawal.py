# SPDX-License-Identifier: BSD-2-Clause
"""Admissions that are cancelled just as the SQLite file commits them, and operations that fail."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import NotPending, StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]

UNTIL = 1300.0


async def _give_up_once_admitted(
    store: SqliteStore, file: Path, call: CallDetails, limits: SlotLimits, now: float, meanwhile: str = ""
) -> None:
    """`meanwhile`: what another worker writes between the admission and its withdrawal."""
    admission = asyncio.create_task(store.admit(call, limits, now))
    await asyncio.sleep(0)  # the operation is on its way; from here the loop stands still until it is done
    onlooker = sqlite3.connect(file)
    deadline = time.monotonic() + 30
    while not onlooker.execute("SELECT 1 FROM session WHERE admitted_at = ?", (now,)).fetchone():
        assert time.monotonic() < deadline
    onlooker.executescript(meanwhile)
    onlooker.close()
    admission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admission


async def test_after_a_cancelled_admission_the_session_is_pending_again(
    store: SqliteStore, file: Path, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    pending = new_call()
    await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    await _give_up_once_admitted(store, file, pending, one_slot, 1001.0)
    record = await store.session(pending.session_id)
    assert record is not None
    assert (record.state, record.instance, record.owner) == (SessionState.CREATED, "", "")
    assert record.admitted_at is None
    await store.admit(new_call(), one_slot, 1002.0)
    await store.reap(UNTIL)
    assert (await store.counts()).over[SessionState.CANCELED] == 1


async def test_a_pending_session_that_was_stopped_meanwhile_is_not_admitted_again(
    store: SqliteStore, file: Path, new_call: NewCall, one_slot: SlotLimits, browser_options: SessionOptions
) -> None:
    pending = new_call()
    await store.create_pending(pending, browser_options, 1000.0, UNTIL)
    stop = "UPDATE session SET stop_requested_at = 1001.5"
    await _give_up_once_admitted(store, file, pending, one_slot, 1001.0, stop)
    with pytest.raises(NotPending):
        await store.admit(pending, one_slot, 1002.0)


async def test_an_operation_that_fails_does_not_affect_others_of_its_group(
    store: SqliteStore, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    first, last = new_call(), new_call()
    twice = dataclasses.replace(new_call(), session_id=first.session_id)
    impossible = dataclasses.replace(hung_up, close_code=1 << 80)
    answers = await asyncio.gather(
        store.admit(first, many_slots, 1000.0),
        store.admit(twice, many_slots, 1000.0),
        store.end(first.session_id, impossible),
        store.admit(last, many_slots, 1000.0),
        return_exceptions=True,
    )
    assert answers[0] == answers[3] == "http://127.0.0.1:8080"
    assert isinstance(answers[1], StoreFailed)
    assert isinstance(answers[2], OverflowError)
    assert (await store.counts()).active[SessionState.STARTING] == 2


async def test_a_cancelled_admission_leaves_no_session(
    store: SqliteStore, file: Path, new_call: NewCall, one_slot: SlotLimits
) -> None:
    call = new_call()
    admission = asyncio.create_task(store.admit(call, one_slot, 1000.0))
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
    await store.admit(new_call(), one_slot, 1001.0)
