# SPDX-License-Identifier: BSD-2-Clause
"""The stores that every test of this directory is run with.

A new kind of store joins by one more entry in FACTORIES. What concerns only one kind (its file, its
processes, its failures) is tested in a directory of its own, as in tests/store/sqlite.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gateway.auth.media_tokens import NONCES
from gateway.calls.stream_history import CALL_NONCES, CALL_SOCKETS
from gateway.store.failover_store import FailoverStore
from gateway.store.interface import Store
from gateway.store.redis.redis_address import parse_redis_url
from gateway.store.redis.redis_store import RedisStore
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness import redis_server

PATIENT_S = 30.0
"""However long another worker holds the store's lock, it is waited for."""


class StoreFactory(Protocol):
    """Make the store at `location` as `worker` has it. Stores at one location share their sessions."""

    def __call__(self, location: Path, worker: WorkerId, *, calls_per_organization: int = 0) -> Store: ...


def sqlite(location: Path, worker: WorkerId, *, calls_per_organization: int = 0) -> SqliteStore:
    """Make a SQLite store in the file patchbay.db."""
    file = location / "patchbay.db"
    return SqliteStore(file, worker, busy_s=PATIENT_S, calls_per_organization=calls_per_organization)


def failover_sqlite(location: Path, worker: WorkerId, *, calls_per_organization: int = 0) -> FailoverStore:
    """Make a SQLite store that admits while its file fails; here it does not."""
    return FailoverStore(
        sqlite(location, worker, calls_per_organization=calls_per_organization),
        single_use_kinds=frozenset({NONCES, CALL_NONCES, CALL_SOCKETS}),
        calls_per_organization=calls_per_organization,
    )


def redis(location: Path, worker: WorkerId, *, calls_per_organization: int = 0) -> RedisStore:
    """Make a store on the tests' Redis server, by the times of the tests."""
    return RedisStore(
        parse_redis_url(redis_server.url_of(location)),
        worker,
        calls_per_organization=calls_per_organization,
        server_clock=False,
    )


FACTORIES: Mapping[str, StoreFactory] = {"sqlite": sqlite, "failover-sqlite": failover_sqlite, "redis": redis}
