# SPDX-License-Identifier: BSD-2-Clause
"""Writes on sessions that nobody waits for: in order, until they succeed; others are told once they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from gateway.store.notifications import Notifications, Topic
from gateway.store.redis.redis_client import RedisClient, Script
from gateway.store.redis.redis_scopes import SessionScopes
from gateway.store.redis.redis_values import clean

log = structlog.get_logger(__name__)


class SessionWrites:
    """Writes with a worker's client, and notifies with its notifications."""

    def __init__(self, client: RedisClient, scopes: SessionScopes, notifications: Notifications) -> None:
        self._client = client
        self._scopes = scopes
        self._notifications = notifications

    def script_later(
        self, text: Script, names: Sequence[str], arguments: Sequence[Any]
    ) -> asyncio.Future[Any]:
        """Run a script, in order and until it succeeds."""
        return self._client.write_later(lambda: self._client.script_late(text, names, arguments))

    def session_later(
        self,
        text: Script,
        session_id: str,
        *arguments: Any,
        ignored: Callable[[str], None] = lambda _: None,
    ) -> asyncio.Future[None]:
        """Run a script on a session, in order and until it succeeds.

        `ignored`: is called with the session's state if it had no effect.
        """

        async def write() -> None:
            names = await self._scopes.keys_of(session_id, is_late=True)
            answer = await self._client.script_late(text, names, (clean(session_id) or "", *arguments))
            if answer[0] == "unchanged":
                ignored(answer[1])

        return self._client.write_later(write)

    def notify(self, session_id: str, *topics: Topic) -> None:
        """Publish that something about a session has changed."""
        for topic in topics:
            self._notifications.publish(topic, session_id)

    def notify_after(
        self, written: asyncio.Future[Any], session_id: str, *topics: Topic
    ) -> asyncio.Future[Any]:
        """Publish once this is written. Return it."""

        def notify(written: asyncio.Future[Any]) -> None:
            if not written.cancelled() and written.exception() is None:
                self.notify(session_id, *topics)

        written.add_done_callback(notify)
        return written


def log_unchanged(event: str, session_id: str, state: str) -> None:
    """Log that an operation had no effect, with the state that the session is in."""
    log.info(event, session=session_id, state=state)
