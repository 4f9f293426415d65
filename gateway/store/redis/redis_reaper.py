# SPDX-License-Identifier: BSD-2-Clause
"""Workers that died, and what has expired, in the store on Redis."""

from __future__ import annotations

import uuid
from typing import Final

from gateway.model.reasons import Reasons
from gateway.store.interface import UNUSED_S
from gateway.store.redis import redis_end_scripts as end_scripts
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_client import RedisClient
from gateway.store.redis.redis_records import reason_pairs
from gateway.store.redis.redis_scopes import SessionScopes
from gateway.store.redis.redis_values import script
from gateway.store.worker_id import STALE_S, WorkerId

REAP_LIMIT: Final = 500
"""Sessions of one kind that are ended or removed at once."""

_EXPIRE: Final = script(end_scripts.EXPIRE)
_LOSE: Final = script(end_scripts.LOSE)
_FORGET: Final = script(end_scripts.FORGET)
_FORGET_WORKER: Final = script(end_scripts.FORGET_WORKER)
_CLEAN_QUEUE: Final = script(end_scripts.CLEAN_QUEUE)


class RedisReaper:
    """Judges the other workers, as one worker does, and ends what they have left."""

    def __init__(
        self, client: RedisClient, worker: WorkerId, scopes: SessionScopes, *, server_clock: bool
    ) -> None:
        """`server_clock`: see RedisStore."""
        self._client = client
        self._worker = worker
        self._scopes = scopes
        self._server_clock = server_clock

    async def bury_dead(self, now: float) -> list[str]:
        """End the sessions of dead workers, or begin to. Return their ids. Raises StoreFailed."""
        at = now
        if self._server_clock:
            seconds, microseconds = await self._client.run("time")
            at = seconds + microseconds / 1e6
        lost: list[str] = []
        for other in sorted(await self._client.run("smembers", keys.WORKERS)):
            if other != self._worker.id and (detail := await self._death_of(other, at)):
                lost += await self._bury(other, detail, now)
        return lost

    async def _death_of(self, worker_id: str, now: float) -> str:
        """Return how a worker was found dead, "" if it lives."""
        host, pid, born, beat_at = await self._client.run(
            "hmget", keys.worker(worker_id), "host", "pid", "born", "beat_at"
        )
        if host is None:
            return "its heartbeats were lost"
        if host == self._worker.host:
            is_gone = WorkerId(worker_id, host, int(pid), int(born)).process_gone()
            return f"process {pid} is gone" if is_gone else ""
        # Silence proves a death only to a worker that was alive throughout it: after the server was out of
        # reach all workers were silent, and the first to come back must not end the calls of the others.
        own = await self._client.run("hmget", keys.worker(self._worker.id), "heard_since", "beat_at")
        if own[0] is None or now - float(own[0]) < STALE_S or not 0 <= now - float(own[1]) <= STALE_S:
            return ""
        silent_s = abs(now - float(beat_at))
        return f"nothing heard for {silent_s:.0f} s" if silent_s > STALE_S else ""

    async def _bury(self, worker_id: str, detail: str, now: float) -> list[str]:
        """End the sessions of a dead worker, or begin to. Return their ids."""
        lost = []
        for session_id in await self._client.run("smembers", keys.owned(worker_id)):
            names = await self._scopes.keys_of(session_id)
            end = reason_pairs(Reasons.gateway_lost, detail)
            arguments = (session_id, worker_id, self._worker.id, repr(float(now)), uuid.uuid4().hex, *end)
            answer = await self._client.script(_LOSE, names, arguments)
            if answer[0] == "lost":
                lost.append(session_id)
        for agent in await self._client.run("smembers", keys.AGENTS):
            await self._clean_queue(agent, now, worker_id)
        await self._client.script(
            _FORGET_WORKER, (keys.worker(worker_id), keys.WORKERS, keys.owned(worker_id)), (worker_id,)
        )
        return lost

    async def leave(self) -> None:
        """Remove this worker. One that still has sessions stays, so that it can be found dead."""
        owned = await self._client.run_late("smembers", keys.owned(self._worker.id))
        for session_id in owned:
            name = keys.session(session_id)
            owner, ended_at = await self._client.run_late("hmget", name, "owner", "ended_at")
            if owner == self._worker.id and ended_at is None:
                return
        await self._client.script_late(
            _FORGET_WORKER,
            (keys.worker(self._worker.id), keys.WORKERS, keys.owned(self._worker.id)),
            (self._worker.id,),
        )

    async def remove_expired(self, now: float) -> None:
        """End pending sessions whose time is over; forget unused ones, and calls that wait no more.

        Raises StoreFailed.
        """
        end = reason_pairs(Reasons.idle_timeout, "nobody connected in time")
        for session_id in await self._due(keys.EXPIRY, now):
            await self._client.script(
                _EXPIRE, await self._scopes.keys_of(session_id), (session_id, repr(float(now)), *end)
            )
        for session_id in await self._due(keys.UNUSED, now - UNUSED_S):
            await self._client.script(_FORGET, await self._scopes.keys_of(session_id), (session_id,))
        for agent in await self._client.run("smembers", keys.AGENTS):
            await self._clean_queue(agent, now, "")

    async def _due(self, name: str, before: float) -> list[str]:
        found: list[str] = await self._client.run(
            "zrangebyscore", name, "-inf", before, start=0, num=REAP_LIMIT
        )
        return found

    async def _clean_queue(self, agent: str, now: float, worker_id: str) -> None:
        names = (keys.queue(agent), keys.queued_until(agent))
        await self._client.script(_CLEAN_QUEUE, names, (repr(float(now)), worker_id))
