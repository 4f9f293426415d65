# SPDX-License-Identifier: BSD-2-Clause
"""The one thread that writes: what it commits together, and what does not wait."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.sqlite import writer
from gateway.store.sqlite.writer import Kind, Writer


class Ledger:
    """A writer on a file of its own, and every transaction that it began."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.begun = 0
        self.writer = Writer("ledger", self._connect, close_s=1.0)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, isolation_level=None)
        connection.execute("CREATE TABLE entry (number INTEGER PRIMARY KEY, text TEXT)")
        connection.set_trace_callback(self._traced)
        return connection

    def _traced(self, statement: str) -> None:
        self.begun += statement.startswith("BEGIN")

    def write(self, kind: Kind, text: str) -> asyncio.Future[None]:
        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO entry (text) VALUES (?)", (text,))

        return self.writer.submit(kind, insert)

    def entries(self) -> list[str]:
        connection = sqlite3.connect(self.file)
        try:
            return [text for (text,) in connection.execute("SELECT text FROM entry ORDER BY number")]
        finally:
            connection.close()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    await ledger.writer.open()
    yield ledger
    await ledger.writer.close()


async def test_a_deferred_write_without_others_is_written(ledger: Ledger) -> None:
    await ledger.write(Kind.DEFERRED, "started")
    assert ledger.entries() == ["started"]


async def test_a_request_takes_deferred_writes_along(ledger: Ledger) -> None:
    busy = threading.Event()
    first = ledger.writer.submit(Kind.REQUEST, lambda _: busy.wait(10))
    deferred = [ledger.write(Kind.DEFERRED, f"started {number}") for number in range(3)]
    request = ledger.write(Kind.REQUEST, "admitted")
    busy.set()
    await asyncio.gather(first, *deferred, request)
    assert ledger.entries() == ["started 0", "started 1", "started 2", "admitted"]
    assert ledger.begun <= 2, "the first one, and all that came during it"


async def test_deferred_writes_in_a_row_share_a_commit(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GATHER_S", 0.5)
    deferred = [ledger.write(Kind.DEFERRED, f"started {number}") for number in range(20)]
    await asyncio.gather(*deferred)
    assert len(ledger.entries()) == 20
    assert ledger.begun <= 3, "however the threads took turns"


async def test_a_deferred_write_is_written_before_the_store_closes(ledger: Ledger) -> None:
    deferred = ledger.write(Kind.DEFERRED, "started")
    await ledger.writer.close()
    assert deferred.done()
    assert ledger.entries() == ["started"]
