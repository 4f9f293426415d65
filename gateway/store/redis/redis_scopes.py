# SPDX-License-Identifier: BSD-2-Clause
"""The keys of a session's scripts: they contain its agent, its organization and its API key."""

from __future__ import annotations

from typing import Final

from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_client import RedisClient
from gateway.store.redis.redis_values import clean

MAX_SESSIONS: Final = 50_000
"""Sessions that are remembered; of another the server is asked."""


class SessionScopes:
    """Remembers what keys of sessions are made of, which is the same all their lives."""

    def __init__(self, client: RedisClient, worker_id: str) -> None:
        self._client = client
        self._worker_id = worker_id
        self._scopes: dict[str, tuple[str, str, str]] = {}

    def is_known(self, session_id: str) -> bool:
        """Return True if this worker has had to do with the session."""
        return session_id in self._scopes

    def keys(self, session_id: str, scope: tuple[str, str, str]) -> list[str]:
        """Return the keys of a session. `scope`: as of `redis_keys.session_keys`, "" for an unknown key."""
        agent, organization, key_id = (clean(each) or "" for each in scope)
        if not key_id and session_id in self._scopes:
            key_id = self._scopes[session_id][2]
        self._scopes[session_id] = agent, organization, key_id
        if len(self._scopes) > MAX_SESSIONS:
            del self._scopes[next(iter(self._scopes))]
        return keys.session_keys(clean(session_id) or "", (agent, organization, key_id), self._worker_id)

    async def keys_of(self, session_id: str, *, is_late: bool = False) -> list[str]:
        """Return the keys of a session; if it is unknown, of none. Raises StoreFailed.

        `is_late`: also while the client closes.
        """
        scope = self._scopes.get(session_id)
        if scope is None:
            run = self._client.run_late if is_late else self._client.run
            name = keys.session(clean(session_id) or "")
            found = await run("hmget", name, "agent", "organization", "key_id")
            if found[0] is None:
                return keys.session_keys(clean(session_id) or "", ("", "", ""), self._worker_id)
            scope = found[0], found[1], found[2] or ""
        return self.keys(session_id, scope)
