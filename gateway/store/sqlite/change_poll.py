# SPDX-License-Identifier: BSD-2-Clause
"""Notifications between workers that share a SQLite file: one poll for the whole worker.

SQLite has no way to notify another process. It counts a file's commits for each connection
(https://sqlite.org/pragma.html#pragma_data_version); reading that count costs next to nothing. It tells that
another connection wrote something, so what this worker writes is published by its store itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.store.interface import StoreFailed
from gateway.store.notifications import Notifications, Topic

log = structlog.get_logger(__name__)

POLL_S: Final = 0.1
"""How often the count is read."""

URGENT_POLL_S: Final = 0.03
"""How often it is read while a subscriber is urgent, for example while one waits for an acknowledgement."""


class ChangePoll:
    """A notifications `Transport` that polls while there are subscribers."""

    def __init__(self, read_version: Callable[[], Awaitable[int]]) -> None:
        """`read_version`: `data_version` below, on the store's connection; may raise StoreFailed."""
        self.notifications = Notifications(self)
        self._read_version = read_version
        self._poll_s = POLL_S
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def listen(self, *, urgent: bool) -> None:
        self._poll_s = URGENT_POLL_S if urgent else POLL_S
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        elif urgent:
            self._hurry.set()

    def pause(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def send(self, topic: Topic, key: str) -> None:
        pass  # the write itself changes the version that other workers read

    async def _poll(self) -> None:
        version: int | None = None
        in_trouble = False
        while True:
            try:
                latest = await self._read_version()
            except StoreFailed as error:
                if not in_trouble:
                    log.warning("store", error=str(error))
                in_trouble = True
            else:
                in_trouble = False
                if latest != version:
                    version = latest
                    self.notifications.receive_any()
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._hurry.wait()


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection commits. In the writer's thread."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)
