# SPDX-License-Identifier: BSD-2-Clause
"""The SQLite file: its tables, its version, and how it is opened by several processes at once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import Party
from gateway.model.session import SessionRecord
from gateway.store.history import DAY_S
from gateway.store.interface import StoreFailed
from gateway.store.sqlite.page_check import check_pages

_NAMES: Final = [field.name for field in fields(SessionRecord)]
_STATE: Final = _NAMES.index("state")
_SIDE: Final = _NAMES.index("side")
_QUEUED: Final = _NAMES.index("queued")
_EXPRESSIONS: Final = {
    "session_id": "id",
    # Evaluated from left to right: only a pending session is looked up.
    "queued": "(admitted_at IS NULL AND ended_at IS NULL"
    " AND EXISTS (SELECT 1 FROM waiting WHERE waiting.id = session.id))",
}

COLUMNS: Final = ", ".join(_EXPRESSIONS.get(name, name) for name in _NAMES)
"""The columns of a session, in the order that `record` expects."""

BRIEF_COLUMNS: Final = COLUMNS.replace("transcript, results", "NULL, NULL")
"""The same with NULL for the reports, which may have a megabyte each."""


def record(row: tuple[Any, ...]) -> SessionRecord:
    """Return the record of a row of COLUMNS or BRIEF_COLUMNS."""
    values = list(row)
    values[_STATE] = SessionState(values[_STATE])
    if values[_SIDE] is not None:
        values[_SIDE] = Party(values[_SIDE])
    values[_QUEUED] = bool(values[_QUEUED])
    return SessionRecord(*values)


def text(value: str | None) -> str | None:
    """Return the text with "?" for lone surrogates: JSON from a carrier may have them, UTF-8 cannot."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "replace").decode()


APPLICATION_ID: Final = 0x50425359
"""`PRAGMA application_id` of our files, "PBSY", so that another program's database is never written to."""

OPEN_TIMEOUT_S: Final = 10.0
"""How long a worker waits for others that open the same file at the same time."""

_STATES: Final = ", ".join(f"'{state}'" for state in SessionState)
_OVER: Final = ", ".join(f"'{state}'" for state in SessionState if state in TERMINAL)
_ZEROES: Final = ", ".join(f"('{state}', 0)" for state in SessionState if state in TERMINAL)

# Each version of the tables is one step of migration, and an earlier file goes through the steps that it has
# not had. So a step that was released is never changed: a further change is a further step.

# A session is over if and only if `ended_at` is set; a CHECK keeps state and end consistent. `number` is the
# order of arrival. The partial index has only sessions that are not over, so that the cost of counting an
# agent's slots depends on its active calls and not on the length of the history. `tally` counts sessions that
# are over, for the same reason; it plays no part in admission.
_VERSION_1: Final = (
    f"""
    CREATE TABLE session (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        agent TEXT NOT NULL,
        organization TEXT NOT NULL,
        region TEXT NOT NULL,
        carrier TEXT NOT NULL,
        instance TEXT NOT NULL,
        owner TEXT NOT NULL,
        call_id TEXT,
        stream_id TEXT,
        from_number TEXT,
        to_number TEXT,
        state TEXT NOT NULL CHECK (state IN ({_STATES})),
        created_at REAL NOT NULL,
        started_at REAL,
        first_agent_sound_at REAL,
        ended_at REAL,
        frames_in INTEGER NOT NULL DEFAULT 0,
        bytes_in INTEGER NOT NULL DEFAULT 0,
        frames_out INTEGER NOT NULL DEFAULT 0,
        bytes_out INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        side TEXT,
        detail TEXT,
        close_code INTEGER,
        CHECK ((ended_at IS NOT NULL) = (state IN ({_OVER})))
    )
    """,
    "CREATE INDEX session_active ON session (agent, instance) WHERE ended_at IS NULL",
    "CREATE INDEX session_agent ON session (agent)",
    "CREATE INDEX session_organization ON session (organization)",
    """
    CREATE TABLE owner (
        id TEXT PRIMARY KEY,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        born INTEGER NOT NULL,
        heard_since REAL NOT NULL,
        beat_at REAL NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE TABLE tally (state TEXT PRIMARY KEY, sessions INTEGER NOT NULL) WITHOUT ROWID",
    f"INSERT INTO tally (state, sessions) VALUES {_ZEROES}",  # noqa: S608 - constants
    """
    CREATE TRIGGER session_over AFTER UPDATE OF ended_at ON session
    WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL
    BEGIN
        UPDATE tally SET sessions = sessions + 1 WHERE state = new.state;
    END
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
)

# A pending session has the instance and the owner "" and no `admitted_at`: in the index it sorts before all
# instances with a name, and is skipped when slots are counted. Pending sessions and stop requests have
# indexes of their own. Lists are by time, and most of their counts read an index only. Columns that may be
# long are the last, where SQLite can read a row without them. `ended_at` is part of the index of active
# sessions, though it is null in all of them, because SQLite would otherwise look it up in each row.
_VERSION_2: Final = (
    "ALTER TABLE session ADD COLUMN admitted_at REAL",
    "ALTER TABLE session ADD COLUMN promised_until REAL",
    "ALTER TABLE session ADD COLUMN transport TEXT NOT NULL DEFAULT 'telephony'",
    "ALTER TABLE session ADD COLUMN start_type TEXT",
    "ALTER TABLE session ADD COLUMN metadata TEXT",
    "ALTER TABLE session ADD COLUMN idle_timeout NUMERIC",
    "ALTER TABLE session ADD COLUMN max_duration NUMERIC",
    "ALTER TABLE session ADD COLUMN stop_requested_at REAL",
    "ALTER TABLE session ADD COLUMN completion_status TEXT",
    "ALTER TABLE session ADD COLUMN completed_at REAL",
    "ALTER TABLE session ADD COLUMN reported_seconds NUMERIC",
    "ALTER TABLE session ADD COLUMN transcript TEXT",
    "ALTER TABLE session ADD COLUMN results TEXT",
    "UPDATE session SET admitted_at = created_at",
    "DROP INDEX session_active",
    "DROP INDEX session_agent",
    "DROP INDEX session_organization",
    "CREATE INDEX session_active ON session (agent, instance, ended_at) WHERE ended_at IS NULL",
    "CREATE INDEX session_agent ON session (agent, created_at)",
    "CREATE INDEX session_organization ON session (organization, created_at)",
    "CREATE INDEX session_promise ON session (promised_until) WHERE admitted_at IS NULL AND ended_at IS NULL",
    "CREATE INDEX session_stop ON session (owner) WHERE stop_requested_at IS NOT NULL AND ended_at IS NULL",
    """
    CREATE TABLE document (
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        PRIMARY KEY (kind, key)
    )
    """,
    "CREATE INDEX document_expiry ON document (expires_at) WHERE expires_at IS NOT NULL",
)

# The queues of all agents, in the order of `number`.
_VERSION_3: Final = (
    """
    CREATE TABLE waiting (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        agent TEXT NOT NULL,
        owner TEXT NOT NULL,
        until REAL NOT NULL
    )
    """,
    "CREATE INDEX waiting_agent ON waiting (agent, number)",
)

_VERSION_4: Final = ("ALTER TABLE session ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0",)

# The end of a session whose instance may still be busy with it.
_VERSION_5: Final = (
    "ALTER TABLE session ADD COLUMN ending_at REAL",
    "ALTER TABLE session ADD COLUMN released_at REAL",
    "ALTER TABLE session ADD COLUMN released_by TEXT",
)

# The API key that a pending session was made with, and indexes to count by it and to forget those that never
# came. Neither has a row for a session that was admitted.
_VERSION_6: Final = (
    "ALTER TABLE session ADD COLUMN key_id TEXT",
    """
    CREATE INDEX session_pending ON session (organization, key_id, promised_until)
    WHERE admitted_at IS NULL AND ended_at IS NULL
    """,
    """
    CREATE INDEX session_unused ON session (promised_until) WHERE admitted_at IS NULL AND ended_at IS NOT NULL
    """,
)

# Totals by day outlive the sessions; those that never got a slot are not in them. `session_ended` finds the
# oldest sessions that are over.
_VERSION_7: Final = (
    "CREATE INDEX session_ended ON session (ended_at) WHERE ended_at IS NOT NULL",
    """
    CREATE TABLE day_usage (
        organization TEXT NOT NULL,
        day INTEGER NOT NULL,
        agent TEXT NOT NULL,
        sessions INTEGER NOT NULL,
        seconds REAL NOT NULL,
        PRIMARY KEY (organization, day, agent)
    ) WITHOUT ROWID
    """,
    f"""
    INSERT INTO day_usage (organization, day, agent, sessions, seconds)
    SELECT organization, CAST(admitted_at / {DAY_S} AS INTEGER), agent, count(*),
        sum(max(0, ended_at - admitted_at))
    FROM session WHERE ended_at IS NOT NULL AND admitted_at IS NOT NULL GROUP BY 1, 2, 3
    """,  # noqa: S608 - constants
    f"""
    CREATE TRIGGER session_used AFTER UPDATE OF ended_at ON session
    WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL AND new.admitted_at IS NOT NULL
    BEGIN
        INSERT INTO day_usage (organization, day, agent, sessions, seconds)
        VALUES (new.organization, CAST(new.admitted_at / {DAY_S} AS INTEGER), new.agent, 1,
            max(0, new.ended_at - new.admitted_at))
        ON CONFLICT (organization, day, agent) DO UPDATE
        SET sessions = sessions + 1, seconds = seconds + excluded.seconds;
    END
    """,  # noqa: S608 - constants
    """
    CREATE TABLE management_call (
        number INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        organization TEXT NOT NULL,
        key_id TEXT NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        status INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        peer TEXT NOT NULL
    )
    """,
    "CREATE INDEX management_call_time ON management_call (organization, at)",
)

_VERSION_8: Final = ("ALTER TABLE session ADD COLUMN heard_ms INTEGER",)

# How many sessions are over, so that a list need not count its whole history to say how long it is. Unlike
# `tally` it has only those that are still there.
_VERSION_9: Final = (
    """
    CREATE TABLE finished (
        agent TEXT NOT NULL,
        organization TEXT NOT NULL,
        state TEXT NOT NULL,
        sessions INTEGER NOT NULL,
        PRIMARY KEY (agent, organization, state)
    ) WITHOUT ROWID
    """,
    """
    INSERT INTO finished (agent, organization, state, sessions)
    SELECT agent, organization, state, count(*) FROM session WHERE ended_at IS NOT NULL GROUP BY 1, 2, 3
    """,
    """
    CREATE TRIGGER session_finished AFTER UPDATE OF ended_at ON session
    WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL
    BEGIN
        INSERT INTO finished (agent, organization, state, sessions)
        VALUES (new.agent, new.organization, new.state, 1)
        ON CONFLICT (agent, organization, state) DO UPDATE SET sessions = sessions + 1;
    END
    """,
    """
    CREATE TRIGGER session_forgotten AFTER DELETE ON session WHEN old.ended_at IS NOT NULL
    BEGIN
        UPDATE finished SET sessions = sessions - 1
        WHERE agent = old.agent AND organization = old.organization AND state = old.state;
    END
    """,
)

_STEPS: Final = (
    _VERSION_1,
    _VERSION_2,
    _VERSION_3,
    _VERSION_4,
    _VERSION_5,
    _VERSION_6,
    _VERSION_7,
    _VERSION_8,
    _VERSION_9,
)

VERSION: Final = len(_STEPS)
"""`PRAGMA user_version` of the tables above."""


def connect(path: Path, busy_s: float, *, may_create: bool = True) -> sqlite3.Connection:
    """Open the file; if needed, create it and its tables. Several processes may do so at once.

    `may_create`: if not, the file must exist, and have its tables. One of an earlier version is migrated in
    one transaction. A new file is readable by its user only: it contains phone numbers and secrets.
    `busy_s`: how long a statement waits for another process's write, in seconds. Raises StoreFailed if the
    file is not a session store, is broken or cannot be written; such a file is left unchanged.
    """
    check_directory(path)
    if not path.exists():
        if not may_create:
            raise StoreFailed(f"the session store {path} is missing, and other workers may have it open")
        check_no_rest(path)
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while True:
        try:
            return _open(path, busy_s, may_create=may_create)
        except sqlite3.OperationalError as error:
            # Changing an empty file to WAL needs exclusive access, for which SQLite does not wait by itself.
            if not _busy(error) or time.monotonic() > deadline:
                raise StoreFailed(f"the session store {path} cannot be opened: {error}") from error
            time.sleep(0.01)
        except sqlite3.DatabaseError as error:
            raise StoreFailed(f"the session store {path} cannot be used: {error}") from error


def check_directory(path: Path) -> None:
    """Raise StoreFailed if there is no directory for the store's file."""
    if not path.parent.is_dir():
        raise StoreFailed(f"the directory {path.parent} of the session store does not exist")


def check_no_rest(path: Path) -> None:
    """Raise StoreFailed if a store without its file has left its log: other workers may have both open."""
    if Path(f"{path}-wal").exists():
        raise StoreFailed(
            f"the session store {path} is missing, and {path.name}-wal is there: put the file back, or stop "
            "every Patchbay that uses it and remove the rest"
        )


def _open(path: Path, busy_s: float, *, may_create: bool) -> sqlite3.Connection:
    with contextlib.suppress(OSError):  # it exists, or SQLite will say why it cannot
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
    try:
        _prepare(connection, path, may_create=may_create)
    except (sqlite3.Error, StoreFailed):
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, may_create: bool) -> None:
    # Read before anything is written, because the file may be another program's; in one transaction, because
    # another worker may be creating the tables just now.
    connection.execute("BEGIN")
    version = version_of(connection, path)
    connection.execute("COMMIT")
    if not version and not may_create:
        raise StoreFailed(f"the session store {path} is empty, and other workers may have it open")
    # SQLite opens a read-only file without an error, and reports it at the first write.
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise StoreFailed(f"the session store {path} may not be written")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":  # not an error to SQLite
        raise StoreFailed(f"the file system of {path} cannot share a session store between processes")
    # A power failure may lose the last commits, though never the file's consistency; the calls of those
    # commits end with the same failure.
    connection.execute("PRAGMA synchronous = NORMAL")
    if version:
        check_pages(connection, path)
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for step in _STEPS[version_of(connection, path) :]:  # again: another process may have migrated it
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of our tables, 0 for an empty file. Raises StoreFailed for any other file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        return 0
    if application != APPLICATION_ID:
        raise StoreFailed(f"{path} is a database, but not a session store")
    if not 1 <= version <= VERSION:
        raise StoreFailed(
            f"the session store {path} has version {version} of the tables; this Patchbay knows {VERSION}"
        )
    return int(version)


def _busy(error: sqlite3.OperationalError) -> bool:
    """Whether another process has locked the file. The low byte of an extended code is the plain one."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
