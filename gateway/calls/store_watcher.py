# SPDX-License-Identifier: BSD-2-Clause
"""Watches the store for what other workers ask of this one.

Any worker may be asked to stop a session, or to change an agent's settings; only the worker that carries the
session can end it, and each has to read the settings anew. What they share is the store, so each looks there
whether anything was written, which costs next to nothing, ten times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import Store, StoreFailed

log = structlog.get_logger(__name__)

POLL_S: Final = 0.1
"""How often the store is asked whether anything was written."""

REFRESH_S: Final = 1.0
"""The shortest time between two refreshes; a busy store is written to all the time."""


class StoreWatcher:
    """Ends this worker's sessions that somebody asked to stop; has what the store keeps read anew."""

    def __init__(
        self,
        store: Store,
        end_call: Callable[[str, CallEnded], bool],
        refresh: Callable[[], Awaitable[None]],
        look: Callable[[], Awaitable[None]] | None = None,
        *,
        poll_s: float = POLL_S,
        refresh_s: float = REFRESH_S,
    ) -> None:
        """`end_call`: ends the session of an id; False where this worker has none of it, or not yet: it is
        asked again then, until the store says that the session is over. A second call may find a session that
        is ending already.
        `refresh`: reads anew what the store keeps; after a change, and once at the beginning.
        `look`: looks for what cannot wait that long; after each change.
        """
        self._store = store
        self._end_call = end_call
        self._refresh = refresh
        self._look_for_more = look
        self._poll_s = poll_s
        self._refresh_s = refresh_s
        self._look = True  # for stops, until a look succeeded
        self._stale = True
        self._refresh_from = 0.0  # loop time
        self._told: set[str] = set()
        self._in_trouble = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch."""
        assert self._task is None, "it was started already"
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stops watching; what it was doing is broken off."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _watch(self) -> None:
        while True:
            try:
                await self._round()
            except StoreFailed as error:
                if not self._in_trouble:
                    log.warning("store", error=str(error))
                self._in_trouble = True
            except Exception:  # the edge of a round: the next one must come, or no stop is heard any more
                log.exception("internal error")
            else:
                self._in_trouble = False
            await asyncio.sleep(self._poll_s)

    async def _round(self) -> None:
        if await self._store.changed():
            self._look = self._stale = True
            if self._look_for_more is not None:
                await self._look_for_more()
        if self._look:
            self._look = not self._end(await self._store.stops_requested())
        now = asyncio.get_running_loop().time()
        if self._stale and now >= self._refresh_from:
            self._refresh_from = now + self._refresh_s
            await self._refresh()
            self._stale = False

    def _end(self, session_ids: list[str]) -> bool:
        """Ends them; whether each was found."""
        self._told.intersection_update(session_ids)
        for session_id in session_ids:
            if session_id not in self._told and self._end_call(session_id, CallEnded(Reasons.stopped)):
                self._told.add(session_id)
                log.info("session is stopped on request", session=session_id)
        return self._told.issuperset(session_ids)
