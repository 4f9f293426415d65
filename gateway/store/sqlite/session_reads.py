# SPDX-License-Identifier: BSD-2-Clause
"""Queries for sessions in the SQLite file: one, a page of many, the number by state.

All functions run in the writer's thread.
"""

from __future__ import annotations

import sqlite3

from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.session import SessionRecord
from gateway.store.interface import Counts, SessionFilter
from gateway.store.sqlite.schema import BRIEF_COLUMNS, COLUMNS, record, text


def session(session_id: str, connection: sqlite3.Connection) -> SessionRecord | None:
    """Return the record of one session, None if it is unknown."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM session WHERE id = ?",  # noqa: S608 - constants
        (text(session_id),),
    ).fetchone()
    return record(row) if row else None


def ending(worker_id: str, connection: sqlite3.Connection) -> list[SessionRecord]:
    """Return a worker's sessions that are ending, oldest first."""
    rows = connection.execute(
        f"SELECT {BRIEF_COLUMNS} FROM session INDEXED BY session_active "  # noqa: S608 - constants
        "WHERE ended_at IS NULL AND state = ? AND owner = ? ORDER BY number",
        (SessionState.ENDING, worker_id),
    ).fetchall()
    return [record(row) for row in rows]


def sessions(
    matching: SessionFilter, limit: int, offset: int, with_reports: bool, connection: sqlite3.Connection
) -> tuple[list[SessionRecord], int]:
    """Return a page of the sessions that match, newest first, and the number of all that match."""
    if not matching.states():
        return [], 0
    table = _table(matching)
    where, values = _condition(matching)
    total = _total(matching, connection)
    columns = COLUMNS if with_reports else BRIEF_COLUMNS
    rows = connection.execute(
        f"SELECT {columns} FROM {table} WHERE {where} "  # noqa: S608 - of constants, as above
        "ORDER BY created_at DESC, number DESC LIMIT ? OFFSET ?",
        [*values, limit, offset],
    ).fetchall()
    return [record(row) for row in rows], total


def counts(connection: sqlite3.Connection) -> Counts:
    """Return the number of sessions by state."""
    active = {state: 0 for state in SessionState if state not in TERMINAL}
    over = {state: 0 for state in SessionState if state in TERMINAL}
    for state, number in connection.execute(
        "SELECT state, count(*) FROM session INDEXED BY session_active WHERE ended_at IS NULL GROUP BY state"
    ):
        active[SessionState(state)] = number
    for state, number in connection.execute("SELECT state, sessions FROM tally"):
        over[SessionState(state)] = number
    return Counts(active, over)


def _total(matching: SessionFilter, connection: sqlite3.Connection) -> int:
    """Return how many sessions match. What is over was counted when it ended, unless a time is asked for."""
    where, values = _condition(matching)
    states = matching.states()
    over = sorted(states & TERMINAL)
    is_counted = (matching.start_type, matching.created_from, matching.created_before) == (None, None, None)
    if not over or not is_counted:
        (total,) = connection.execute(
            f"SELECT count(*) FROM {_table(matching)} WHERE {where}",  # noqa: S608 - of constants, as above
            values,
        ).fetchone()
        return int(total)
    scope = {"agent": text(matching.agent), "organization": text(matching.organization)}
    parts = [f"state IN ({', '.join(f'{state!r}' for state in map(str, over))})"]
    parts += [f"{name} = ?" for name, value in scope.items() if value is not None]
    given = [value for value in scope.values() if value is not None]
    (total,) = connection.execute(
        f"SELECT coalesce(sum(sessions), 0) FROM finished WHERE {' AND '.join(parts)}",  # noqa: S608 - as above
        given,
    ).fetchone()
    if states - TERMINAL:
        (active,) = connection.execute(
            f"SELECT count(*) FROM session INDEXED BY session_active WHERE ended_at IS NULL AND {where}",  # noqa: S608
            values,
        ).fetchone()
        total += active
    return int(total)


def _table(matching: SessionFilter) -> str:
    # The index is chosen here: SQLite does not know how few of the sessions are active.
    if not matching.states() & TERMINAL:
        return "session INDEXED BY session_active"
    if matching.agent is not None:
        return "session INDEXED BY session_agent"
    if matching.organization is not None:
        return "session INDEXED BY session_organization"
    return "session"


def _condition(matching: SessionFilter) -> tuple[str, list[str | float]]:
    """Return the WHERE clause and the values of its parameters."""
    conditions: dict[str, str | float | None] = {
        "agent = ?": text(matching.agent),
        "organization = ?": text(matching.organization),
        "start_type = ?": text(matching.start_type),
        "created_at >= ?": matching.created_from,
        "created_at < ?": matching.created_before,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    states = matching.states()
    parts = list(given)
    if not states & TERMINAL:
        parts.append("ended_at IS NULL")
    if states != set(SessionState):
        parts.append("state IN (" + ", ".join(f"'{state}'" for state in sorted(states)) + ")")
    return " AND ".join(parts) or "true", list(given.values())
