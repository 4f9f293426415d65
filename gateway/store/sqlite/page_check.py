# SPDX-License-Identifier: BSD-2-Clause
"""Looks for damaged pages when the file is opened: a store with one may open, and then refuse every call."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from gateway.store.interface import StoreFailed

WHOLE_BYTES: Final = 8 << 20
"""The largest file that is read as a whole, in some 40 ms. Of a larger one the history is left out: what each
call needs is small, and a start shall not take longer for what was once.
"""

_TABLES: Final = ("owner", "tally", "document", "waiting", "finished", "day_usage")
_ACTIVE: Final = "SELECT count(*) FROM session INDEXED BY session_active WHERE ended_at IS NULL"
_NEWEST: Final = "SELECT * FROM session ORDER BY number DESC LIMIT 1"


def check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreFailed if a page is damaged (https://sqlite.org/pragma.html#pragma_quick_check).

    Also raises sqlite3.DatabaseError where SQLite cannot read a page at all.
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    if pages * page_bytes <= WHOLE_BYTES:
        checks = ["PRAGMA quick_check(1)"]
    else:
        checks = [f"PRAGMA quick_check('{table}')" for table in _TABLES]
        for query in (_ACTIVE, _NEWEST):
            connection.execute(query).fetchall()
    for check in checks:
        found = connection.execute(check).fetchall()
        if found != [("ok",)]:
            detail = " ".join(str(found[0][0]).split())
            raise StoreFailed(f"the session store {path} is damaged, and a backup is needed: {detail}")
