# SPDX-License-Identifier: BSD-2-Clause
"""The key-value store in the SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.session import CallDetails
from gateway.store.interface import KeyValueStore, StoreFailed
from gateway.store.sqlite import key_values
from gateway.store.sqlite.sqlite_store import SqliteStore

NewCall = Callable[..., CallDetails]
OpenWorker = Callable[..., Any]
StartWorker = Callable[..., Any]


@pytest.fixture
def values(store: SqliteStore) -> KeyValueStore:
    return store.key_values


async def test_reaping_removes_expired_values(store: SqliteStore, values: KeyValueStore, file: Path) -> None:
    for n in range(5):
        await values.put("nonce", f"{n}", "1", now=1000.0, expires_at=1001.0 + n)
    await values.put("key", "for ever", "1", now=1000.0)
    await store.reap(1003.0)
    onlooker = sqlite3.connect(file)
    left = onlooker.execute("SELECT key FROM document ORDER BY key").fetchall()
    assert left == [("3",), ("4",), ("for ever",)]
    onlooker.close()


async def test_many_expired_values_are_removed_in_parts(
    store: SqliteStore, values: KeyValueStore, file: Path
) -> None:
    # One reap holds the write lock, for which calls of other workers wait.
    limit = key_values.PURGE_LIMIT
    other = sqlite3.connect(file)
    other.executemany(
        "INSERT INTO document VALUES ('nonce', ?, '1', 1000.0, 1001.0)", ((str(n),) for n in range(limit + 1))
    )
    other.commit()
    await store.reap(1002.0)
    assert other.execute("SELECT count(*) FROM document").fetchone() == (1,)
    await store.reap(1003.0)
    assert other.execute("SELECT count(*) FROM document").fetchone() == (0,)
    other.close()


async def test_a_file_that_does_not_answer_fails_the_operation(open_worker: OpenWorker, file: Path) -> None:
    store = await open_worker(busy_s=0.02)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreFailed, match="database is locked"):
        await store.key_values.put_if_absent("nonce", "n", "1", now=1000.0)
    other.execute("ROLLBACK")
    other.close()
    assert await store.key_values.put_if_absent("nonce", "n", "1", now=1000.0)
    await store.close()
    with pytest.raises(StoreFailed, match="is not open"):
        await store.key_values.get("nonce", "n", 1000.0)
