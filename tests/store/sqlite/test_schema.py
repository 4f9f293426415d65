# SPDX-License-Identifier: BSD-2-Clause
"""The file: its mode, and the migration of earlier versions."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionResult, SlotLimits
from gateway.store.interface import AtCapacity, SessionFilter, StoreFailed
from gateway.store.sqlite.schema import VERSION, connect

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]

VERSION_1 = Path(__file__).with_name("version_1.sql")
OVER = "0f3c54d0-7a60-4d93-9d44-6e2d4c1f9a01"
RUNNING = "0f3c54d0-7a60-4d93-9d44-6e2d4c1f9a02"


def make_version_1(file: Path) -> None:
    old = sqlite3.connect(file)
    old.executescript(VERSION_1.read_text())
    old.close()
    file.chmod(0o600)


def schema(file: Path) -> list[tuple[str, str, str]]:
    """What tables, columns, indexes and triggers there are; spaces do not count."""
    opened = sqlite3.connect(file)
    rows = opened.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name")
    found = [(kind, name, re.sub(r"\s+", "", sql)) for kind, name, sql in rows]
    opened.close()
    return found


def version(file: Path) -> int:
    opened = sqlite3.connect(file)
    (number,) = opened.execute("PRAGMA user_version").fetchone()
    opened.close()
    return int(number)


def running_since(file: Path) -> float:
    opened = sqlite3.connect(file)
    ((at,),) = opened.execute("SELECT created_at FROM session WHERE id = ?", (RUNNING,)).fetchall()
    opened.close()
    return float(at)


async def test_a_file_of_version_1_is_migrated_with_its_content(
    file: Path, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits, hung_up: SessionResult
) -> None:
    make_version_1(file)
    store = await open_worker()
    assert version(file) == VERSION

    over = await store.session(OVER)
    assert (over.state, over.reason, over.bytes_in) == (SessionState.ENDED, "caller_hangup", 480_000)
    assert (over.created_at, over.admitted_at, over.promised_until) == (900.0, 900.0, None)
    assert (over.transport, over.start_type, over.metadata) == ("telephony", None, None)
    assert (over.stop_requested_at, over.completed_at, over.transcript) == (None, None, None)

    (used,) = await store.history.usage("acme", 0, 0, 1000.0)
    assert used.sessions == 2
    assert used.seconds == over.ended_at - over.admitted_at + 1000.0 - running_since(file)

    running = await store.session(RUNNING)
    assert running.active
    assert (await store.counts()).total == 2
    with pytest.raises(AtCapacity, match="1 of 1 slots in use"):  # it occupies its slot as before
        await store.admit(new_call(), one_slot, 1000.0)
    await store.end(RUNNING, hung_up)
    await store.admit(new_call(), one_slot, 1000.0)
    records, _ = await store.sessions(SessionFilter(organization="acme"))
    assert [record.session_id for record in records[1:]] == [RUNNING, OVER]


async def test_a_migrated_file_is_like_a_new_one(file: Path, tmp_path: Path) -> None:
    make_version_1(file)
    connect(file, 1.0).close()
    connect(tmp_path / "new.db", 1.0).close()
    assert schema(file) == schema(tmp_path / "new.db")


async def test_a_worker_of_the_release_before_can_still_end_its_calls(
    file: Path, open_worker: OpenWorker, new_call: NewCall, one_slot: SlotLimits
) -> None:
    make_version_1(file)
    store = await open_worker()
    old = sqlite3.connect(file, isolation_level=None)
    old.execute(
        "UPDATE session SET state = 'ended', ended_at = ?, reason = 'caller_hangup', side = 'caller', "
        "detail = '', close_code = 1000 WHERE id = ? AND ended_at IS NULL",
        (1000.0, RUNNING),
    )
    old.close()
    assert (await store.counts()).over[SessionState.ENDED] == 2
    await store.admit(new_call(), one_slot, 1001.0)


async def test_two_workers_migrate_the_same_file_at_once(start_worker: StartWorker, tmp_path: Path) -> None:
    workers = [await start_worker("east"), await start_worker("west")]
    for n in range(10):
        old = tmp_path / f"{n}.db"
        make_version_1(old)
        assert await asyncio.gather(*(w.run("open", path=str(old)) for w in workers)) == ["open", "open"]
        await asyncio.gather(*(w.run("close") for w in workers))
        assert version(old) == VERSION


def test_a_file_that_cannot_be_migrated_is_unchanged(file: Path) -> None:
    make_version_1(file)
    spoiled = sqlite3.connect(file)
    spoiled.execute("CREATE TABLE document (of TEXT)")  # the last steps fail
    spoiled.close()
    before = schema(file)
    with pytest.raises(StoreFailed, match="table document already exists"):
        connect(file, 1.0)
    assert (schema(file), version(file)) == (before, 1)


def test_a_new_file_is_readable_by_its_user_only(file: Path, tmp_path: Path) -> None:
    opened = connect(file, 1.0)
    for made in tmp_path.iterdir():  # also the log that SQLite writes beside it
        assert made.stat().st_mode & 0o777 == 0o600
    opened.close()


def test_an_existing_file_keeps_what_its_group_may(file: Path) -> None:
    os.close(os.open(file, os.O_CREAT, 0o600))
    file.chmod(0o640)
    connect(file, 1.0).close()
    assert file.stat().st_mode & 0o777 == 0o640
