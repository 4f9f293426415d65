# SPDX-License-Identifier: BSD-2-Clause
"""The file does not answer, or is not what it should be: a clear refusal, nothing lost, nothing harmed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, StoreFailed
from gateway.store.sqlite import sqlite_store
from gateway.store.sqlite.schema import VERSION, connect
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]

SHORT_S = 0.02
"""What a worker of these tests waits for the file; the real one waits sqlite.BUSY_S."""
BOUND_S = 30.0
"""Nothing takes so long: a longer wait would never end."""


@contextmanager
def locked(file: Path) -> Iterator[sqlite3.Connection]:
    """Another program holds the file."""
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield other
    finally:
        if other.in_transaction:
            other.execute("ROLLBACK")
        other.close()


async def test_a_locked_file_refuses_calls_in_bounded_time(
    open_worker: OpenWorker, file: Path, new_call: NewCall, many_slots: SlotLimits
) -> None:
    store: SqliteStore = await open_worker(busy_s=SHORT_S)
    with locked(file):
        async with asyncio.timeout(BOUND_S):
            answers = await asyncio.gather(
                *(store.admit(new_call(), many_slots, 1000.0) for _ in range(20)), return_exceptions=True
            )
            with pytest.raises(StoreFailed, match="database is locked"):
                await store.heartbeat(1000.0)
            with pytest.raises(StoreFailed, match="database is locked"):
                await store.reap(1000.0)
            assert (await store.counts()).total == 0  # a reader is not locked out
    assert all(isinstance(answer, StoreFailed) for answer in answers)
    await store.admit(new_call(), many_slots, 1001.0)
    assert (await store.counts()).total == 1


async def test_pending_writes_are_written_once_and_in_order_when_the_file_is_free(
    open_worker: OpenWorker, file: Path, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> None:
    store: SqliteStore = await open_worker(busy_s=SHORT_S)
    calls = [new_call() for _ in range(50)]
    for call in calls:
        await store.admit(call, many_slots, 1000.0)
    witness = sqlite3.connect(file, isolation_level=None)
    witness.execute("CREATE TABLE seen (id TEXT, state TEXT)")
    witness.execute(
        "CREATE TRIGGER witness AFTER UPDATE ON session "
        "BEGIN INSERT INTO seen VALUES (new.id, new.state); END"
    )
    with locked(file):
        pending = [store.mark_running(call.session_id, 1001.0) for call in calls[:25]]
        with pytest.raises(StoreFailed):  # so at least one group failed, and took the first half with it
            await store.admit(new_call(), many_slots, 1002.0)
        pending += [store.mark_running(call.session_id, 1001.0) for call in calls[25:]]
        pending += [store.end(call.session_id, hung_up) for call in calls]
        with pytest.raises(StoreFailed):
            await store.admit(new_call(), many_slots, 1002.0)
        assert not any(write.done() for write in pending)
    await asyncio.wait_for(asyncio.gather(*pending), BOUND_S)
    ids = [call.session_id for call in calls]
    assert witness.execute("SELECT id, state FROM seen ORDER BY rowid").fetchall() == (
        [(session_id, "running") for session_id in ids] + [(session_id, "ended") for session_id in ids]
    )
    witness.close()
    assert (await store.counts()).over[SessionState.ENDED] == 50


async def test_an_end_frees_its_slot_before_the_next_call_is_admitted(
    open_worker: OpenWorker, file: Path, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    store: SqliteStore = await open_worker(busy_s=SHORT_S)
    call = new_call()
    await store.admit(call, one_slot, 1000.0)
    with pytest.raises(AtCapacity):
        await store.admit(new_call(), one_slot, 1001.0)
    with locked(file):
        store.end(call.session_id, hung_up)
        with pytest.raises(StoreFailed):
            await store.admit(new_call(), one_slot, 1001.0)
    await store.admit(new_call(), one_slot, 1002.0)


async def test_a_caller_who_hangs_up_at_a_locked_file_occupies_no_slot(
    open_worker: OpenWorker, file: Path, new_call: NewCall, one_slot: SlotLimits
) -> None:
    store: SqliteStore = await open_worker(busy_s=BOUND_S)
    call = new_call()
    with locked(file), pytest.raises(TimeoutError):
        await asyncio.wait_for(store.admit(call, one_slot, 1000.0), SHORT_S)
    await store.admit(new_call(), one_slot, 1001.0)
    assert await store.session(call.session_id) is None


async def test_close_writes_pending_writes(
    open_worker: OpenWorker, file: Path, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    store: SqliteStore = await open_worker(busy_s=SHORT_S)
    call = new_call()
    await store.admit(call, one_slot, 1000.0)
    with locked(file):
        store.end(call.session_id, hung_up)
        with pytest.raises(StoreFailed):
            await store.heartbeat(1000.0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
    await asyncio.wait_for(closing, BOUND_S)
    record = await (await open_worker()).session(call.session_id)
    assert record.reason == "caller_hangup"


async def test_close_does_not_wait_for_ever(
    open_worker: OpenWorker, file: Path, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    store: SqliteStore = await open_worker(busy_s=SHORT_S, close_s=SHORT_S)
    call = new_call()
    await store.admit(call, one_slot, 1000.0)
    with locked(file):
        pending = store.end(call.session_id, hung_up)
        await asyncio.wait_for(store.close(), BOUND_S)
        with pytest.raises(StoreFailed, match="database is locked"):
            await pending


async def test_a_full_disk_refuses_calls_and_keeps_those_that_run(
    open_worker: OpenWorker, new_call: NewCall, many_slots: SlotLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def arrives(store: SqliteStore, call: CallDetails) -> str:
        try:
            return await store.admit(call, many_slots, 1000.0)
        except StoreFailed as failure:
            return str(failure)

    def small(path: Path, busy_s: float, **options: bool) -> sqlite3.Connection:
        connection = connect(path, busy_s, **options)
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    monkeypatch.setattr(sqlite_store, "connect", small)
    store: SqliteStore = await open_worker()
    answers = [await arrives(store, new_call()) for _ in range(200)]
    admitted = answers.count("http://127.0.0.1:8080")
    assert 0 < admitted < 200
    assert "disk is full" in answers[-1]
    assert (await store.counts()).active[SessionState.STARTING] == admitted


def test_an_event_loop_that_ends_before_the_answer_causes_no_error(
    file: Path, hung_up: SessionResult
) -> None:
    store = SqliteStore(file, WorkerId.of_this_process("hasty"))

    async def leave_in_a_hurry() -> None:
        await store.open()
        lock.execute("BEGIN EXCLUSIVE")
        store.end("5bd1d9f4-2f5e-4e15-8b1f-0f7a3c3f5a7e", hung_up)

    connect(file, 1.0).close()
    lock = sqlite3.connect(file, isolation_level=None)
    asyncio.run(leave_in_a_hurry())
    lock.execute("ROLLBACK")
    lock.close()
    thread = store._writer._thread
    assert thread is not None
    store._writer._queue.put(None)
    thread.join(BOUND_S)
    assert not thread.is_alive()


def content(file: Path) -> bytes:
    return file.read_bytes()


def an_empty_file(file: Path) -> None:
    file.touch()


def a_text_file(file: Path) -> None:
    file.write_text("# Patchbay's settings, by mistake\n" * 40)


def a_short_text_file(file: Path) -> None:
    file.write_text("hello")


def a_truncated_store(file: Path) -> None:
    connect(file, 1.0).close()
    file.write_bytes(file.read_bytes()[:9000])


def a_store_with_a_broken_table_of_tables(file: Path) -> None:
    connect(file, 1.0).close()
    whole = content(file)
    file.write_bytes(whole[:100] + b"\xa5" * 3000 + whole[3100:])


def another_programs_database(file: Path) -> None:
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE invoices (number INTEGER)")
    other.commit()
    other.close()


def a_store_of_a_later_version(file: Path) -> None:
    connect(file, 1.0).close()
    later = sqlite3.connect(file)
    later.execute(f"PRAGMA user_version = {VERSION + 1}")
    later.close()


@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (a_text_file, "cannot be used: file is not a database"),
        (a_short_text_file, "cannot be used: file is not a database"),
        (a_truncated_store, "cannot be used: database disk image is malformed"),
        (a_store_with_a_broken_table_of_tables, "cannot be used: database disk image is malformed"),
        (another_programs_database, "is a database, but not a session store"),
        (
            a_store_of_a_later_version,
            f"has version {VERSION + 1} of the tables; this Patchbay knows {VERSION}",
        ),
    ],
)
async def test_a_file_that_is_not_a_session_store_is_refused_and_unchanged(
    make: Callable[[Path], None], detail: str, file: Path
) -> None:
    make(file)
    before = content(file)
    store = SqliteStore(file, WorkerId.of_this_process("me"))
    with pytest.raises(StoreFailed, match=detail):
        await store.open()
    await store.close()
    assert content(file) == before


async def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "nowhere" / "patchbay.db", WorkerId.of_this_process("me"))
    with pytest.raises(StoreFailed, match=r"the directory .*nowhere of the session store does not exist"):
        await store.open()
    assert not (tmp_path / "nowhere").exists()


async def test_a_directory_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="cannot be opened: unable to open database file"):
        await SqliteStore(tmp_path, WorkerId.of_this_process("me")).open()


async def test_an_empty_file_becomes_a_store(
    file: Path, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    an_empty_file(file)
    store: SqliteStore = await open_worker()
    await store.admit(new_call(), one_slot, 1000.0)
