# SPDX-License-Identifier: BSD-2-Clause
"""The sessions of one worker, from which a Redis server that has lost them gets them again.

A server loses what it has acknowledged when it starts again without its file, and when another takes its
place: replicas are a moment behind. Whichever it was, its connections break. So the worker looks at its
sessions with the first heartbeat after a new connection, and writes again what is not there, or not as it
was: those that run, and for OVER_S also those that have ended, whose slots would stay taken for ever.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import Reasons
from gateway.model.session import CallDetails, SessionOptions
from gateway.store.redis import redis_end_scripts as end_scripts
from gateway.store.redis import redis_keys as keys
from gateway.store.redis import redis_scripts as scripts
from gateway.store.redis.redis_client import RedisClient, Script
from gateway.store.redis.redis_records import details_pairs, option_pairs, pairs, reason_pairs
from gateway.store.redis.redis_scopes import SessionScopes
from gateway.store.redis.redis_values import clean, script
from gateway.store.worker_id import WorkerId

log = structlog.get_logger(__name__)

OVER_S: Final = 60.0
"""Seconds for which a session that is over is remembered: longer than a primary that nobody sees lives on."""

MOST_OVER: Final = 5_000
"""Sessions over that are remembered at most, some kilobytes each."""

_RECORD: Final = script(scripts.RECORD)
_LOSE: Final = script(end_scripts.LOSE)

_OVER_STATES: Final = frozenset(state.value for state in TERMINAL)


@dataclass(slots=True)
class OwnSession:
    """A session of this worker. `attempt`: of its admission. Times are Unix seconds."""

    details: CallDetails
    options: SessionOptions
    instance: str
    admitted_at: float
    attempt: str
    started_at: float | None = None
    resumed: int = 0

    @property
    def state(self) -> SessionState:
        return SessionState.STARTING if self.started_at is None else SessionState.RUNNING


@dataclass(slots=True)
class _Over:
    """The end of a session: the scripts that wrote it, in order, with their arguments behind its id.

    `own`: None if it was not this worker's any more, or never had a slot. `at`: monotonic seconds.
    """

    own: OwnSession | None
    at: float
    writes: list[tuple[Script, tuple[Any, ...]]] = field(default_factory=list)


class OwnSessions:
    """The sessions that a worker has, by id."""

    def __init__(self, client: RedisClient, worker: WorkerId, scopes: SessionScopes) -> None:
        self._client = client
        self._worker = worker
        self._scopes = scopes
        self._sessions: dict[str, OwnSession] = {}
        self._over: dict[str, _Over] = {}
        self._strays: set[str] = set()
        self._seen_connections = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: OwnSession) -> None:
        """Remember a session until it is removed."""
        self._over.pop(session.details.session_id, None)  # an admission that was withdrawn
        self._sessions[session.details.session_id] = session

    def get(self, session_id: str) -> OwnSession | None:
        """Return a session, None if this worker has none of the id."""
        return self._sessions.get(session_id)

    def remove(self, session_id: str) -> None:
        """Forget a session, if there is one: another worker has it, or has ended it."""
        self._sessions.pop(session_id, None)

    def end(self, session_id: str, text: Script, *arguments: Any) -> None:
        """Remember that a session is over, or to be over soon, and the script that says so."""
        own = self._sessions.pop(session_id, None)
        over = self._over.setdefault(session_id, _Over(own, time.monotonic()))
        over.writes.append((text, arguments))
        if len(self._over) > MOST_OVER:
            del self._over[next(iter(self._over))]

    async def look_again(self, *, is_known: bool) -> None:
        """Write what the server has lost, if it may have lost something. To be called at each heartbeat.

        `is_known`: whether the server knows this worker. Raises StoreFailed.
        """
        self._forget_old()
        connections = self._client.locator.connected
        if is_known and connections == self._seen_connections and not self._strays:
            return
        await self._client.settled()
        known = set(await self._client.run("smembers", keys.owned(self._worker.id)))
        lost = await self._write_running(known) + await self._write_over()
        lost += await self._lose_strays(known)
        if lost:
            words = f"{self._client.name} had lost what {lost} sessions were: they are written again"
            log.warning("store", error=words)
        self._seen_connections = connections

    async def write(self, own: OwnSession) -> Any:
        """Write a session that the server may not have. Return the script's answer. Raises StoreFailed."""
        details = own.details
        columns = [*details_pairs(details), *option_pairs(own.options)]
        columns += pairs({"started_at": own.started_at, "resumed": own.resumed or None})
        return await self._client.script_late(
            _RECORD,
            self._scopes.keys(details.session_id, (details.agent, details.organization, "")),
            (
                clean(details.session_id) or "",
                own.attempt,
                *worker_arguments(self._worker),
                repr(float(own.admitted_at)),
                own.state.value,
                own.instance,
                *columns,
            ),
        )

    def _forget_old(self) -> None:
        before = time.monotonic() - OVER_S
        while self._over and (first := next(iter(self._over))) and self._over[first].at < before:
            del self._over[first]

    async def _read(self, session_ids: list[str], *columns: str) -> dict[str, list[str | None]]:
        commands = [("HMGET", keys.session(clean(each) or ""), *columns) for each in session_ids]
        return dict(zip(session_ids, await self._client.run_all(commands), strict=True))

    async def _write_running(self, known: set[str]) -> int:
        """Write the running sessions that the server has not, or has otherwise. Return how many."""
        found = await self._read(list(self._sessions), "state", "instance", "owner")
        written = 0
        for session_id, values in found.items():
            own = self._sessions.get(session_id)
            if own is None:  # it has ended meanwhile
                continue
            expected = [own.state.value, own.instance, self._worker.id]
            if values == expected and (clean(session_id) or "") in known:
                continue
            answer = await self._client.write_later(partial(self.write, own))
            written += answer[0] == "ok"
            if answer[0] != "exists":
                continue
            if answer[1] in _OVER_STATES or (answer[2] != self._worker.id and not own.details.stream_id):
                self.remove(session_id)  # another worker has ended it, or its stream came to that one
        return written

    async def _write_over(self) -> int:
        """Write the ends that the server has not. Return how many."""
        found = await self._read(list(self._over), "state")
        written = 0
        for session_id, (state,) in found.items():
            over = self._over.get(session_id)
            if over is None or state in _OVER_STATES or (state is None and over.own is None):
                continue
            is_written = await self._client.write_later(partial(self._repeat, session_id, over))
            written += is_written and state != SessionState.ENDING.value
        return written

    async def _repeat(self, session_id: str, over: _Over) -> bool:
        """Write what ended a session. Return False if that was there, or something else that is newer."""
        if over.own is not None:
            await self.write(over.own)
        is_written = False
        for text, arguments in over.writes:
            names = await self._scopes.keys_of(session_id, is_late=True)
            answer = await self._client.script_late(text, names, (clean(session_id) or "", *arguments))
            is_written = is_written or answer[0] != "unchanged"
        return is_written

    async def _lose_strays(self, known: set[str]) -> int:
        """End the sessions that are said to be this worker's and are not. Return how many.

        One that is being admitted looks like that for a moment, so it must look so twice.
        """
        own = {clean(each) for each in (*self._sessions, *self._over)}
        found = await self._read(sorted(known - own), "state", "owner")
        strays = {
            session_id
            for session_id, (state, owner) in found.items()
            if state in ("starting", "running") and owner == self._worker.id
        }
        lost = strays & self._strays
        self._strays = strays - lost
        end = reason_pairs(Reasons.gateway_lost, "the store had lost its end")
        for session_id in lost:
            names = await self._scopes.keys_of(session_id)
            arguments = (self._worker.id, self._worker.id, repr(time.time()), uuid.uuid4().hex, *end)
            await self._client.script(_LOSE, names, (session_id, *arguments))
        return len(lost)


def worker_arguments(worker: WorkerId) -> tuple[str, str, int, int]:
    """Return what the scripts that may write a worker's heartbeat want of it."""
    return worker.id, worker.host, worker.pid, worker.born
