# SPDX-License-Identifier: BSD-2-Clause
"""The store that the URL in the configuration names."""

from __future__ import annotations

from pathlib import Path

from gateway import DISTRIBUTION
from gateway.store.failover_store import FailoverStore
from gateway.store.interface import DurableStore, Store, StoreFailed
from gateway.store.redis.redis_address import (
    NO_PASSWORDS,
    RedisAddress,
    StorePasswords,
    is_redis,
    parse_redis_url,
)
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

SQLITE = "sqlite:///"

_MISSING = f"a store on Redis needs redis-py: pip install '{DISTRIBUTION}[redis]'"


def open_store(
    url: str,
    worker: WorkerId,
    *,
    passwords: StorePasswords = NO_PASSWORDS,
    max_history: int = 0,
    admits_on_failure: bool = False,
    single_use_kinds: frozenset[str] = frozenset(),
    calls_per_organization: int = 0,
    may_create: bool = True,
) -> Store:
    """Return the store of `url` as `worker` has it; it is not open yet (`await store.open()`).

    "sqlite:///patchbay.db" is relative to the working directory, "sqlite:////var/lib/patchbay.db" absolute;
    the path is taken literally. "redis://127.0.0.1:6379/0" is a server (redis/redis_address.py).
    Raises ValueError with a sentence for the operator for any other URL.

    `passwords`: of Redis. `max_history`: see RedisStore. `admits_on_failure`: calls are admitted while the
    store fails; see FailoverStore, also for `single_use_kinds`. `calls_per_organization`: active sessions of
    an organization; 0 sets no limit.
    `may_create`: if not, it must exist.
    """
    if is_redis(url):
        redis = _redis_store(parse_redis_url(url, passwords), worker, calls_per_organization, max_history)
        return _with_failover(redis, admits_on_failure, single_use_kinds, calls_per_organization)
    if not url.startswith(SQLITE):
        scheme = url.partition(":")[0]  # and no more of it: the rest may contain a password
        known = f"{SQLITE}, redis:// or rediss://, or redis+sentinel://"
        raise ValueError(f"the store's URL must begin with {known}, and {scheme!r} is another scheme")
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
    return _with_failover(store, admits_on_failure, single_use_kinds, calls_per_organization)


def inspect_redis(url: str, passwords: StorePasswords, kind: str) -> tuple[int, list[str]]:
    """Do what `redis_inspection.inspect_server` does. Raises StoreFailed, also if redis-py is missing."""
    try:
        from gateway.store.redis.redis_inspection import inspect_server  # noqa: PLC0415 - as below
    except ModuleNotFoundError as error:
        raise StoreFailed(_MISSING) from error
    return inspect_server(parse_redis_url(url, passwords), kind)


def _redis_store(
    address: RedisAddress, worker: WorkerId, calls_per_organization: int, max_history: int
) -> DurableStore:
    # Whoever has a file needs no redis-py.
    try:
        from gateway.store.redis.redis_store import RedisStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    return RedisStore(address, worker, calls_per_organization=calls_per_organization, max_history=max_history)


def _with_failover(
    store: DurableStore,
    admits_on_failure: bool,
    single_use_kinds: frozenset[str],
    calls_per_organization: int,
) -> Store:
    if not admits_on_failure:
        return store
    return FailoverStore(
        store, single_use_kinds=single_use_kinds, calls_per_organization=calls_per_organization
    )
