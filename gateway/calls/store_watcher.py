# SPDX-License-Identifier: BSD-2-Clause
"""Follows what other workers request of this one through the store.

Any worker may be asked to stop a session, to control its call, or to change an agent; only the worker that
owns the session can end it or tell its call, and every worker has to read the agents again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import Store, StoreFailed
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

REFRESH_S: Final = 1.0
"""The least time between two refreshes of the agents: with SQLite every write of another worker causes one.
"""


class StoreWatcher:
    """Ends this worker's sessions on request, handles commands, and keeps the stored agents up to date."""

    def __init__(
        self,
        store: Store,
        end_session: Callable[[str, CallEnded], bool],
        refresh_agents: Callable[[], Awaitable[None]],
        handle_commands: Callable[[], Awaitable[None]] | None = None,
        *,
        refresh_s: float = REFRESH_S,
    ) -> None:
        """`end_session`: ends the session with this id. It returns False if this worker does not have it, or
        not yet; it is then called again until the store says that the session is over.
        `refresh_agents`: reads the stored agents. `handle_commands`: reads and handles new commands.
        """
        self._store = store
        self._end_session = end_session
        self._refresh_agents = refresh_agents
        self._handle_commands = handle_commands
        self._refresh_s = refresh_s
        self._stopped: set[str] = set()  # sessions that were ended and are not over yet
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start to watch. To be called once."""
        assert not self._tasks, "it was started already"
        requests = self._follow(self._handle_requests, Topic.COMMAND_SENT, Topic.STOP_REQUESTED)
        agents = self._follow(self._refresh, Topic.AGENTS_CHANGED, min_interval_s=self._refresh_s)
        self._tasks = [asyncio.create_task(requests), asyncio.create_task(agents)]

    async def stop(self) -> None:
        """Stop watching; what it is doing is cancelled. May be called twice."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _follow(
        self, react: Callable[[], Awaitable[bool]], *topics: Topic, min_interval_s: float = 0.0
    ) -> None:
        """Call `react` after each notification, and again after a while if it returns False or fails."""
        in_trouble = False
        with self._store.notifications.subscribe(*topics) as subscription:
            while True:
                await subscription.wait(min_interval_s=min_interval_s)
                done = False
                try:
                    done = await react()
                    in_trouble = False
                except StoreFailed as error:
                    if not in_trouble and not error.is_reported:
                        log.warning("store", error=str(error))
                    in_trouble = True
                except Exception:  # the edge of one reaction: the next notification must still be handled
                    log.exception("internal error")
                if not done:
                    subscription.retry()

    async def _handle_requests(self) -> bool:
        # Commands first: a stop that follows a command ends the session with the command's reason.
        if self._handle_commands is not None:
            await self._handle_commands()
        session_ids = await self._store.stop_requests()
        self._stopped.intersection_update(session_ids)
        for session_id in session_ids:
            self.stop_session(session_id)
        return self._stopped.issuperset(session_ids)

    def stop_session(self, session_id: str) -> bool:
        """End a session that is to stop, as the store says. Return False if this worker does not have it."""
        if session_id in self._stopped:
            return True
        if not self._end_session(session_id, CallEnded(Reasons.stopped)):
            return False
        self._stopped.add(session_id)
        log.info("session is stopped on request", session=session_id)
        return True

    async def _refresh(self) -> bool:
        await self._refresh_agents()
        return True
