# SPDX-License-Identifier: BSD-2-Clause
"""Sessions as they are read from Redis: one, some, their numbers, and pages of sorted sets by time, merged.

A page costs what it shows, whatever the history has, unless it is filtered by what no set is for: the start
type, or one state of those that occupy a slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from gateway.model.lifecycle import SessionState
from gateway.model.session import SessionRecord
from gateway.store.interface import Counts, SessionFilter
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_client import RedisClient
from gateway.store.redis.redis_records import BRIEF_COLUMNS, COLUMNS, record
from gateway.store.redis.redis_values import clean

_ALL_OF_SET: Final = {
    "pending": {SessionState.CREATED},
    "active": {SessionState.STARTING, SessionState.RUNNING, SessionState.ENDING},
    **{state.value: {state} for state in (SessionState.ENDED, SessionState.FAILED, SessionState.CANCELED)},
}

Entry = tuple[float, str]
"""`created_at` and the member of a sorted set, "NUMBER:ID"."""


async def sessions(
    client: RedisClient, matching: SessionFilter, limit: int, offset: int, with_reports: bool
) -> tuple[list[SessionRecord], int]:
    """Return a page of the sessions that match, newest first, and the number of all that match.

    Raises StoreFailed.
    """
    states = matching.states()
    chosen = [name for name, whole in _ALL_OF_SET.items() if whole & states]
    sets = [key for name in chosen for key in await _sets(client, matching, name)]
    if not sets:
        return [], 0
    first = "-inf" if matching.created_from is None else repr(float(matching.created_from))
    last = "+inf" if matching.created_before is None else f"({float(matching.created_before)!r}"
    is_exact = matching.start_type is None and all(_ALL_OF_SET[name] <= states for name in chosen)
    is_exact = is_exact and (matching.agent is None or matching.organization is None)
    if is_exact:
        total = sum(await client.run_all([("ZCOUNT", key, first, last) for key in sets]))
        entries = await _entries(client, sets, first, last, offset + limit)
    else:
        entries = await _matching(client, matching, states, await _entries(client, sets, first, last, None))
        total = len(entries)
    page = entries[offset : offset + limit]
    columns = COLUMNS if with_reports else BRIEF_COLUMNS
    found = await client.run_all([("HMGET", keys.session(_id(entry)), *columns) for entry in page])
    return await read_records(client, found, columns), total


async def read_records(
    client: RedisClient, found: Iterable[Sequence[str | None]], columns: tuple[str, ...] = COLUMNS
) -> list[SessionRecord]:
    """Return the records of hashes' values, without those that are not there. Raises StoreFailed."""
    records = [each for values in found if (each := record(values, columns)) is not None]
    pending = [each for each in records if each.state is SessionState.CREATED]
    places = await client.run_all([("ZSCORE", keys.queue(each.agent), each.session_id) for each in pending])
    queued = {each.session_id for each, place in zip(pending, places, strict=True) if place is not None}
    return [replace(each, queued=True) if each.session_id in queued else each for each in records]


async def read(client: RedisClient, session_id: str) -> SessionRecord | None:
    """Return a session, None if there is none of the id. Raises StoreFailed."""
    found = await client.run("hmget", keys.session(clean(session_id) or ""), *COLUMNS)
    records = await read_records(client, [found])
    return records[0] if records else None


async def read_all(client: RedisClient, session_ids: Iterable[str]) -> list[SessionRecord]:
    """Return the sessions that there are, oldest first. Raises StoreFailed."""
    commands = [("HMGET", keys.session(each), "number", *COLUMNS) for each in session_ids]
    found = sorted(await client.run_all(commands), key=lambda each: each[0] or "")
    return await read_records(client, [columns for _, *columns in found])


async def counts(client: RedisClient) -> Counts:
    """Return the numbers of sessions by state. Raises StoreFailed."""
    found = await client.run("hgetall", keys.COUNTS)
    by_state = {state: int(found.get(state.value, 0)) for state in SessionState}
    over = {state: by_state.pop(state) for state in list(by_state) if keys.set_of(state) == state.value}
    return Counts(by_state, over)


async def _sets(client: RedisClient, matching: SessionFilter, name: str) -> list[str]:
    if matching.agent is not None:
        return [keys.of_agent(matching.agent, name)]
    if matching.organization is not None:
        return [keys.of_organization(matching.organization, name)]
    organizations = await client.run("smembers", keys.ORGANIZATIONS)
    return [keys.of_organization(organization, name) for organization in sorted(organizations)]


async def _entries(
    client: RedisClient, sets: list[str], first: str, last: str, most: int | None
) -> list[Entry]:
    """Return the newest entries of all sets, newest first; all of them for None."""
    paging = () if most is None else ("LIMIT", 0, most)
    commands = [("ZREVRANGEBYSCORE", key, last, first, "WITHSCORES", *paging) for key in sets]
    entries = [
        (float(score), member)
        for found in await client.run_all(commands)
        for member, score in zip(found[::2], found[1::2], strict=True)
    ]
    return sorted(entries, reverse=True)


async def _matching(
    client: RedisClient, matching: SessionFilter, states: frozenset[SessionState], entries: list[Entry]
) -> list[Entry]:
    columns = ("state", "start_type", "organization")
    found = await client.run_all([("HMGET", keys.session(_id(entry)), *columns) for entry in entries])
    return [
        entry
        for entry, (state, start_type, organization) in zip(entries, found, strict=True)
        if state in states
        and matching.start_type in (None, start_type)
        and matching.organization in (None, organization)
    ]


def _id(entry: Entry) -> str:
    return entry[1].partition(":")[2]
