# SPDX-License-Identifier: BSD-2-Clause
"""From the store's URL in the configuration to the store."""

from __future__ import annotations

from pathlib import Path

from gateway.store.failover_store import FailoverStore
from gateway.store.interface import Store
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SQLITE = "sqlite:///"


def open_store(
    url: str, owner: WorkerId, *, admits_without_store: bool = False, calls_per_organization: int = 0
) -> Store:
    """The store of `url`, for the worker `owner`; still to be opened with `await store.open()`.

    `admits_alone`: also while the file fails. `calls_per_organization`: how many at once; 0 sets no limit.

    "sqlite:///patchbay.db" is relative to the working directory, "sqlite:////var/lib/patchbay.db" absolute;
    the path is taken as it stands. Raises ValueError, in words, for anything else.
    """
    if not url.startswith(SQLITE):
        scheme = url.partition(":")[0]  # and no more of it: it may hold a password
        raise ValueError(f"the store's URL must begin with {SQLITE}, and {scheme!r} is another scheme")
    path = url.removeprefix(SQLITE)
    if not path or path.endswith("/"):
        raise ValueError("the store's URL names no file: sqlite:///patchbay.db does")
    if "\0" in path:
        raise ValueError("the store's URL holds a character that no file name has")
    if path == ":memory:":
        raise ValueError("the store must be a file: workers share it, and it outlives them")
    kind = FailoverStore if admits_without_store else SqliteStore
    return kind(Path(path).absolute(), owner, calls_per_organization=calls_per_organization)
