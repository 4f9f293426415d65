# SPDX-License-Identifier: BSD-2-Clause
"""Looks at a store without opening it as a worker does: nothing is created, migrated or written."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from gateway.store.interface import StoreFailed
from gateway.store.sqlite.page_check import check_pages
from gateway.store.sqlite.schema import check_directory, check_no_rest, version_of

_BUSY_S = 2.0


def inspect_file(path: Path) -> None:
    """Raise StoreFailed if a worker of this user could not open the store; a missing file is none."""
    check_directory(path)
    if not path.exists():
        check_no_rest(path)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise StoreFailed(f"the directory {path.parent} of the session store may not be written")
        return
    if path.is_dir():
        raise StoreFailed(f"the session store {path} is a directory")
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreFailed(f"the session store {path} may not be read and written")
    if not os.access(path.parent, os.W_OK | os.X_OK):  # -wal and -shm are made there
        raise StoreFailed(f"the directory {path.parent} of the session store may not be written")
    try:
        with closing(_read_only(path)) as connection:
            if version_of(connection, path):
                check_pages(connection, path)
    except sqlite3.Error as error:
        raise StoreFailed(f"the session store {path} cannot be used: {error}") from None


def count_values(path: Path, kind: str) -> int:
    """Return the number of stored values of a kind; 0 without a store. Raises StoreFailed."""
    if not path.exists():
        return 0
    try:
        with closing(_read_only(path)) as connection:
            if version_of(connection, path) < 2:  # the version that brought them
                return 0
            (count,) = connection.execute("SELECT count(*) FROM document WHERE kind = ?", (kind,)).fetchone()
    except sqlite3.Error as error:
        raise StoreFailed(f"the session store {path} cannot be used: {error}") from None
    return int(count)


def _read_only(path: Path) -> sqlite3.Connection:
    """Open the file so that none is made beside it: it would belong to whoever looks.

    SQLite makes -wal and -shm also to read. Where nobody has the store open, it is read without them
    (https://sqlite.org/uri.html, "immutable").
    """
    is_open = all(Path(f"{path}{suffix}").exists() for suffix in ("-wal", "-shm"))
    mode = "mode=ro" if is_open else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=_BUSY_S)
