# SPDX-License-Identifier: BSD-2-Clause
"""The key-value store in the SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from typing import Final

from gateway.store.interface import StoredValue
from gateway.store.sqlite.schema import text
from gateway.store.sqlite.writer import Kind, Writer

_PUT: Final = """
    INSERT INTO document (kind, key, value, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (kind, key) DO UPDATE SET value = ?3, created_at = ?4, expires_at = ?5
"""

_PUT_IF_ABSENT: Final = f"{_PUT} WHERE document.expires_at <= ?4"

_REPLACE: Final = """
    UPDATE document SET value = ?4, created_at = ?5, expires_at = ?6
    WHERE kind = ?1 AND key = ?2 AND value IN (?3, ?4) AND (expires_at IS NULL OR expires_at > ?5)
"""

_GET: Final = """
    SELECT kind, key, value, created_at, expires_at FROM document
    WHERE kind = ? AND key = ? AND (expires_at IS NULL OR expires_at > ?)
"""

_LIST: Final = """
    SELECT kind, key, value, created_at, expires_at FROM document
    WHERE kind = ? AND key >= ? AND key < ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY key
"""

PURGE_LIMIT: Final = 2000
"""The most values removed at once: other workers wait for the write lock meanwhile."""

_PURGE: Final = f"""
    DELETE FROM document WHERE rowid IN
        (SELECT rowid FROM document WHERE expires_at <= ? ORDER BY expires_at LIMIT {PURGE_LIMIT})
"""  # noqa: S608 - constants

_LAST: Final = "\U0010ffff"
"""An upper bound for what follows a prefix: no code point is greater, and this one is not a character."""


class SqliteKeyValueStore:
    """A `DurableKeyValueStore` (interface.py documents the methods) in the file of `writer`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        await self._write(_PUT, kind, key, text(value), now, expires_at)

    async def put_if_absent(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> bool:
        return await self._write(_PUT_IF_ABSENT, kind, key, text(value), now, expires_at)

    def put_if_absent_later(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None
    ) -> asyncio.Future[bool]:
        values = (kind, key, text(value), now, expires_at)
        return self._writer.submit(Kind.DURABLE, partial(_changes, _PUT_IF_ABSENT, values))

    async def replace(
        self,
        kind: str,
        key: str,
        before: str,
        value: str,
        *,
        now: float,
        expires_at: float | None = None,
    ) -> bool:
        return await self._write(_REPLACE, kind, key, text(before), text(value), now, expires_at)

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        values = await self._read(_GET, kind, key, now)
        return values[0] if values else None

    async def delete(self, kind: str, key: str) -> bool:
        return await self._write("DELETE FROM document WHERE kind = ? AND key = ?", kind, key)

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[StoredValue, ...]:
        return await self._read(_LIST, kind, prefix, prefix + _LAST, now)

    async def _write(self, statement: str, *values: str | float | None) -> bool:
        return await self._writer.submit(Kind.REQUEST, partial(_changes, statement, values))

    async def _read(self, statement: str, *values: str | float) -> tuple[StoredValue, ...]:
        return await self._writer.submit(Kind.READ, partial(_rows, statement, values))


# In the writer's thread.


def _changes(statement: str, values: tuple[str | float | None, ...], connection: sqlite3.Connection) -> bool:
    return connection.execute(statement, values).rowcount > 0


def _rows(
    statement: str, values: tuple[str | float, ...], connection: sqlite3.Connection
) -> tuple[StoredValue, ...]:
    return tuple(StoredValue(*row) for row in connection.execute(statement, values).fetchall())


def purge(now: float, connection: sqlite3.Connection) -> None:
    """Remove expired values, at most PURGE_LIMIT, the longest expired first."""
    connection.execute(_PURGE, (now,))
