# SPDX-License-Identifier: BSD-2-Clause
"""The end of a session in the SQLite file: at once, or once its instance is free.

All functions run in the writer's thread, in a transaction.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.model.lifecycle import SessionState, terminal_state
from gateway.model.reasons import REASONS
from gateway.model.session import ReleasedBy, SessionResult
from gateway.store.sqlite.schema import text
from gateway.store.sqlite.session_writes import log_unchanged

# `started_at` tells whether the session ran: lifecycle.terminal_state().
_END: Final = f"""
    UPDATE session
    SET state = CASE WHEN started_at IS NULL THEN ? ELSE ? END,
        ended_at = ?, reason = ?, side = ?, detail = ?, close_code = ?, completion_status = ?,
        frames_in = ?, bytes_in = ?, frames_out = ?, bytes_out = ?, first_agent_sound_at = ?,
        heard_ms = ?
    WHERE id = ? AND ended_at IS NULL AND state <> '{SessionState.ENDING}'
"""  # noqa: S608 - constants

_BEGIN_END: Final = f"""
    UPDATE session
    SET state = '{SessionState.ENDING}',
        ending_at = ?, reason = ?, side = ?, detail = ?, close_code = ?, completion_status = ?,
        frames_in = ?, bytes_in = ?, frames_out = ?, bytes_out = ?, first_agent_sound_at = ?,
        heard_ms = ?
    WHERE id = ? AND ended_at IS NULL AND admitted_at IS NOT NULL AND state <> '{SessionState.ENDING}'
"""  # noqa: S608 - constants

_ENDING: Final = f"""
    SELECT started_at, reason FROM session WHERE id = ? AND state = '{SessionState.ENDING}'
"""  # noqa: S608 - constants

_RELEASE: Final = """
    UPDATE session SET state = ?, ended_at = ending_at, released_at = ?, released_by = ? WHERE id = ?
"""

_CORRECT_PLAYED: Final = "UPDATE session SET heard_ms = ? WHERE id = ? AND heard_ms IS NOT NULL"

_END_IF_UNATTACHED: Final = f"{_END} AND stream_id IS NULL"


def end(session_id: str, result: SessionResult, connection: sqlite3.Connection) -> None:
    """End a session that is not over; free the slot of one that is ending."""
    if connection.execute(_END, _end_values(session_id, result)).rowcount:
        return
    if not _release(session_id, None, None, connection):
        log_unchanged("session_end_ignored", session_id, connection)


def end_if_unattached(session_id: str, result: SessionResult, connection: sqlite3.Connection) -> bool:
    """End a session that is not over and has no stream. Return True if it ended."""
    return connection.execute(_END_IF_UNATTACHED, _end_values(session_id, result)).rowcount > 0


def begin_end(session_id: str, result: SessionResult, connection: sqlite3.Connection) -> None:
    """Record why a session ends; it keeps its slot."""
    values = _end_values(session_id, result)[2:]  # without the terminal states
    if not connection.execute(_BEGIN_END, values).rowcount:
        log_unchanged("session_end_ignored", session_id, connection)


def release(session_id: str, at: float, by: ReleasedBy | None, connection: sqlite3.Connection) -> None:
    """Free the slot of a session that is ending. No effect on any other."""
    _release(session_id, at, by, connection)


def correct_played(session_id: str, heard_ms: int, connection: sqlite3.Connection) -> None:
    """Change how much of the agent's sound was heard, of a session whose end says it."""
    connection.execute(_CORRECT_PLAYED, (heard_ms, text(session_id)))


def _release(
    session_id: str, at: float | None, by: ReleasedBy | None, connection: sqlite3.Connection
) -> bool:
    """Return False if the session is not ending."""
    stored_id = text(session_id)
    found = connection.execute(_ENDING, (stored_id,)).fetchone()
    if found is None:
        return False
    started_at, code = found
    reason = REASONS.get(code)
    reported = SessionState.FAILED if reason is None or reason.failed else SessionState.ENDED
    state = terminal_state(started_at is not None, reported)
    connection.execute(_RELEASE, (state, at, by, stored_id))
    return True


def _end_values(session_id: str, result: SessionResult) -> tuple[str | int | float | None, ...]:
    traffic = result.traffic
    return (
        terminal_state(False, result.state),
        terminal_state(True, result.state),
        result.ended_at,
        text(result.reason),
        result.side,
        text(result.detail),
        result.close_code,
        text(result.completion_status),
        traffic.frames_in,
        traffic.bytes_in,
        traffic.frames_out,
        traffic.bytes_out,
        result.first_agent_sound_at,
        traffic.heard_ms,
        text(session_id),
    )
