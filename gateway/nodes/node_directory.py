# SPDX-License-Identifier: BSD-2-Clause
"""Which node each worker is on, in the store.

A worker's id is made anew whenever its process starts, so its address never changes, and a successor of the
same name is another worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from gateway.store.interface import KeyValueStore

KIND: Final = "node"

ANNOUNCED_S: Final = 60.0
"""How long an announcement is good for. A worker renews it with each heartbeat (a few seconds); clocks of
machines differ by less than the rest.
"""

MAX_REMEMBERED: Final = 4096


class NodeDirectory:
    """The addresses of all workers, as one worker sees and announces them."""

    def __init__(self, values: KeyValueStore, worker: str, url: str, now: Callable[[], float]) -> None:
        """`worker`: this worker's id, `url`: its node's address. `now`: Unix seconds."""
        self._values = values
        self._worker = worker
        self.url = url
        self._now = now
        self._known: dict[str, str] = {}

    async def announce(self) -> None:
        """Write this worker's address, for ANNOUNCED_S. Raises StoreFailed."""
        now = self._now()
        value = json.dumps({"url": self.url})
        await self._values.put(KIND, self._worker, value, now=now, expires_at=now + ANNOUNCED_S)

    async def withdraw(self) -> None:
        """Remove this worker's address. Raises StoreFailed."""
        await self._values.delete(KIND, self._worker)

    async def url_of(self, worker: str) -> str | None:
        """Return the address of a worker's node, None if it has none. Raises StoreFailed."""
        if worker == self._worker:
            return self.url
        if worker in self._known:
            return self._known[worker]
        found = await self._values.get(KIND, worker, self._now())
        if found is None:
            return None
        url = json.loads(found.value).get("url")
        if not isinstance(url, str):
            return None
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[worker] = url
        return url

    async def all(self) -> dict[str, list[str]]:
        """Return all workers that are announced, by the address of their node. Raises StoreFailed."""
        workers: dict[str, list[str]] = {}
        for found in await self._values.list(KIND, self._now()):
            url = json.loads(found.value).get("url")
            if isinstance(url, str):
                workers.setdefault(url, []).append(found.key)
        return workers

    def forget(self, worker: str) -> None:
        """Look the address of a worker up again when it is needed: it was not found there."""
        self._known.pop(worker, None)
