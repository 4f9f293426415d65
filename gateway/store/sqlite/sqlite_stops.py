# SPDX-License-Identifier: BSD-2-Clause
"""Wishes to stop a session, from any worker to the one that carries it, through the SQLite file.

All of it runs in the writer's thread.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons
from gateway.store.sqlite.schema import text

_REQUEST: Final = """
    UPDATE session SET stop_requested_at = coalesce(stop_requested_at, ?) WHERE id = ? AND ended_at IS NULL
"""

_CANCEL: Final = f"""
    UPDATE session
    SET state = '{SessionState.CANCELED}', ended_at = ?, reason = ?, side = ?, detail = '', close_code = ?
    WHERE id = ? AND state = '{SessionState.CREATED}'
"""  # noqa: S608 - constants

_REQUESTED: Final = """
    SELECT id FROM session INDEXED BY session_stop
    WHERE owner = ? AND stop_requested_at IS NOT NULL AND ended_at IS NULL ORDER BY number
"""


class StopRequests:
    """What one worker asks of others, and hears of them."""

    def __init__(self, owner_id: str) -> None:
        self._owner_id = owner_id
        self._seen: int | None = None  # the file's version when it was last looked at
        self._asked_here = False  # which the file's version does not tell: it is of other processes' writes

    def request(self, session_id: str, at: float, connection: sqlite3.Connection) -> bool:
        known = text(session_id)
        if not connection.execute(_REQUEST, (at, known)).rowcount:
            return False
        self._asked_here = True
        reason = Reasons.stopped
        connection.execute(_CANCEL, (at, reason.code, reason.side, reason.close_code, known))
        return True

    def changed(self, connection: sqlite3.Connection) -> bool:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        changed = version != self._seen or self._asked_here
        self._seen = version
        self._asked_here = False
        return changed

    def requested(self, connection: sqlite3.Connection) -> list[str]:
        return [session_id for (session_id,) in connection.execute(_REQUESTED, (self._owner_id,)).fetchall()]
