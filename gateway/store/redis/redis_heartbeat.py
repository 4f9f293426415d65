# SPDX-License-Identifier: BSD-2-Clause
"""Heartbeats of a worker in the store on Redis: it lives, and this is what its calls have passed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from gateway.model.session import LiveTraffic
from gateway.store.interface import StoreFailed
from gateway.store.redis import redis_end_scripts as end_scripts
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_client import RedisClient
from gateway.store.redis.redis_own_sessions import OwnSessions, worker_arguments
from gateway.store.redis.redis_records import live_pairs
from gateway.store.redis.redis_values import clean, script
from gateway.store.worker_id import STALE_S, WorkerId

log = structlog.get_logger(__name__)

SESSIONS_AT_ONCE: Final = 200
"""Running sessions of which one script writes what they have passed."""

_HEARTBEAT: Final = script(end_scripts.HEARTBEAT)
_PASSED: Final = script(end_scripts.PASSED)
_PROBE: Final = script(end_scripts.PROBE)


class Heartbeat:
    """The heartbeats of one worker.

    `admits`: whether the server would admit a call, as the last heartbeat found it.
    """

    def __init__(
        self, client: RedisClient, worker: WorkerId, own: OwnSessions, *, server_clock: bool
    ) -> None:
        """`server_clock`: see RedisStore."""
        self.admits = True
        self._is_full = False
        self._client = client
        self._worker = worker
        self._own = own
        self._server_clock = server_clock

    async def beat(self, now: float) -> None:
        """Say that this worker lives, and learn whether the server would admit a call. Raises StoreFailed."""
        try:
            self.admits = await self._beat(now)
        except StoreFailed:
            self.admits = False
            raise

    async def write_passed(self, passed: Sequence[LiveTraffic]) -> None:
        """Write what running sessions have passed until now. Raises StoreFailed."""
        for at in range(0, len(passed), SESSIONS_AT_ONCE):
            page = passed[at : at + SESSIONS_AT_ONCE]
            values = [live_pairs(live) for live in page]
            columns: list[str | int] = []
            for each in values:
                columns += (len(each), *each)
            sessions = [keys.session(clean(live.session_id) or "") for live in page]
            await self._client.script(_PASSED, sessions, (self._worker.id, *columns))

    async def _beat(self, now: float) -> bool:
        """Return whether the server would admit a call. Raises StoreFailed."""
        arguments = (
            *worker_arguments(self._worker),
            "" if self._server_clock else repr(float(now)),
            STALE_S,
        )
        names = (keys.worker(self._worker.id), keys.WORKERS)
        (is_known, _) = await self._client.script(_HEARTBEAT, names, arguments)
        await self._own.look_again(is_known=bool(is_known))
        try:
            await self._client.script(_PROBE, names[:1], ())
        except StoreFailed as failure:  # a full server, which takes heartbeats
            if not self._is_full:
                log.error("session_store_failed", error=str(failure), owed=self._client.pending_writes)
            self._is_full = True
            return False
        if self._is_full:
            log.info("session_store_recovered", written=0)
        self._is_full = False
        return True
