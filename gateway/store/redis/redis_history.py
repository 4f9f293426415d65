# SPDX-License-Identifier: BSD-2-Clause
"""The history on Redis (gateway/store/history.py documents the methods)."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import asdict
from typing import Final

from gateway.store.history import DAY_S, DayUsage, ManagementCall, Removed
from gateway.store.interface import SessionFilter
from gateway.store.redis import redis_end_scripts as end_scripts
from gateway.store.redis import redis_keys as keys
from gateway.store.redis import redis_lists
from gateway.store.redis.redis_client import RedisClient, Script
from gateway.store.redis.redis_values import script

_BLANK: Final = script(end_scripts.BLANK)
_FORGET: Final = script(end_scripts.FORGET)


class RedisHistory:
    """A `History`."""

    def __init__(self, client: RedisClient, max_entries: int) -> None:
        """`max_entries`: see `max_history` of RedisStore."""
        self._client = client
        self._max_entries = max_entries

    def record_call(self, call: ManagementCall) -> asyncio.Future[None]:
        name = keys.management_calls(call.organization)
        member = json.dumps(asdict(call), sort_keys=True)

        async def write() -> None:
            await self._client.run_late("zadd", name, {member: call.at})
            await self._client.run_late("sadd", keys.ORGANIZATIONS, call.organization)

        return self._client.write_later(write)

    async def management_calls(
        self, organization: str, since: float, before: float, *, limit: int, offset: int
    ) -> tuple[list[ManagementCall], int]:
        await self._client.settled()
        name = keys.management_calls(organization)
        last = f"({before!r}"
        total = await self._client.run("zcount", name, since, last)
        found = await self._client.run("zrevrangebyscore", name, last, since, start=offset, num=limit)
        return [ManagementCall(**json.loads(member)) for member in found], int(total)

    async def usage(
        self, organization: str, first_day: int, last_day: int, now: float
    ) -> tuple[DayUsage, ...]:
        await self._client.settled()
        sessions: defaultdict[tuple[int, str], int] = defaultdict(int)
        seconds: defaultdict[tuple[int, str], float] = defaultdict(float)
        found = await self._client.run("hgetall", keys.usage(organization))
        for name, value in found.items():
            day, _, rest = name.partition(" ")
            agent, _, what = rest.rpartition(" ")
            if what == "sessions":
                sessions[int(day), agent] += int(value)
            else:
                seconds[int(day), agent] += float(value)
        matching = SessionFilter(organization=organization, active=True)
        running, _ = await redis_lists.sessions(self._client, matching, MAX_RUNNING, 0, False)
        for record in running:
            if record.admitted_at is not None:
                key = int(record.admitted_at // DAY_S), record.agent
                until = now if record.ending_at is None else record.ending_at
                sessions[key] += 1
                seconds[key] += max(0.0, until - record.admitted_at)
        return tuple(
            DayUsage(day, agent, sessions[day, agent], seconds[day, agent])
            for day, agent in sorted(sessions)
            if first_day <= day <= last_day
        )

    async def prune(self, sessions_before: float, calls_before: float, limit: int) -> Removed:
        await self._client.settled()
        blanked = await self._each(keys.OVER, sessions_before, limit, _BLANK)
        removed = 0
        if blanked < limit:
            removed = await self._each(keys.BLANKED, sessions_before, limit, _FORGET)
        removed += await self._remove_excess(limit - removed)
        return Removed(blanked, removed, await self._prune_calls(calls_before, limit))

    async def _each(self, name: str, before: float, limit: int, text: Script) -> int:
        found = await self._client.run("zrangebyscore", name, "-inf", f"({before!r}", start=0, num=limit)
        return await self._run_each(found, text)

    async def _remove_excess(self, limit: int) -> int:
        """Remove the oldest sessions above `max_entries`. Return how many."""
        if not self._max_entries:
            return 0
        blanked, others = await self._client.run_all([("ZCARD", keys.BLANKED), ("ZCARD", keys.OVER)])
        excess = min(blanked + others - self._max_entries, limit)
        if excess <= 0:
            return 0
        found = await self._client.run("zrange", keys.BLANKED, 0, excess - 1)  # those have ended first
        if len(found) < excess:
            found += await self._client.run("zrange", keys.OVER, 0, excess - len(found) - 1)
        return await self._run_each(found, _FORGET)

    async def _run_each(self, session_ids: list[str], text: Script) -> int:
        for session_id in session_ids:
            key = keys.session(session_id)
            agent, organization = await self._client.run("hmget", key, "agent", "organization")
            names = keys.session_keys(session_id, (agent or "", organization or "", ""), "")
            await self._client.script(text, names, (session_id,))
        return len(session_ids)

    async def _prune_calls(self, before: float, limit: int) -> int:
        removed = 0
        for organization in sorted(await self._client.run("smembers", keys.ORGANIZATIONS)):
            name = keys.management_calls(organization)
            found = await self._client.run(
                "zrangebyscore", name, "-inf", f"({before!r}", start=0, num=limit - removed
            )
            room = limit - removed - len(found)
            if self._max_entries and room > 0:
                excess = await self._client.run("zcard", name) - len(found) - self._max_entries
                if excess > 0:
                    found += await self._client.run(
                        "zrange", name, len(found), len(found) + min(excess, room) - 1
                    )
            if found:
                await self._client.run("zrem", name, *found)
            removed += len(found)
            if removed >= limit:
                break
        return removed


MAX_RUNNING: Final = 100_000
