# SPDX-License-Identifier: BSD-2-Clause
"""The store that the URL in the configuration names."""

from __future__ import annotations

from pathlib import Path

from gateway.store.failover_store import FailoverStore
from gateway.store.interface import Store
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SQLITE = "sqlite:///"


def open_store(
    url: str,
    worker: WorkerId,
    *,
    admits_on_failure: bool = False,
    single_use_kinds: frozenset[str] = frozenset(),
    calls_per_organization: int = 0,
    may_create: bool = True,
) -> Store:
    """Return the store of `url` as `worker` has it; it is not open yet (`await store.open()`).

    "sqlite:///patchbay.db" is relative to the working directory, "sqlite:////var/lib/patchbay.db" absolute;
    the path is taken literally. Raises ValueError with a sentence for the operator for any other URL.

    `admits_on_failure`: calls are admitted while the store fails; see FailoverStore, also for
    `single_use_kinds`. `calls_per_organization`: active sessions of an organization; 0 sets no limit.
    `may_create`: if not, it must exist.
    """
    if not url.startswith(SQLITE):
        scheme = url.partition(":")[0]  # and no more of it: the rest may contain a password
        raise ValueError(f"the store's URL must begin with {SQLITE}, and {scheme!r} is another scheme")
    path = url.removeprefix(SQLITE)
    if not path or path.endswith("/"):
        raise ValueError("the store's URL names no file: sqlite:///patchbay.db does")
    if "\0" in path:
        raise ValueError("the store's URL holds a character that no file name has")
    if path == ":memory:":
        raise ValueError("the store must be a file: workers share it, and it outlives them")
    store = SqliteStore(
        Path(path).absolute(),
        worker,
        calls_per_organization=calls_per_organization,
        may_create=may_create,
    )
    if not admits_on_failure:
        return store
    return FailoverStore(
        store, single_use_kinds=single_use_kinds, calls_per_organization=calls_per_organization
    )
