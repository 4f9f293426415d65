# SPDX-License-Identifier: BSD-2-Clause
"""Reading sessions back from the SQLite file: one, a page of many, how many."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from gateway.model.lifecycle import ACTIVE, TERMINAL, SessionState
from gateway.model.session import SessionRecord
from gateway.store.interface import Counts
from gateway.store.sqlite.schema import BRIEF_COLUMNS, COLUMNS, record, text


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions are to be listed: the filters of Store.sessions()."""

    agent: str | None
    organization: str | None
    active: bool | None
    state: SessionState | None
    start_type: str | None
    created_from: float | None
    created_before: float | None

    def states(self) -> set[SessionState]:
        """The states that match."""
        states = set(SessionState) if self.state is None else {self.state}
        if self.active is not None:
            states &= ACTIVE if self.active else TERMINAL
        return states

    def source(self) -> str:
        """The table with the index to go by, chosen here: SQLite would not know how many are active."""
        if not self.states() & TERMINAL:
            return "session INDEXED BY session_active"
        if self.agent is not None:
            return "session INDEXED BY session_agent"
        if self.organization is not None:
            return "session INDEXED BY session_organization"
        return "session"

    def where(self) -> tuple[str, list[str | float]]:
        """The condition, and the values of its parameters."""
        conditions: dict[str, str | float | None] = {
            "agent = ?": text(self.agent),
            "organization = ?": text(self.organization),
            "start_type = ?": text(self.start_type),
            "created_at >= ?": self.created_from,
            "created_at < ?": self.created_before,
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        states = self.states()
        parts = list(given)
        if not states & TERMINAL:
            parts.append("ended_at IS NULL")
        if states != set(SessionState):
            parts.append("state IN (" + ", ".join(f"'{state}'" for state in sorted(states)) + ")")
        return " AND ".join(parts) or "true", list(given.values())


def session(session_id: str, connection: sqlite3.Connection) -> SessionRecord | None:
    row = connection.execute(
        f"SELECT {COLUMNS} FROM session WHERE id = ?",  # noqa: S608 - constants
        (text(session_id),),
    ).fetchone()
    return record(row) if row else None


def sessions(
    wanted: SessionFilter, limit: int, offset: int, with_reports: bool, connection: sqlite3.Connection
) -> tuple[list[SessionRecord], int]:
    if not wanted.states():
        return [], 0
    source = wanted.source()
    where, values = wanted.where()
    (total,) = connection.execute(f"SELECT count(*) FROM {source} WHERE {where}", values).fetchone()  # noqa: S608
    columns = COLUMNS if with_reports else BRIEF_COLUMNS
    rows = connection.execute(
        f"SELECT {columns} FROM {source} WHERE {where} "  # noqa: S608 - of constants, as above
        "ORDER BY created_at DESC, number DESC LIMIT ? OFFSET ?",
        [*values, limit, offset],
    ).fetchall()
    return [record(row) for row in rows], total


def counts(connection: sqlite3.Connection) -> Counts:
    active = {state: 0 for state in SessionState if state not in TERMINAL}
    over = {state: 0 for state in SessionState if state in TERMINAL}
    for state, number in connection.execute(
        "SELECT state, count(*) FROM session INDEXED BY session_active WHERE ended_at IS NULL GROUP BY state"
    ):
        active[SessionState(state)] = number
    for state, number in connection.execute("SELECT state, sessions FROM tally"):
        over[SessionState(state)] = number
    return Counts(active, over)
