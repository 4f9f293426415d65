# SPDX-License-Identifier: BSD-2-Clause
"""The sessions of one worker, from which a Redis server that has lost them gets them again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionOptions
from gateway.store.redis import redis_scripts as scripts
from gateway.store.redis.redis_client import RedisClient
from gateway.store.redis.redis_records import details_pairs, option_pairs, pairs
from gateway.store.redis.redis_scopes import SessionScopes
from gateway.store.redis.redis_values import clean, script
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

_RECORD: Final = script(scripts.RECORD)


@dataclass(slots=True)
class OwnSession:
    """A session of this worker. `attempt`: of its admission. Times are Unix seconds."""

    details: CallDetails
    options: SessionOptions
    instance: str
    admitted_at: float
    attempt: str
    started_at: float | None = None


class OwnSessions:
    """The sessions that a worker has, by id."""

    def __init__(self, client: RedisClient, worker: WorkerId, scopes: SessionScopes) -> None:
        self._client = client
        self._worker = worker
        self._scopes = scopes
        self._sessions: dict[str, OwnSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: OwnSession) -> None:
        """Remember a session until it is removed."""
        self._sessions[session.details.session_id] = session

    def get(self, session_id: str) -> OwnSession | None:
        """Return a session, None if this worker has none of the id."""
        return self._sessions.get(session_id)

    def remove(self, session_id: str) -> None:
        """Forget a session, if there is one."""
        self._sessions.pop(session_id, None)

    async def write_all(self) -> None:
        """Write every session again: the server has lost them, or another worker took this one for dead."""
        words = f"{self._client.name} did not know this worker: its sessions are written again"
        log.warning("store", error=words)
        for session_id, own in list(self._sessions.items()):
            if self._sessions.get(session_id) is own:
                await self._client.write_later(partial(self.write, own))

    async def write(self, own: OwnSession) -> Any:
        """Write a session that the server may not have. Return the script's answer. Raises StoreFailed."""
        details = own.details
        state = SessionState.STARTING if own.started_at is None else SessionState.RUNNING
        columns = [*details_pairs(details), *option_pairs(own.options)]
        columns += pairs({"started_at": own.started_at})
        return await self._client.script_late(
            _RECORD,
            self._scopes.keys(details.session_id, (details.agent, details.organization, "")),
            (
                clean(details.session_id) or "",
                own.attempt,
                *worker_arguments(self._worker),
                repr(float(own.admitted_at)),
                state.value,
                own.instance,
                *columns,
            ),
        )


def worker_arguments(worker: WorkerId) -> tuple[str, str, int, int]:
    """Return what the scripts that may write a worker's heartbeat want of it."""
    return worker.id, worker.host, worker.pid, worker.born
