# SPDX-License-Identifier: BSD-2-Clause
"""Sessions that are promised first, and whose sockets come later, to whichever worker, or never."""

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
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, NotPromised, StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import STALE_S

Ring = Callable[..., CallDetails]
WorkAt = Callable[..., Any]
Hire = Callable[..., Any]

UNTIL = 1300.0
"""When the promises of these tests expire; they are made at 1000.0."""
UNKNOWN = {"carrier": "", "call_id": None, "stream_id": None, "from_number": None, "to_number": None}


async def test_a_promise_is_kept(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions, hung_up: SessionResult
) -> None:
    promised = ring(**UNKNOWN)
    await store.promise(promised, browser, 1000.0, UNTIL)
    record = await store.session(promised.session_id)
    assert record is not None
    assert (record.state, record.instance, record.owner) == (SessionState.CREATED, "", "")
    assert (record.created_at, record.admitted_at, record.promised_until) == (1000.0, None, UNTIL)
    for field in dataclasses.fields(browser):
        assert getattr(record, field.name) == getattr(browser, field.name)
    assert not record.active

    call = dataclasses.replace(promised, carrier="generic", stream_id="MZ0815")
    assert await store.admit(call, one_place, 1020.0) == "http://127.0.0.1:8080"
    record = await store.session(call.session_id)
    assert record is not None
    assert record.active
    assert (record.state, record.instance) == (SessionState.STARTING, "http://127.0.0.1:8080")
    assert (record.owner, record.carrier, record.stream_id) == ("worker-0", "generic", "MZ0815")
    assert (record.created_at, record.admitted_at) == (1000.0, 1020.0)
    assert (record.transport, record.metadata) == ("websocket", '{"ticket": 4711}')

    await store.started(call.session_id, 1020.5)
    await store.ended(call.session_id, hung_up)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.started_at, record.ended_at) == (SessionState.ENDED, 1020.5, 1060.5)
    assert (await store.counts()).total == 1


async def test_what_a_promise_left_open_is_said_when_it_is_kept(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    call = ring()
    await store.promise(call, SessionOptions("websocket", max_duration=60), 1000.0, UNTIL)
    later = dataclasses.replace(browser, transport="telephony", start_type="cold")
    await store.admit(call, one_place, 1001.0, later)
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.transport, record.max_duration) == ("websocket", 60)
    assert (record.start_type, record.metadata, record.idle_timeout) == ("cold", '{"ticket": 4711}', 30)


async def test_a_call_may_say_more_of_itself_without_a_promise(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    call = ring()
    await store.admit(call, one_place, 1000.0, browser)
    record = await store.session(call.session_id)
    assert record is not None
    for field in dataclasses.fields(browser):
        assert getattr(record, field.name) == getattr(browser, field.name)
    assert (record.admitted_at, record.promised_until) == (1000.0, None)


async def test_promises_hold_no_place(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    promises = [ring() for _ in range(20)]
    for promised in promises:
        await store.promise(promised, browser, 1000.0, UNTIL)
    counts = await store.counts()
    assert (counts.active[SessionState.CREATED], counts.total_active, counts.total) == (20, 0, 20)

    await store.admit(ring(), one_place, 1001.0)
    with pytest.raises(AtCapacity, match="1 of 1 places taken"):
        await store.admit(promises[0], one_place, 1001.0)


async def test_a_promise_outlives_a_refusal(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions, hung_up: SessionResult
) -> None:
    other, promised = ring(), ring()
    await store.promise(promised, browser, 1000.0, UNTIL)
    await store.admit(other, one_place, 1000.0)
    with pytest.raises(AtCapacity):
        await store.admit(promised, one_place, 1001.0)
    await store.ended(other.session_id, hung_up)
    await store.admit(promised, one_place, 1002.0)


async def test_a_promise_that_nobody_took_up_is_canceled(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    promised, lasting = ring(), ring()
    await store.promise(promised, browser, 1000.0, UNTIL)
    await store.promise(lasting, browser, 1000.0, UNTIL + 1)
    await store.reap(UNTIL - 0.5)
    with pytest.raises(NotPromised):  # expired, though nobody has cleared it away
        await store.admit(promised, one_place, UNTIL)
    assert await store.reap(UNTIL) == []
    record = await store.session(promised.session_id)
    assert record is not None
    assert (record.state, record.ended_at, record.reason) == (SessionState.CANCELED, UNTIL, "idle_timeout")
    assert (record.side, record.detail) == (Party.GATEWAY, "nobody connected in time")
    with pytest.raises(NotPromised):
        await store.admit(promised, one_place, UNTIL)
    counts = await store.counts()
    assert (counts.active[SessionState.CREATED], counts.over[SessionState.CANCELED]) == (1, 1)
    await store.admit(lasting, one_place, UNTIL)


@pytest.mark.parametrize(("result", "state"), [("ended", "canceled"), ("failed", "failed")])
async def test_a_promise_can_be_ended(
    result: str, state: str, store: SqliteStore, ring: Ring, browser: SessionOptions, hung_up: SessionResult
) -> None:
    promised = ring()
    await store.promise(promised, browser, 1000.0, UNTIL)
    await store.ended(promised.session_id, dataclasses.replace(hung_up, state=SessionState(result)))
    record = await store.session(promised.session_id)
    assert record is not None
    assert record.state == state


async def test_a_session_is_promised_once(
    store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    call = ring()
    await store.promise(call, browser, 1000.0, UNTIL)
    with pytest.raises(StoreFailed, match="UNIQUE"):
        await store.promise(call, browser, 1000.0, UNTIL)
    await store.admit(call, one_place, 1001.0)
    with pytest.raises(StoreFailed, match="UNIQUE"):
        await store.promise(call, browser, 1002.0, UNTIL)


async def test_a_session_that_runs_is_not_begun_again(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, browser: SessionOptions, hung_up: SessionResult
) -> None:
    call = ring()
    await store.promise(call, browser, 1000.0, UNTIL)
    await store.admit(call, many_places, 1001.0)
    with pytest.raises(NotPromised):
        await store.admit(call, many_places, 1002.0)
    await store.ended(call.session_id, hung_up)
    with pytest.raises(NotPromised):
        await store.admit(call, many_places, 1003.0)
    assert (await store.counts()).total == 1


@pytest.mark.parametrize("other", [{"agent": "sales.acme"}, {"organization": "other"}])
async def test_a_promise_is_to_one_agent(
    other: dict[str, str], store: SqliteStore, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    promised = ring()
    await store.promise(promised, browser, 1000.0, UNTIL)
    with pytest.raises(NotPromised):
        await store.admit(dataclasses.replace(promised, **other), one_place, 1001.0)
    await store.admit(promised, one_place, 1002.0)


async def _give_up_once_admitted(
    store: SqliteStore, file: Path, call: CallDetails, places: SlotLimits, now: float, meanwhile: str = ""
) -> None:
    """`meanwhile`: what another worker writes between the admission and its withdrawal."""
    admission = asyncio.create_task(store.admit(call, places, now))
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


async def test_after_a_caller_gave_up_the_promise_stands(
    store: SqliteStore, file: Path, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    promised = ring()
    await store.promise(promised, browser, 1000.0, UNTIL)
    await _give_up_once_admitted(store, file, promised, one_place, 1001.0)
    record = await store.session(promised.session_id)
    assert record is not None
    assert (record.state, record.instance, record.owner) == (SessionState.CREATED, "", "")
    assert record.admitted_at is None
    await store.admit(ring(), one_place, 1002.0)
    await store.reap(UNTIL)
    assert (await store.counts()).over[SessionState.CANCELED] == 1


async def test_a_promise_is_not_kept_when_a_stop_came_while_the_caller_gave_up(
    store: SqliteStore, file: Path, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    promised = ring()
    await store.promise(promised, browser, 1000.0, UNTIL)
    stop = "UPDATE session SET stop_requested_at = 1001.5"
    await _give_up_once_admitted(store, file, promised, one_place, 1001.0, stop)
    with pytest.raises(NotPromised):
        await store.admit(promised, one_place, 1002.0)


async def test_a_second_caller_who_gives_up_does_not_take_the_first_ones_place(
    store: SqliteStore, ring: Ring, many_places: SlotLimits, browser: SessionOptions
) -> None:
    call = ring()
    await store.promise(call, browser, 1000.0, UNTIL)
    await store.admit(call, many_places, 1001.0)
    second = asyncio.create_task(store.admit(call, many_places, 1002.0))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    record = await store.session(call.session_id)
    assert record is not None
    assert (record.state, record.admitted_at) == (SessionState.STARTING, 1001.0)


async def test_of_two_workers_one_takes_a_promise_up(
    hire: Hire, store: SqliteStore, file: Path, ring: Ring, browser: SessionOptions
) -> None:
    workers = [await hire("east"), await hire("west")]
    for worker in workers:
        await worker.does(do="open", path=str(file))
    for _ in range(10):
        call = ring()
        await store.promise(call, browser, 999.0, UNTIL)
        answers = await asyncio.gather(
            *(
                worker.does(do="take", session_id=call.session_id, instance="http://127.0.0.1:8080")
                for worker in workers
            )
        )
        assert sorted(answers) == ["NotPromised", "http://127.0.0.1:8080"]
        await asyncio.gather(*(worker.does(do="hang_up") for worker in workers))


async def test_a_promise_outlives_the_worker_that_made_it(
    work_at: WorkAt, ring: Ring, one_place: SlotLimits, browser: SessionOptions
) -> None:
    maker, heir = await work_at(), await work_at()
    call = ring()
    await maker.promise(call, browser, 1000.0, UNTIL)
    await maker.close()
    for now in (1000.0, 1010.0, 1000.0 + 2 * STALE_S):
        await heir.beat(now)
        assert await heir.reap(now) == []
    await heir.admit(call, one_place, 1030.0)
