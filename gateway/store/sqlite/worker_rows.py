# SPDX-License-Identifier: BSD-2-Clause
"""Heartbeats of workers in the SQLite file, and the clean-up after dead workers and expired rows.

All functions run in the writer's thread, in a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from gateway.model.json_text import dump
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons
from gateway.model.session import MEDIA_SOCKETS, LiveTraffic, SessionRecord
from gateway.store.interface import UNUSED_S
from gateway.store.sqlite.key_values import purge
from gateway.store.sqlite.schema import COLUMNS, record
from gateway.store.worker_id import STALE_S, WorkerId

# `heard_since`: since when this worker's heartbeats have had no gap. A clock that was set back is a gap.
_HEARTBEAT: Final = """
    INSERT INTO owner (id, host, pid, born, heard_since, beat_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
    ON CONFLICT (id) DO UPDATE SET
        heard_since = CASE WHEN ?5 - beat_at BETWEEN 0 AND ?6 THEN heard_since ELSE ?5 END, beat_at = ?5
"""

# All sessions in one statement: between two the thread gives up the interpreter, and on a busy machine waits
# for it again while it holds the write lock.
_PASSED: Final = f"""
    UPDATE session
    SET frames_in = passed.frames_in, bytes_in = passed.bytes_in,
        frames_out = passed.frames_out, bytes_out = passed.bytes_out, heard_ms = passed.heard_ms,
        first_agent_sound_at = passed.first_sound_at
    FROM (SELECT json_extract(value, '$[0]') AS id,
                 json_extract(value, '$[1]') AS frames_in, json_extract(value, '$[2]') AS bytes_in,
                 json_extract(value, '$[3]') AS frames_out, json_extract(value, '$[4]') AS bytes_out,
                 json_extract(value, '$[5]') AS heard_ms, json_extract(value, '$[6]') AS first_sound_at
          FROM json_each(?)) AS passed
    WHERE session.id = passed.id AND owner = ? AND state = '{SessionState.RUNNING}'
"""  # noqa: S608 - constants

_WAS_ALIVE_THROUGHOUT: Final = """
    SELECT EXISTS (SELECT 1 FROM owner
                   WHERE id = ?1 AND ?2 - heard_since >= ?3 AND ?2 - beat_at BETWEEN 0 AND ?3)
"""

_MEDIA_SOCKETS: Final = ", ".join(f"'{transport}'" for transport in MEDIA_SOCKETS)

_END_LOST: Final = f"""
    UPDATE session
    SET state = '{SessionState.FAILED}', ended_at = ?, reason = ?, side = ?, detail = ?, close_code = ?
    WHERE owner = ? AND ended_at IS NULL
    RETURNING number, {COLUMNS}
"""  # noqa: S608 - constants

# A session that ran without a media socket: what its agent does is not known, and somebody has to see to it.
_BEGIN_END_LOST: Final = f"""
    UPDATE session
    SET state = '{SessionState.ENDING}', ending_at = ?, reason = ?, side = ?, detail = ?, close_code = ?,
        owner = ?
    WHERE owner = ? AND ended_at IS NULL AND transport NOT IN ({_MEDIA_SOCKETS})
    RETURNING number, {COLUMNS}
"""  # noqa: S608 - constants

_TAKE_OVER_ENDING: Final = f"""
    UPDATE session SET owner = ?2 WHERE owner = ?1 AND state = '{SessionState.ENDING}'
"""  # noqa: S608 - constants

_CANCEL_EXPIRED: Final = f"""
    UPDATE session
    SET state = '{SessionState.CANCELED}', ended_at = ?1, reason = ?2, side = ?3, detail = ?4, close_code = ?5
    WHERE admitted_at IS NULL AND ended_at IS NULL AND promised_until <= ?1
"""  # noqa: S608 - constants

UNUSED_LIMIT: Final = 500
"""The most unused sessions that are removed at once: other workers wait for the write lock meanwhile."""

_FORGET_UNUSED: Final = f"""
    DELETE FROM session WHERE number IN
        (SELECT number FROM session INDEXED BY session_unused
         WHERE admitted_at IS NULL AND ended_at IS NOT NULL AND promised_until <= ?
         ORDER BY promised_until LIMIT {UNUSED_LIMIT})
"""  # noqa: S608 - constants

_LEAVE: Final = """
    DELETE FROM owner
    WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM session WHERE owner = ?1 AND ended_at IS NULL)
"""


def heartbeat(worker: WorkerId, now: float, connection: sqlite3.Connection) -> None:
    """Record that `worker` is alive."""
    connection.execute(_HEARTBEAT, (worker.id, worker.host, worker.pid, worker.born, now, STALE_S))


def write_passed(worker: WorkerId, passed: Sequence[LiveTraffic], connection: sqlite3.Connection) -> None:
    """Write what running sessions of `worker` have passed. One that has ended since is not changed."""
    rows = [
        (
            live.session_id,
            live.traffic.frames_in,
            live.traffic.bytes_in,
            live.traffic.frames_out,
            live.traffic.bytes_out,
            live.traffic.heard_ms,
            live.first_agent_sound_at,
        )
        for live in passed
    ]
    connection.execute(_PASSED, (dump(rows).decode(), worker.id))


def leave(worker: WorkerId, connection: sqlite3.Connection) -> None:
    """Remove a worker that stops. One that still has sessions stays, so that it can be found dead."""
    connection.execute(_LEAVE, (worker.id,))


def reap(worker: WorkerId, now: float, connection: sqlite3.Connection) -> list[SessionRecord]:
    """End the sessions of dead workers, or begin to; return them, oldest first. Remove what has expired.

    `worker`: the worker that judges the others.
    """
    _remove_expired(now, connection)
    # Silence proves a death only to a worker that was alive throughout it: after the file was out of reach,
    # or the machine slept, all workers were silent, and the first to wake must not end the calls of the
    # others.
    (may_judge,) = connection.execute(_WAS_ALIVE_THROUGHOUT, (worker.id, now, STALE_S)).fetchone()
    rows = connection.execute(
        "SELECT id, host, pid, born, beat_at FROM owner WHERE id <> ?", (worker.id,)
    ).fetchall()
    lost: list[tuple[Any, ...]] = []
    for other_id, host, pid, born, beat_at in rows:
        if host == worker.host:
            dead = WorkerId(other_id, host, pid, born).process_gone()
            detail = f"process {pid} is gone"
        else:
            # A heartbeat far in the future is of a clock that was set back since.
            dead = may_judge and abs(now - beat_at) > STALE_S
            detail = f"nothing heard for {abs(now - beat_at):.0f} s"
        if dead:
            lost += _remove_dead(other_id, worker, detail, now, connection)
    lost.sort()  # by number, which is unique
    return [record(row[1:]) for row in lost]


def _remove_expired(now: float, connection: sqlite3.Connection) -> None:
    reason = Reasons.idle_timeout
    connection.execute(
        _CANCEL_EXPIRED, (now, reason.code, reason.party, "nobody connected in time", reason.close_code)
    )
    connection.execute(_FORGET_UNUSED, (now - UNUSED_S,))
    purge(now, connection)
    connection.execute("DELETE FROM waiting WHERE until <= ?", (now,))


def _remove_dead(
    worker_id: str, heir: WorkerId, detail: str, now: float, connection: sqlite3.Connection
) -> list[tuple[Any, ...]]:
    reason = Reasons.gateway_lost
    connection.execute(_TAKE_OVER_ENDING, (worker_id, heir.id))
    end = (now, reason.code, reason.party, detail, reason.close_code)
    lost = connection.execute(_BEGIN_END_LOST, (*end, heir.id, worker_id)).fetchall()
    lost += connection.execute(_END_LOST, (*end, worker_id)).fetchall()
    connection.execute("DELETE FROM waiting WHERE owner = ?", (worker_id,))
    connection.execute("DELETE FROM owner WHERE id = ?", (worker_id,))
    return lost
