# SPDX-License-Identifier: BSD-2-Clause
"""The history in the SQLite file (gateway/store/history.py documents the methods)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import astuple
from functools import partial
from typing import Final

from gateway.store.history import DAY_S, DayUsage, ManagementCall, Removed
from gateway.store.sqlite.writer import Kind, Writer

_CALL_COLUMNS: Final = "at, organization, key_id, method, path, status, request_id, peer"

_RECORD_CALL: Final = f"INSERT INTO management_call ({_CALL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants

_CALLS: Final = "FROM management_call WHERE organization = ? AND at >= ? AND at < ?"

# Totals of the days, and the sessions that are not in them yet.
_USAGE: Final = f"""
    SELECT day, agent, sum(sessions), sum(seconds) FROM (
        SELECT day, agent, sessions, seconds FROM day_usage
        WHERE organization = ?1 AND day BETWEEN ?2 AND ?3
        UNION ALL
        SELECT CAST(admitted_at / {DAY_S} AS INTEGER) AS day, agent, 1,
            max(0, coalesce(ending_at, ?4) - admitted_at)
        FROM session INDEXED BY session_active
        WHERE ended_at IS NULL AND organization = ?1 AND admitted_at IS NOT NULL
    ) WHERE day BETWEEN ?2 AND ?3 GROUP BY day, agent ORDER BY day, agent
"""  # noqa: S608 - constants

# Where blanking has got to: the end and the number of the last session that was blanked. It is a value like
# those of key_values.py, of a kind of its own.
_MARK: Final = "SELECT value FROM document WHERE kind = 'history' AND key = 'blanked'"
_SET_MARK: Final = """
    INSERT INTO document (kind, key, value, created_at) VALUES ('history', 'blanked', ?1, ?2)
    ON CONFLICT (kind, key) DO UPDATE SET value = ?1, created_at = ?2
"""

_TO_BLANK: Final = """
    SELECT ended_at, number FROM session INDEXED BY session_ended
    WHERE ended_at < ? AND (ended_at, number) > (?, ?) ORDER BY ended_at, number LIMIT ?
"""

_BLANK: Final = """
    UPDATE session
    SET call_id = NULL, stream_id = NULL, from_number = NULL, to_number = NULL,
        metadata = NULL, transcript = NULL, results = NULL
    WHERE number = ?
"""

_REMOVE_SESSIONS: Final = """
    DELETE FROM session WHERE number IN
        (SELECT number FROM session INDEXED BY session_ended WHERE ended_at < ? ORDER BY ended_at LIMIT ?)
"""

_REMOVE_CALLS: Final = """
    DELETE FROM management_call WHERE number IN
        (SELECT number FROM management_call WHERE at < ? ORDER BY number LIMIT ?)
"""


class SqliteHistory:
    """A `History` in the file of `writer`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def record_call(self, call: ManagementCall) -> asyncio.Future[None]:
        return self._writer.submit(Kind.DURABLE, partial(_record_call, call))

    async def management_calls(
        self, organization: str, since: float, before: float, *, limit: int, offset: int
    ) -> tuple[list[ManagementCall], int]:
        read = partial(_management_calls, (organization, since, before), limit, offset)
        return await self._writer.submit(Kind.READ, read)

    async def usage(
        self, organization: str, first_day: int, last_day: int, now: float
    ) -> tuple[DayUsage, ...]:
        return await self._writer.submit(Kind.READ, partial(_usage, (organization, first_day, last_day, now)))

    async def prune(self, sessions_before: float, calls_before: float, limit: int) -> Removed:
        prune = partial(_prune, sessions_before, calls_before, limit)
        return await self._writer.submit(Kind.REQUEST, prune)


# In the writer's thread.


def _record_call(call: ManagementCall, connection: sqlite3.Connection) -> None:
    connection.execute(_RECORD_CALL, astuple(call))


def _management_calls(
    values: tuple[str, float, float], limit: int, offset: int, connection: sqlite3.Connection
) -> tuple[list[ManagementCall], int]:
    (total,) = connection.execute(f"SELECT count(*) {_CALLS}", values).fetchone()
    rows = connection.execute(
        f"SELECT {_CALL_COLUMNS} {_CALLS} ORDER BY at DESC, number DESC LIMIT ? OFFSET ?",
        (*values, limit, offset),
    ).fetchall()
    return [ManagementCall(*row) for row in rows], total


def _usage(values: tuple[str, int, int, float], connection: sqlite3.Connection) -> tuple[DayUsage, ...]:
    return tuple(DayUsage(*row) for row in connection.execute(_USAGE, values).fetchall())


def _prune(
    sessions_before: float, calls_before: float, limit: int, connection: sqlite3.Connection
) -> Removed:
    # Otherwise what was deleted stays readable in the file until something else is written in its place.
    connection.execute("PRAGMA secure_delete = ON")
    try:
        blanked = _blank(sessions_before, limit, connection)
        removed = 0
        if blanked < limit:
            removed = connection.execute(_REMOVE_SESSIONS, (sessions_before, limit)).rowcount
        calls = connection.execute(_REMOVE_CALLS, (calls_before, limit)).rowcount
    finally:
        connection.execute("PRAGMA secure_delete = OFF")
    return Removed(blanked, removed, calls)


def _blank(before: float, limit: int, connection: sqlite3.Connection) -> int:
    found = connection.execute(_MARK).fetchone()
    ended_at, number = json.loads(found[0]) if found else (0.0, 0)
    rows = connection.execute(_TO_BLANK, (before, ended_at, number, limit)).fetchall()
    if rows:
        connection.executemany(_BLANK, [(number,) for _, number in rows])
        connection.execute(_SET_MARK, (json.dumps(rows[-1]), before))
    return len(rows)
