# SPDX-License-Identifier: BSD-2-Clause
"""What the stores themselves cost: admissions, and a history of 100,000 sessions. In this process."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.cluster_servers import RedisServer
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, LiveTraffic, SessionResult, SlotLimits, Traffic
from gateway.store.connect import open_store
from gateway.store.interface import SessionFilter
from gateway.store.worker_id import WorkerId

AGENTS: Final = 20
INSTANCES: Final = 4  # of each agent
IN_FLIGHT: Final = 64
FEW, MANY = 300, 3000  # running sessions
BATCH: Final = 640
FINISHED: Final = 100_000
PAGE: Final = 100
COPY_LUA: Final = """
local found = redis.call('HGETALL', ARGV[1])
local number = tonumber(ARGV[2])
for at = 0, 999 do
    local id = string.format('00000000-0000-4000-8000-%012d', number + at)
    local order = string.format('%016x', number + at)
    local created = tonumber(ARGV[3]) + (number + at) * 0.1
    for name = 1, #found, 2 do
        if found[name] == 'id' then found[name + 1] = id end
        if found[name] == 'number' then found[name + 1] = order end
        if found[name] == 'created_at' then found[name + 1] = tostring(created) end
    end
    redis.call('HSET', '{patchbay}:session:' .. id, unpack(found))
    redis.call('ZADD', '{patchbay}:agent:agent0.bench:ended', created, order .. ':' .. id)
    redis.call('ZADD', '{patchbay}:organization:bench:ended', created, order .. ':' .. id)
    redis.call('ZADD', '{patchbay}:over', created + 60, id)
end
redis.call('HINCRBY', '{patchbay}:counts', 'ended', 1000)
redis.call('INCRBY', '{patchbay}:number', 1000)
"""

Clock = Callable[[], float]


def details(number: int) -> CallDetails:
    """Return the details of one more call."""
    return CallDetails(
        session_id=str(uuid.uuid4()),
        agent=f"agent{number % AGENTS}.bench",
        organization="bench",
        region="us-west",
        carrier="twilio",
        call_id=f"CA{uuid.uuid4().hex}",
        stream_id=f"MZ{uuid.uuid4().hex}",
        from_number="+15551230000",
        to_number="+15559876543",
    )


LIMITS: Final = SlotLimits(
    tuple((f"http://10.0.0.{each}:7860", 0) for each in range(INSTANCES)), per_instance=500, max_instances=50
)


def hung_up(at: float) -> SessionResult:
    """Return the end of an ordinary call."""
    return SessionResult(
        state=SessionState.ENDED,
        ended_at=at,
        reason="caller_hangup",
        side=Party.CALLER,
        detail="stop received",
        close_code=1000,
        traffic=Traffic(3000, 480_000, 1500, 240_000),
        first_agent_sound_at=at - 1,
    )


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Any]:
    """Open a store as one worker has it, and write its heartbeat."""
    store = open_store(url, WorkerId.of_this_process(uuid.uuid4().hex))
    await store.open()
    try:
        await store.heartbeat(time.time())
        yield store
    finally:
        await store.close()


async def at_once(times: int, do: Callable[[int], Awaitable[None]], in_flight: int = IN_FLIGHT) -> None:
    """Do something `times` times, `in_flight` at once."""
    left = iter(range(times))

    async def some() -> None:
        for number in left:
            await do(number)

    await asyncio.gather(*(some() for _ in range(in_flight)))


@dataclass(frozen=True, slots=True)
class Admissions:
    """Of one worker's client. `few_us`, `many_us`: Redis' own time of each batch, at FEW and MANY sessions.

    `per_second`, `cpu_us`: of each batch, and the client's CPU of an admission. `other_us`: Redis' own time
    of the script that begins a session's run and of the one that ends it.
    """

    few_us: list[float]
    many_us: list[float]
    per_second: list[float]
    cpu_us: list[float]
    other_us: dict[str, float]


async def admissions(server: RedisServer, rounds: int) -> Admissions:
    """Measure admissions while FEW and while MANY sessions run."""
    server.client.flushdb()
    found = Admissions([], [], [], [], {})
    async with opened(server.url) as store:
        running: list[str] = []

        async def admit(number: int) -> None:
            call = details(number)
            await store.admit(call, LIMITS, time.time())
            running.append(call.session_id)

        async def end(sessions: list[str]) -> None:
            now = time.time()
            await asyncio.gather(*(store.end(each, hung_up(now)) for each in sessions))

        for sessions, times in ((FEW, found.few_us), (MANY, found.many_us)):
            await at_once(sessions - len(running), admit)
            for round_ in range(rounds + 1):
                await asyncio.sleep(0.05)  # what follows behind an admission is done
                server.client.config_resetstat()
                for first in range(0, BATCH, IN_FLIGHT):
                    await asyncio.gather(*map(admit, range(first, first + IN_FLIGHT)))
                microseconds, scripts = server.microseconds("evalsha")
                began, cpu = time.perf_counter(), time.process_time()
                await at_once(BATCH, admit)
                seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                if round_:  # the first warms up
                    times.append(microseconds / scripts)
                    found.per_second.append(BATCH / seconds)
                    found.cpu_us.append(cpu / BATCH * 1e6)
                await end(running[-2 * BATCH :])
                del running[-2 * BATCH :]
                # As many sessions are forgotten as come, so that memory is used again.
                while any(asdict(await store.history.prune(2 * time.time(), 0.0, BATCH)).values()):
                    pass
        steps: dict[str, Callable[[str], Awaitable[None]]] = {
            "mark running": lambda each: store.mark_running(each, time.time()),
            "end": lambda each: store.end(each, hung_up(time.time())),
        }
        for name, step in steps.items():
            server.client.config_resetstat()
            await asyncio.gather(*(step(each) for each in running[-BATCH:]))
            microseconds, scripts = server.microseconds("evalsha")
            found.other_us[name] = microseconds / scripts
            if name == "mark running":
                server.client.config_resetstat()
                traffic = Traffic(3000, 480_000, 1500, 240_000, 30_000)
                live = [LiveTraffic(each, traffic, time.time()) for each in running[-BATCH:]]
                await store.heartbeat(time.time(), live)
                found.other_us["a running session in a heartbeat"] = server.microseconds("evalsha")[0] / BATCH
        await end(running[:-BATCH])
    return found


async def one_finished(url: str) -> str:
    """Make one ordinary session that is over; return its id."""
    async with opened(url) as store:
        call, now = details(0), time.time() - 2 * FINISHED
        await store.admit(call, LIMITS, now)
        await store.mark_running(call.session_id, now + 1)
        await store.end(call.session_id, hung_up(now + 60))
        return call.session_id


async def fill_redis(server: RedisServer, database_url: str, sessions: int) -> None:
    """Write copies of a finished session: the store itself would take minutes for so many."""
    original = await one_finished(database_url)
    open_client: Any = redis.Redis.from_url
    client = open_client(database_url, decode_responses=True, protocol=2)
    for number in range(10, sessions + 10, 1000):
        client.eval(
            COPY_LUA, 0, f"{{patchbay}}:session:{original}", str(number), str(time.time() - 2 * FINISHED)
        )
    client.close()


async def fill_sqlite(url: str, sessions: int) -> None:
    """Write copies of a finished session as the store's own statements leave them."""
    original = await one_finished(url)
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(session)")]
        changed = {
            "number": "1000 + value",
            "id": "printf('00000000-0000-4000-8000-%012d', value)",
            "created_at": "created_at + value * 0.1",
            "admitted_at": "admitted_at + value * 0.1",
            "ended_at": "NULL",
            "state": "'running'",
        }
        ended_at = "created_at + 60"
        with connection:
            connection.execute(
                f"WITH RECURSIVE counter(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM counter "
                f"WHERE value < {sessions}) INSERT INTO session ({', '.join(columns)}) "
                f"SELECT {', '.join(changed.get(each, each) for each in columns)} FROM counter, session "
                "WHERE id = ?",
                (original,),
            )
            # As the store ends them, so that every trigger runs.
            connection.execute(
                f"UPDATE session SET ended_at = {ended_at}, state = 'ended' WHERE ended_at IS NULL"
            )
            connection.execute("ANALYZE")


@dataclass(frozen=True, slots=True)
class History:
    """Milliseconds of an admission and of a list, in a store with a page of sessions and in a full one."""

    admission: tuple[list[float], list[float]]
    lists: dict[str, tuple[list[float], list[float]]]


FILTERS: Final = {
    "an agent's": SessionFilter(agent="agent0.bench"),
    "an organization's": SessionFilter(organization="bench"),
    "an agent's that are over": SessionFilter(agent="agent0.bench", active=False),
    "an agent's that run": SessionFilter(agent="agent0.bench", active=True),
}


async def history(small: str, full: str, rounds: int) -> History:
    """Measure both stores in turns."""
    found = History(([], []), {name: ([], []) for name in FILTERS})
    async with opened(small) as a, opened(full) as b:
        for round_ in range(rounds + 1):
            for at, store in ((0, a), (1, b), (1, b), (0, a)):
                spent = []
                for number in range(20):
                    call = details(number)
                    began = time.perf_counter()
                    await store.admit(call, LIMITS, time.time())
                    spent.append(time.perf_counter() - began)
                    await store.end(call.session_id, hung_up(time.time()))
                if round_:
                    found.admission[at].append(statistics.median(spent) * 1e3)
                for name, matching in FILTERS.items():
                    spent = []
                    for _ in range(3):
                        began = time.perf_counter()
                        await store.sessions(matching, limit=PAGE)
                        spent.append(time.perf_counter() - began)
                    if round_:
                        found.lists[name][at].append(min(spent) * 1e3)
    return found


async def filled(server: RedisServer, directory: Path) -> dict[str, tuple[str, str]]:
    """Return for each kind of store the URL of one with a page of sessions, and of one with FINISHED."""
    redis_urls = server.url, server.url[:-1] + "1"
    sqlite_urls = tuple(f"sqlite:///{directory}/{name}.db" for name in ("small", "full"))
    server.client.flushall()
    await fill_redis(server, redis_urls[0], 1000)
    await fill_redis(server, redis_urls[1], FINISHED)
    await fill_sqlite(sqlite_urls[0], 1000)
    await fill_sqlite(sqlite_urls[1], FINISHED)
    return {"Redis": redis_urls, "SQLite": (sqlite_urls[0], sqlite_urls[1])}
