# SPDX-License-Identifier: BSD-2-Clause
"""The SQLite file: its tables, its version, and how it is opened by several processes at once."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from gateway.sessions.lifecycle import TERMINAL, State
from gateway.sessions.store import StoreFailed

APPLICATION_ID: Final = 0x50425359
"""`PRAGMA application_id` of our files, "PBSY": another program's database is not written to."""

VERSION: Final = 1
"""`PRAGMA user_version` of the tables below."""

OPEN_TIMEOUT_S: Final = 10.0
"""How long a worker waits for others that open the same file."""

COLUMNS: Final = (
    "id, agent, organization, region, carrier, instance, owner, call_id, stream_id, from_number, to_number, "
    "state, created_at, started_at, first_agent_sound_at, ended_at, "
    "frames_in, bytes_in, frames_out, bytes_out, reason, side, detail, close_code"
)
"""The columns of a session, in the order of SessionRecord's fields."""

_STATES: Final = ", ".join(f"'{state}'" for state in State)
_OVER: Final = ", ".join(f"'{state}'" for state in State if state in TERMINAL)
_ZEROES: Final = ", ".join(f"('{state}', 0)" for state in State if state in TERMINAL)

# A session is active while `ended_at` is null, and the file itself holds state and end together. `number` is
# the order of admission. The partial index holds active sessions only, so that counting an agent's places
# costs as much as it has calls, however long the history is. `tally` counts those that are over, for the
# same reason; places are never counted with it.
_TABLES: Final = (
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
    f"PRAGMA user_version = {VERSION}",
)


def connect(path: Path, busy_s: float) -> sqlite3.Connection:
    """Opens the file, making it and its tables where there is none; many processes may do so at once.

    `busy_s`: how long a statement waits for another process's write. Raises StoreFailed for a file that is
    not ours, is broken or cannot be written; such a file is left as it was.
    """
    if not path.parent.is_dir():
        raise StoreFailed(f"the directory {path.parent} of the session store does not exist")
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while True:
        try:
            return _open(path, busy_s)
        except sqlite3.OperationalError as error:
            # Changing an empty file to WAL needs it alone and does not wait for others by itself.
            if not _busy(error) or time.monotonic() > deadline:
                raise StoreFailed(f"the session store {path} cannot be opened: {error}") from error
            time.sleep(0.01)
        except sqlite3.DatabaseError as error:
            raise StoreFailed(f"the session store {path} cannot be used: {error}") from error


def _open(path: Path, busy_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
    try:
        _prepare(connection, path)
    except (sqlite3.Error, StoreFailed):
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # First of all it reads, and writes nothing to a file that is not ours; in one transaction, or another
    # worker that is just making the tables would be seen half way.
    connection.execute("BEGIN")
    version = _version(connection, path)
    connection.execute("COMMIT")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":  # SQLite does not call it an error
        raise StoreFailed(f"the file system of {path} cannot share a session store between processes")
    # A lost power supply may take the last commits with it, but never the file's consistency; the calls of
    # those commits are lost with the same supply.
    connection.execute("PRAGMA synchronous = NORMAL")
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    if _version(connection, path) != VERSION:  # nobody was faster
        for statement in _TABLES:
            connection.execute(statement)
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of our tables; 0 for an empty file. Raises StoreFailed for anything else."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        return 0
    if application != APPLICATION_ID:
        raise StoreFailed(f"{path} is a database, but not a session store")
    if version != VERSION:
        raise StoreFailed(
            f"the session store {path} has version {version} of the tables; this Patchbay knows {VERSION}"
        )
    return VERSION


def _busy(error: sqlite3.OperationalError) -> bool:
    """Whether another process is at the file; extended result codes carry the plain one in their low byte."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
