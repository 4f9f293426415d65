# SPDX-License-Identifier: BSD-2-Clause
"""Which workers live, and what is cleared away behind the dead and the expired, in the SQLite file.

All of it runs in the writer's thread, in a transaction.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons
from gateway.model.session import SessionRecord
from gateway.store.sqlite.key_values import purge
from gateway.store.sqlite.schema import COLUMNS, record
from gateway.store.worker_id import STALE_S, WorkerId

# A gap in a worker's own beats begins its being heard anew; a clock set back counts as a gap.
_BEAT: Final = """
    INSERT INTO owner (id, host, pid, born, heard_since, beat_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
    ON CONFLICT (id) DO UPDATE SET
        heard_since = CASE WHEN ?5 - beat_at BETWEEN 0 AND ?6 THEN heard_since ELSE ?5 END, beat_at = ?5
"""

_HEARD: Final = """
    SELECT EXISTS (SELECT 1 FROM owner
                   WHERE id = ?1 AND ?2 - heard_since >= ?3 AND ?2 - beat_at BETWEEN 0 AND ?3)
"""

_REAP: Final = f"""
    UPDATE session
    SET state = '{SessionState.FAILED}', ended_at = ?, reason = ?, side = ?, detail = ?, close_code = ?
    WHERE owner = ? AND ended_at IS NULL
    RETURNING number, {COLUMNS}
"""  # noqa: S608 - constants

_EXPIRE: Final = f"""
    UPDATE session
    SET state = '{SessionState.CANCELED}', ended_at = ?1, reason = ?2, side = ?3, detail = ?4, close_code = ?5
    WHERE admitted_at IS NULL AND ended_at IS NULL AND promised_until <= ?1
"""  # noqa: S608 - constants

_LEAVE: Final = """
    DELETE FROM owner
    WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM session WHERE owner = ?1 AND ended_at IS NULL)
"""


def beat(me: WorkerId, now: float, connection: sqlite3.Connection) -> None:
    connection.execute(_BEAT, (me.id, me.host, me.pid, me.born, now, STALE_S))


def leave(me: WorkerId, connection: sqlite3.Connection) -> None:
    connection.execute(_LEAVE, (me.id,))


def reap(me: WorkerId, now: float, connection: sqlite3.Connection) -> list[SessionRecord]:
    """The sessions of dead workers, ended; what has expired goes too."""
    _expire(now, connection)
    # Silence proves a death only to one who was heard all the while: after the file was out of reach for
    # everybody, or the machine slept, everybody was silent, and the first to wake must not end all calls.
    (may_judge,) = connection.execute(_HEARD, (me.id, now, STALE_S)).fetchone()
    rows = connection.execute(
        "SELECT id, host, pid, born, beat_at FROM owner WHERE id <> ?", (me.id,)
    ).fetchall()
    lost: list[tuple[Any, ...]] = []
    for owner_id, host, pid, born, beat_at in rows:
        if host == me.host:
            dead = WorkerId(owner_id, host, pid, born).process_gone()
            why = f"process {pid} is gone"
        else:
            # A beat far in the future is of a clock that was set back since.
            dead = may_judge and abs(now - beat_at) > STALE_S
            why = f"nothing heard for {abs(now - beat_at):.0f} s"
        if dead:
            lost += _bury(owner_id, why, now, connection)
    lost.sort()  # by number, which is unique
    return [record(row[1:]) for row in lost]


def _expire(now: float, connection: sqlite3.Connection) -> None:
    reason = Reasons.idle_timeout
    connection.execute(
        _EXPIRE, (now, reason.code, reason.side, "nobody connected in time", reason.close_code)
    )
    purge(now, connection)
    connection.execute("DELETE FROM waiting WHERE until <= ?", (now,))


def _bury(owner_id: str, why: str, now: float, connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    reason = Reasons.gateway_lost
    lost = connection.execute(
        _REAP, (now, reason.code, reason.side, why, reason.close_code, owner_id)
    ).fetchall()
    connection.execute("DELETE FROM waiting WHERE owner = ?", (owner_id,))
    connection.execute("DELETE FROM owner WHERE id = ?", (owner_id,))
    return lost
