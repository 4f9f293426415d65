# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for sessions to be over, whichever worker carries them.

Everybody who waits shares one look at the store: how many sessions are over, at most ten times a second, and
not at all while nobody waits. Only when that number has changed are the sessions themselves looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakKeyDictionary, proxy

import structlog

from gateway.model.lifecycle import TERMINAL
from gateway.store.interface import Store, StoreFailed

log = structlog.get_logger(__name__)

POLL_S: Final = 0.1

END_WRITE_TIMEOUT_S: Final = 1.0
"""How long who has ended waits for its end to be written; the store goes on trying without."""

Over = asyncio.Future[None]


class SessionEvents:
    """Those who wait in this process, by session."""

    def __init__(self, store: Store, *, poll_s: float = POLL_S) -> None:
        self._store: Store = proxy(store)  # the watch of a store must not keep it
        self._poll_s = poll_s
        self._waiting: dict[str, set[Over]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def waiters(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @contextmanager
    def waiting(self, session_id: str) -> Iterator[Over]:
        """A future that is done once the session seems to be over; to be asked for before the store is read.

        Leaving frees it, and the last who leaves ends the looking.
        """
        over: Over = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(session_id, set()).add(over)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield over
        finally:
            over.cancel()
            waiters = self._waiting.get(session_id)
            if waiters is not None:
                waiters.discard(over)
                if not waiters:
                    del self._waiting[session_id]
            if not self._waiting and self._task is not None:
                self._task.cancel()
                self._task = None

    def ended(self, session_id: str) -> None:
        """To be told by whoever hands an end to the store: what is read from the store after this has it."""
        for over in self._waiting.get(session_id, ()):
            if not over.done():
                over.set_result(None)

    async def _look(self) -> None:
        seen = None  # so the first time all are looked at: one may have ended before anybody counted
        while True:
            try:
                now_over = sum((await self._store.counts()).over.values())
                if now_over != seen:
                    await self._look_at_each()
                    seen = now_over
            except StoreFailed as error:  # whoever waits is answered by its own look, at the latest
                log.warning("store", error=str(error))
            await asyncio.sleep(self._poll_s)

    async def _look_at_each(self) -> None:
        for session_id in list(self._waiting):
            record = await self._store.session(session_id)
            if record is None or record.state in TERMINAL:
                self.ended(session_id)


_watches: WeakKeyDictionary[Store, SessionEvents] = WeakKeyDictionary()


def session_events(store: Store) -> SessionEvents:
    """The one watch of a store, where whoever ends sessions and whoever waits for that meet."""
    watch = _watches.get(store)
    if watch is None:
        watch = _watches[store] = SessionEvents(store)
    return watch


async def end_saved(written: asyncio.Future[None] | asyncio.Future[bool]) -> None:
    """Waits for an end that was handed to the store, not for ever."""
    await asyncio.wait([written], timeout=END_WRITE_TIMEOUT_S)
