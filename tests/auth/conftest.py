# SPDX-License-Identifier: BSD-2-Clause
"""A store in a file, as several workers open it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId

OpenStore = Callable[[], Awaitable[SqliteStore]]

BUSY_S = 30.0
"""Seconds that a store waits while another process has locked the file: longer than any test needs."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "patchbay.db"


@pytest.fixture
async def open_store(file: Path) -> AsyncIterator[OpenStore]:
    """Opens the store as another worker. All are closed in the end."""
    opened: list[SqliteStore] = []

    async def open_another() -> SqliteStore:
        worker = WorkerId.of_this_process(f"worker-{len(opened)}")
        opened.append(SqliteStore(file, worker, busy_s=BUSY_S))
        await opened[-1].open()
        return opened[-1]

    yield open_another
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> SqliteStore:
    return await open_store()
