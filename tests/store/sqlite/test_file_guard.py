# SPDX-License-Identifier: BSD-2-Clause
"""The store's files are deleted, replaced, damaged or readable by others; no second store comes of it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.simulator.waiting import eventually
from gateway.store.interface import StoreFailed
from gateway.store.sqlite import file_guard, page_check
from gateway.store.sqlite.file_inspection import count_values, inspect_file
from gateway.store.sqlite.schema import connect
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.sqlite.writer import Kind
from gateway.store.worker_id import WorkerId

CALLS = 400
"""Enough calls in the history for more pages than one in each table."""


@pytest.fixture(autouse=True)
def every_write_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_guard, "CHECK_S", 0.0)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_no_call_is_admitted_while_a_file_is_deleted_and_ends_are_written_once_it_is_back(
    store: SqliteStore,
    file: Path,
    new_call: Callable[..., CallDetails],
    many_slots: SlotLimits,
    hung_up: SessionResult,
    suffix: str,
) -> None:
    running, refused, after = new_call(), new_call(), new_call()
    await store.admit(running, many_slots, 1000.0)
    deleted, elsewhere = Path(f"{file}{suffix}"), file.with_name("elsewhere")
    with capture_logs() as lines:
        deleted.rename(elsewhere)
        with pytest.raises(
            StoreFailed, match=f"{deleted.name} of the session store was deleted while it was"
        ):
            await store.admit(refused, many_slots, 1001.0)
        ended = store.end(running.session_id, hung_up)
        with pytest.raises(StoreFailed):
            await store.heartbeat(1001.0)
        assert not ended.done()
        elsewhere.rename(deleted)
        await ended
        await store.admit(after, many_slots, 1002.0)
        await eventually(lambda: len(lines) == 2, "it is reported once, and once that it is over")
    assert [line["event"] for line in lines] == ["session_store_failed", "session_store_recovered"]
    assert (await store.session(refused.session_id)) is None
    record = await store.session(running.session_id)
    assert record is not None
    assert record.reason == "caller_hangup"


SHORTENED = """
import asyncio, os, sys
from pathlib import Path
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

async def main(file):
    store = SqliteStore(Path(file), WorkerId.of_this_process("one"), close_s=0.1)
    await store.open()
    await store.heartbeat(1000.0)
    os.truncate(file + "-shm", 0)
    for operation in (store.counts, lambda: store.heartbeat(1001.0), store.counts):
        try:
            await operation()
        except StoreFailed as error:
            print(error)
    await store.close()
    print("closed")

asyncio.run(main(sys.argv[1]))
"""
"""Run in a process of its own, which without the guard ends with SIGBUS, and with it the calls it carries."""


def test_a_mapped_file_that_becomes_shorter_is_not_touched_any_more(file: Path) -> None:
    command = [sys.executable, "-c", SHORTENED, file]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended
    lines = ended.stdout.splitlines()
    refusals = [line for line in lines if line.startswith(str(file))]
    assert len(refusals) == 3, ended
    for words in refusals:
        assert f"{file.name}-shm of the session store was shortened while it was open: stop every" in words
    assert lines[-1] == "closed"


async def test_a_file_that_is_emptied_while_it_is_open_takes_no_call(
    store: SqliteStore, file: Path, new_call: Callable[..., CallDetails], many_slots: SlotLimits
) -> None:
    await store.admit(new_call(), many_slots, 1000.0)
    os.truncate(file, 0)
    with pytest.raises(StoreFailed, match=r"patchbay.db of the session store was emptied while it was open"):
        await store.admit(new_call(), many_slots, 1001.0)


async def test_a_worker_that_is_started_again_makes_no_tables_in_an_empty_file(file: Path) -> None:
    file.touch()
    with pytest.raises(StoreFailed, match="is empty, and other workers may have it open"):
        connect(file, 1.0, may_create=False)
    assert file.stat().st_size == 0


async def test_another_file_in_its_place_is_not_written_to(
    store: SqliteStore, file: Path, new_call: Callable[..., CallDetails], many_slots: SlotLimits
) -> None:
    await store.admit(new_call(), many_slots, 1000.0)
    file.rename(file.with_name("elsewhere"))
    file.write_bytes(b"")
    with pytest.raises(StoreFailed, match="was replaced by another file"):
        await store.admit(new_call(), many_slots, 1001.0)
    assert file.read_bytes() == b""


async def test_no_second_store_is_made_where_one_is_open_and_its_file_is_deleted(
    store: SqliteStore, open_worker: Callable[..., Any], file: Path
) -> None:
    file.unlink()
    with pytest.raises(StoreFailed, match=r"is missing, and patchbay.db-wal is there"):
        await open_worker()
    with pytest.raises(StoreFailed, match=r"is missing, and patchbay.db-wal is there"):
        inspect_file(file)
    assert not file.exists()


async def test_a_file_that_everyone_may_read_is_made_its_users_own(
    open_worker: Callable[..., Any], file: Path
) -> None:
    connect(file, 1.0).close()
    file.chmod(0o644)
    with capture_logs() as lines:
        store = await open_worker()
        await store.heartbeat(1000.0)
        await eventually(lambda: lines, "it is reported")
        assert {each.stat().st_mode & 0o777 for each in file.parent.glob("patchbay.db*")} == {0o600}
        file.chmod(0o666)  # while it is open
        await store.heartbeat(1001.0)
        assert file.stat().st_mode & 0o777 == 0o600
        await store.heartbeat(1002.0)
    assert [(line["event"], line["file"]) for line in lines] == [
        ("session_store_made_private", str(file))
    ] * 2


async def test_a_file_that_its_group_may_read_stays_so(open_worker: Callable[..., Any], file: Path) -> None:
    connect(file, 1.0).close()
    file.chmod(0o640)
    store = await open_worker()
    with capture_logs() as lines:
        await store.heartbeat(1000.0)
    assert file.stat().st_mode & 0o777 == 0o640
    assert lines == []


async def test_a_file_of_somebody_else_that_everyone_may_read_is_reported_once(
    store: SqliteStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    os.fchmod(descriptor := os.open(file, os.O_RDONLY), 0o644)
    os.close(descriptor)
    with capture_logs() as lines:
        await store.heartbeat(1000.0)
        await store.heartbeat(1001.0)
        await eventually(lambda: lines, "it is reported")
    assert [line["event"] for line in lines] == ["session_store_readable_by_others"]


@pytest.fixture
async def damaged(
    file: Path, new_call: Callable[..., CallDetails], many_slots: SlotLimits, hung_up: SessionResult
) -> Callable[[str], bytes]:
    """Make a store with a history, of which one page is damaged: the root of a table or index."""
    store = SqliteStore(file, WorkerId.of_this_process("before"))
    await store.open()
    for _ in range(CALLS):
        call = new_call()
        await store.admit(call, many_slots, 1000.0)
        store.end(call.session_id, hung_up)
    await store.key_values.put("agent", "acme/support", "{}", now=1000.0)
    await store.close()

    def damage(name: str) -> bytes:
        connection = sqlite3.connect(file)
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.close()
        whole = bytearray(file.read_bytes())
        whole[(page - 1) * size : page * size] = b"\xa5" * size
        file.write_bytes(whole)
        return bytes(whole)

    return damage


@pytest.mark.parametrize("whole_bytes", [page_check.WHOLE_BYTES, 0], ids=["small", "large"])
@pytest.mark.parametrize("name", ["session", "session_active", "owner", "document", "tally", "finished"])
async def test_a_store_with_a_damaged_page_is_refused_at_the_start_and_unchanged(
    damaged: Callable[[str], bytes], file: Path, monkeypatch: pytest.MonkeyPatch, name: str, whole_bytes: int
) -> None:
    monkeypatch.setattr(page_check, "WHOLE_BYTES", whole_bytes)
    before = damaged(name)
    with pytest.raises(StoreFailed, match=r"malformed|damaged"):
        inspect_file(file)
    assert [each.name for each in file.parent.iterdir()] == [file.name], "nothing is made beside it"
    store = SqliteStore(file, WorkerId.of_this_process("me"))
    with pytest.raises(StoreFailed, match=r"malformed|damaged"):
        await store.open()
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.READ])
async def test_damage_that_is_met_while_it_is_open_is_reported_once(
    store: SqliteStore, new_call: Callable[..., CallDetails], many_slots: SlotLimits, kind: Kind
) -> None:
    def meets_damage(_: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(StoreFailed, match="malformed"):
                await store._writer.submit(kind, meets_damage)
            await store.admit(new_call(), many_slots, 1000.0)  # what does not touch the page goes on
    assert [(line["event"], line["log_level"]) for line in lines] == [("session_store_damaged", "error")]


def test_a_store_is_looked_at_without_a_change(file: Path) -> None:
    inspect_file(file)
    assert count_values(file, "agent") == 0
    assert not file.exists(), "it is not made"
    file.touch()
    inspect_file(file)
    assert file.read_bytes() == b""
    file.write_text("# Patchbay's settings, by mistake\n")
    for look in (inspect_file, lambda path: count_values(path, "agent")):
        with pytest.raises(StoreFailed, match="file is not a database"):
            look(file)
    with pytest.raises(StoreFailed, match="is a directory"):
        inspect_file(file.parent / ".." / file.parent.name)
    with pytest.raises(StoreFailed, match=r"the directory .* does not exist"):
        inspect_file(file.parent / "none" / "patchbay.db")


async def test_stored_agents_are_counted(store: SqliteStore, file: Path) -> None:
    await store.key_values.put("agent", "acme/support", "{}", now=1000.0)
    await store.key_values.put("key", "1", "{}", now=1000.0)
    inspect_file(file)
    assert count_values(file, "agent") == 1
