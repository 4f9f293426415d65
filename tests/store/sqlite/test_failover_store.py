# SPDX-License-Identifier: BSD-2-Clause
"""The store that admits while its file fails: it counts its own calls and records them later, once."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.auth.media_tokens import NONCES
from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store import failover_store
from gateway.store.admission import AtCapacity
from gateway.store.failover_store import FailoverStore
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SHORT_S = 0.05
BOUND_S = 60.0

NewCall = Callable[..., CallDetails]


@contextlib.contextmanager
def locked(file: Path, patience_s: float = SHORT_S) -> Iterator[None]:
    """Another program locks the file. `patience_s`: how long a call waits for it meanwhile."""
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(failover_store, "PATIENCE_S", patience_s)
            yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is free is never taken for one that does not answer, however slow the machine is."""
    monkeypatch.setattr(failover_store, "PATIENCE_S", BOUND_S)


@pytest.fixture
async def store(file: Path) -> AsyncIterator[FailoverStore]:
    opened = FailoverStore(
        SqliteStore(file, WorkerId.of_this_process("me"), busy_s=SHORT_S),
        single_use_kinds=frozenset({NONCES}),
    )
    await opened.open()
    yield opened
    await opened.close()


def written(file: Path) -> list[tuple[str, str, str, str | None]]:
    """What the file has: id, state, instance, reason."""
    reader = sqlite3.connect(file)
    try:
        return reader.execute("SELECT id, state, instance, reason FROM session ORDER BY number").fetchall()
    finally:
        reader.close()


async def test_calls_come_and_go_while_the_file_is_locked(
    store: FailoverStore, file: Path, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    before, over, running, late = (new_call() for _ in range(4))
    await store.admit(before, many_slots, 1000.0)
    await store.mark_running(before.session_id, 1000.5)
    with locked(file):
        for call in (over, running):
            assert await store.admit(call, many_slots, 1001.0) == "http://127.0.0.1:8080"
            store.mark_running(call.session_id, 1002.0)
        first = store.end(over.session_id, hung_up)
        store.end(over.session_id, hung_up)
        last = store.end(before.session_id, hung_up)
        assert [state for _, state, _, _ in written(file)] == ["running"]
    async with asyncio.timeout(BOUND_S):
        await first
        await last
    await store.admit(late, many_slots, 1003.0)
    url = "http://127.0.0.1:8080"
    assert written(file) == [
        (before.session_id, "ended", url, "caller_hangup"),
        (over.session_id, "ended", url, "caller_hangup"),
        (running.session_id, "running", url, None),
        (late.session_id, "starting", url, None),
    ]
    record = await store.session(over.session_id)
    assert record is not None
    assert (record.admitted_at, record.started_at, record.ended_at) == (1001.0, 1002.0, 1060.5)
    assert record.owner == "me"
    assert (await store.counts()).over[SessionState.ENDED] == 2


async def test_slots_are_counted_by_the_worker_meanwhile(
    store: FailoverStore, file: Path, new_call: NewCall, hung_up: SessionResult
) -> None:
    two = SlotLimits((("http://127.0.0.1:1", 0), ("http://127.0.0.1:2", 1)), per_instance=1, max_instances=2)
    before, first, second = new_call(), new_call(), new_call()
    assert await store.admit(before, two, 1000.0) == "http://127.0.0.1:1"
    with locked(file):
        assert await store.admit(first, two, 1001.0) == "http://127.0.0.1:2"
        with pytest.raises(AtCapacity):
            await store.admit(new_call(), two, 1001.0)
        assert await store.admit(new_call("sales.acme"), two, 1001.0) == "http://127.0.0.1:1"
        store.end(before.session_id, hung_up)
        assert await store.admit(second, two, 1001.0) == "http://127.0.0.1:1"
    assert len(store._own_sessions) == 3


async def test_a_call_that_another_worker_has_attached_is_counted_no_more(
    store: FailoverStore, new_call: NewCall
) -> None:
    two = SlotLimits((("http://127.0.0.1:1", 0),), per_instance=2, max_instances=1)
    dialled, own = new_call(stream_id=None), new_call(stream_id=None)
    for call in (dialled, own):
        await store.admit(call, two, 1000.0)
    await store.attach_stream(replace(own, stream_id="MZ1"), 1000.0)
    for call in (dialled, own):
        store.forget_attached(call.session_id)
    assert set(store._own_sessions) == {own.session_id}
    assert store._loads["support.acme"] == {"http://127.0.0.1:1": 1}


async def test_the_limit_of_an_organisation_holds_with_and_without_the_file(
    file: Path, new_call: NewCall, many_slots: SlotLimits
) -> None:
    sqlite = SqliteStore(file, WorkerId.of_this_process("me"), busy_s=SHORT_S, calls_per_organization=2)
    store = FailoverStore(sqlite, calls_per_organization=2)
    await store.open()
    await store.admit(new_call("support.acme"), many_slots, 1000.0)
    await store.admit(new_call("sales.acme"), many_slots, 1000.0)
    for agent in ("support.acme", "third.acme"):
        with pytest.raises(AtCapacity, match="2 of 2"):
            await store.admit(new_call(agent), many_slots, 1000.0)
    await store.admit(new_call("support.other-acme"), many_slots, 1000.0)
    with locked(file):
        with pytest.raises(AtCapacity, match="2 of 2"):
            await store.admit(new_call("support.acme"), many_slots, 1000.0)
        await store.admit(new_call("support.other-acme"), many_slots, 1000.0)
        with pytest.raises(AtCapacity, match="2 of 2"):
            await store.admit(new_call("support.other-acme"), many_slots, 1000.0)
    await store.close()


async def test_a_token_is_good_once_meanwhile_and_afterwards(store: FailoverStore, file: Path) -> None:
    values = store.key_values
    with locked(file):
        assert await values.put_if_absent(NONCES, "a", "true", now=1000.0, expires_at=2000.0)
        assert not await values.put_if_absent(NONCES, "a", "true", now=1000.0, expires_at=2000.0)
        value = await values.get(NONCES, "a", 1000.0)
        assert value is not None
        assert await values.list(NONCES, 1000.0) == (value,)
        with pytest.raises(StoreFailed):  # of another kind
            await values.put_if_absent("idempotency", "a", "true", now=1000.0)
    async with asyncio.timeout(BOUND_S):
        while values._unwritten:
            await asyncio.sleep(SHORT_S)
    assert not await values.put_if_absent(NONCES, "a", "true", now=1000.0, expires_at=2000.0)
    assert len(await values.list(NONCES, 1000.0)) == 1


async def test_an_outbound_call_is_not_begun(
    store: FailoverStore, file: Path, new_call: NewCall, many_slots: SlotLimits
) -> None:
    with locked(file), pytest.raises(StoreFailed, match="a call out needs it"):
        await store.admit(new_call(stream_id=None), many_slots, 1000.0)


async def test_the_number_of_pending_writes_is_limited(
    store: FailoverStore,
    file: Path,
    new_call: NewCall,
    many_slots: SlotLimits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failover_store, "MAX_PENDING_WRITES", 5)
    calls: list[CallDetails] = []
    with locked(file):
        with contextlib.suppress(StoreFailed):
            while len(calls) < 10:
                await store.admit(call := new_call(), many_slots, 1000.0)
                calls.append(call)
        with pytest.raises(StoreFailed, match="no more is kept"):
            await store.admit(new_call(), many_slots, 1000.0)
        assert 1 <= len(calls) <= 5  # each owes its admission, and its withdrawal if the store was slow
        pending = [store.mark_running(call.session_id, 1001.0) for call in calls]
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*pending)
    assert store._store.pending_writes == 0
    assert [state for _, state, _, _ in written(file)] == ["running"] * len(calls)


async def test_pending_writes_may_fill_more_than_one_transaction(
    store: FailoverStore, file: Path, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    with locked(file):
        calls = [new_call() for _ in range(400)]
        for call in calls:
            await store.admit(call, many_slots, 1000.0)
            store.mark_running(call.session_id, 1001.0)
        last = [store.end(call.session_id, hung_up) for call in calls][-1]
    async with asyncio.timeout(BOUND_S):
        await last
    assert written(file) == [
        (call.session_id, "ended", "http://127.0.0.1:8080", "caller_hangup") for call in calls
    ]


async def test_a_caller_who_hangs_up_at_a_locked_file_occupies_no_slot(
    store: FailoverStore, file: Path, new_call: NewCall, one_slot: SlotLimits
) -> None:
    with locked(file, BOUND_S), pytest.raises(TimeoutError):
        await asyncio.wait_for(store.admit(new_call(), one_slot, 1000.0), SHORT_S / 2)
    await store.admit(new_call(), one_slot, 1001.0)
    assert len(store._own_sessions) == 1


async def test_an_admission_that_came_too_late_is_not_written_twice(
    store: FailoverStore,
    file: Path,
    new_call: NewCall,
    one_slot: SlotLimits,
    hung_up: SessionResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file may admit a call just after the wait for it: that is withdrawn, then the call is recorded."""
    monkeypatch.setattr(failover_store, "PATIENCE_S", 0)
    calls = [new_call() for _ in range(100)]
    for call in calls:
        await store.admit(call, one_slot, 1000.0)
        store.mark_running(call.session_id, 1001.0)
        await store.end(call.session_id, hung_up)
    assert [row[:2] for row in written(file)] == [(call.session_id, "ended") for call in calls]
    assert not store._own_sessions
