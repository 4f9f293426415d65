# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for sessions to end, whichever worker owns them.

All who wait share one look at the store after each notification: the numbers of sessions that are over and
that are ending. Only if one of them has changed are the sessions themselves read. While there are no waiters,
nothing is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakKeyDictionary, proxy

import structlog

from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.store.interface import Store, StoreFailed
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.1
"""The least time between two looks at the store."""

END_WRITE_TIMEOUT_S: Final = 1.0
"""How long a call that has ended waits until its end is written; the store retries after that."""

Ended = asyncio.Future[None]


class SessionEvents:
    """The tasks of this worker that wait for the end of a session, by session."""

    def __init__(self, store: Store) -> None:
        self._store: Store = proxy(store)  # the dictionary below must not keep a store alive
        self._waiting: dict[str, dict[Ended, bool]] = {}  # True: `ending` is enough
        self._task: asyncio.Task[None] | None = None

    @property
    def waiters(self) -> int:
        """The number of futures that are not done and not left."""
        return sum(map(len, self._waiting.values()))

    @contextmanager
    def waiting(self, session_id: str, *, ending: bool = False) -> Iterator[Ended]:
        """Give a future that is done once the session has ended, or is unknown.

        `ending`: or once it is `ending`, with its instance still busy.

        Read the session's record after entering, not before, or an end in between would be missed. Leaving
        cancels the future.
        """
        ended: Ended = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(session_id, {})[ended] = ending
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        try:
            yield ended
        finally:
            ended.cancel()
            waiters = self._waiting.get(session_id)
            if waiters is not None:
                waiters.pop(ended, None)
                if not waiters:
                    del self._waiting[session_id]
            if not self._waiting and self._task is not None:
                self._task.cancel()
                self._task = None

    def ended(self, session_id: str) -> None:
        """Wake all that wait for this session.

        Call it after passing the end to the store: later reads return the ended record, though the end may
        not be committed yet.
        """
        for ended in self._waiting.get(session_id, ()):
            if not ended.done():
                ended.set_result(None)

    def ending(self, session_id: str) -> None:
        """Wake all for whom it is enough that this session is `ending`; else as `ended`."""
        for ended, is_enough in self._waiting.get(session_id, {}).items():
            if is_enough and not ended.done():
                ended.set_result(None)

    async def _follow(self) -> None:
        over = None  # so that the first look reads every session: one may have ended before it was counted
        in_trouble = False
        with self._store.notifications.subscribe(Topic.SESSION_ENDED) as subscription:
            while True:
                await subscription.wait(min_interval_s=LOOK_S)
                try:
                    counts = await self._store.counts()
                    over_now = sum(counts.over.values()), counts.active[SessionState.ENDING]
                    if over_now != over:
                        await self._read_each()
                        over = over_now
                    in_trouble = False
                except StoreFailed as error:
                    if not in_trouble and not error.is_reported:
                        log.warning("store", error=str(error))
                    in_trouble = True
                    subscription.retry()

    async def _read_each(self) -> None:
        for session_id in list(self._waiting):
            record = await self._store.session(session_id)
            if record is None or record.state in TERMINAL:
                self.ended(session_id)
            elif record.state is SessionState.ENDING:
                self.ending(session_id)


_events: WeakKeyDictionary[Store, SessionEvents] = WeakKeyDictionary()


def session_events(store: Store) -> SessionEvents:
    """Return the one SessionEvents of a store, shared by those that end sessions and those that wait."""
    events = _events.get(store)
    if events is None:
        events = _events[store] = SessionEvents(store)
    return events


async def end_saved(written: asyncio.Future[None] | asyncio.Future[bool]) -> None:
    """Wait until an end that was passed to the store is written, END_WRITE_TIMEOUT_S at most."""
    await asyncio.wait([written], timeout=END_WRITE_TIMEOUT_S)
