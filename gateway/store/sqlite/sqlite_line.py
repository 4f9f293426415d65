# SPDX-License-Identifier: BSD-2-Clause
"""The lines of calls that wait for a place, in the SQLite file.

A line has no order but that of arrival, whichever worker a call came to. Who has given up by its own account,
or is of a dead worker, is passed over. All of it runs in the writer's thread, in a transaction.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.model.session import CallDetails, QueueLimit
from gateway.store.sqlite.schema import text
from gateway.store.worker_id import WorkerId

_AHEAD: Final = """
    SELECT count(*) FROM waiting
    WHERE agent = ?1 AND until > ?3
        AND number < coalesce((SELECT number FROM waiting WHERE id = ?2), 9223372036854775807)
"""

_JOIN: Final = """
    INSERT INTO waiting (id, agent, owner, until)
    SELECT ?1, ?2, ?3, ?4 WHERE (SELECT count(*) FROM waiting WHERE agent = ?2 AND until > ?5) < ?6
    ON CONFLICT (id) DO NOTHING
"""


def join(
    details: CallDetails, queue: QueueLimit, owner: WorkerId, now: float, connection: sqlite3.Connection
) -> int | None:
    """The call's number in its agent's line, where it stands from now on; None if the line is full."""
    known = text(details.session_id)
    row = (known, text(details.agent), owner.id, queue.until, now, queue.size)
    connection.execute(_JOIN, row)
    found = connection.execute("SELECT number FROM waiting WHERE id = ?", (known,)).fetchone()
    return int(found[0]) if found else None


def ahead(details: CallDetails, now: float, connection: sqlite3.Connection) -> int:
    """How many came before this call; everybody, where it does not stand in the line."""
    row = (text(details.agent), text(details.session_id), now)
    (count,) = connection.execute(_AHEAD, row).fetchone()
    return int(count)


def leave(session_id: str, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM waiting WHERE id = ?", (text(session_id),))
