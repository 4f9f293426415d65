# SPDX-License-Identifier: BSD-2-Clause
"""The store is on a Redis server, and that has a bad day."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from gateway.store.redis import redis_keys as keys
from gateway.store.redis.redis_records import COLUMNS
from tests.faults.case import TWILIO, Case
from tests.faults.launcher import Launcher
from tests.faults.many_calls import CROWD, WELL, go_on, hang_up_all, warm_with
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.gateway import Gateway
from tests.harness.redis_proxy import RedisProxy
from tests.harness.redis_server import RedisServer
from tests.harness.redis_topologies import WatchedPair, freeze, thaw
from tests.harness.transcripts import opening

Cases = Callable[..., Case]
Bases = dict[int, int]
Start = Callable[..., Gateway]

REFUSED = "sound; a new caller 1013 meanwhile"
AHEAD_S = 10.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(redis: RedisServer) -> Iterator[RedisProxy]:
    running = RedisProxy(redis.port)
    yield running
    running.stop()


def on_redis(start: Start, port: AgentPort, url: str, server: RedisServer, **store: Any) -> Gateway:
    """Start a gateway whose records are read from Redis."""
    limits = LIMITS | {"requests_per_second": 10_000.0, "requests_burst": 10_000}
    gateway = start(agents=agents_at(port.url), limits=limits, store={"url": url, **store})
    vars(gateway)["rows"] = partial(rows_of, server)
    return gateway


def rows_of(server: RedisServer, query: str, values: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
    """Answer the queries of the kit's gateway on sessions and on workers."""
    if "FROM owner" in query:
        workers = sorted(server.run("SMEMBERS", keys.WORKERS))
        found = [(each, server.run("HMGET", keys.worker(each), "pid")) for each in workers]
        return [{"id": each, "pid": int(pid)} for each, (pid,) in found if pid is not None]
    names = [keys.session(each) for each in values] or server.run("KEYS", keys.session("*"))
    rows = [
        dict(zip(("number", *COLUMNS), server.run("HMGET", name, "number", *COLUMNS), strict=True))
        for name in names
    ]
    return sorted((row for row in rows if row["id"] is not None), key=lambda row: str(row["number"]))


@pytest.fixture(scope="module")
def gateway(start_gateway: Start, support_port: AgentPort, redis: RedisServer, proxy: RedisProxy) -> Gateway:
    return on_redis(start_gateway, support_port, proxy.url, redis)


def count(gateway: Gateway, event: str) -> int:
    return sum(line["event"] == event for line in gateway.log_lines())


async def refused(gateway: Gateway) -> None:
    """Assert that a new call is refused."""
    caller = await gateway.dial(CROWD)
    assert caller.status == 101
    for message in opening("twilio"):
        caller.say(message)
    assert (await caller.closed())[0] == 1013


async def away(fault: Case, support: Agent, strike: Callable[[], Any], mend: Callable[[], Any]) -> None:
    """A call before, one that is refused, and the call goes on until it hangs up; two lines tell it."""
    gateway = fault.gateway
    before = count(gateway, "session_store_failed"), count(gateway, "session_store_recovered")
    talk = await fault.talk(support, CROWD)
    await asyncio.to_thread(strike)
    fault.strike()
    await eventually(lambda: gateway.get("/readyz")[0] == 503, "readyz says no")
    await refused(gateway)
    await go_on([talk])
    await asyncio.to_thread(mend)
    await eventually(lambda: gateway.get("/readyz")[0] == 200, "it is used again")
    await go_on([talk])
    after = count(gateway, "session_store_failed"), count(gateway, "session_store_recovered")
    assert after == (before[0] + 1, before[1] + 1)
    await hang_up_all(fault, gateway, [talk], REFUSED)
    fault.ended = WELL


async def test_it_refuses_and_comes_back_empty(
    case: Cases, gateway: Gateway, support: Agent, redis: RedisServer
) -> None:
    async with case("refuses connections, and comes back empty") as fault:
        await away(fault, support, redis.kill, redis.start)


async def test_it_restarts_empty(case: Cases, gateway: Gateway, support: Agent, redis: RedisServer) -> None:
    """The one place of the agent stays the caller's, though the server has never heard of it."""
    async with case("starts again, empty, between two heartbeats") as fault:
        talk = await fault.talk(support)
        redis.kill()
        redis.start()
        fault.strike()
        await eventually(lambda: gateway.sessions(talk.session), "it is written again")
        caller = await gateway.dial(TWILIO)
        for message in opening("twilio"):
            caller.say(message)
        assert (await caller.closed())[0] == 1013
        await go_on([talk])
        await hang_up_all(fault, gateway, [talk], "sound; the agent's place stays taken")
        fault.ended = WELL


async def test_it_hangs(case: Cases, gateway: Gateway, support: Agent, redis: RedisServer) -> None:
    async with case("hangs (SIGSTOP)") as fault:
        await away(fault, support, partial(freeze, redis), partial(thaw, redis))


async def test_it_is_read_only(case: Cases, gateway: Gateway, support: Agent, redis: RedisServer) -> None:
    async with case("is read-only: no replica follows (`min-replicas-to-write`)") as fault:
        setting = partial(redis.run, "CONFIG", "SET", "min-replicas-to-write")
        await away(fault, support, partial(setting, "1"), partial(setting, "0"))


async def test_it_becomes_a_replica(
    case: Cases, gateway: Gateway, support: Agent, redis: RedisServer
) -> None:
    other = RedisServer()
    async with case("becomes a replica of an empty server, and a primary again") as fault:
        follow = partial(redis.run, "REPLICAOF")
        await away(fault, support, partial(follow, "127.0.0.1", other.port), partial(follow, "NO", "ONE"))
    other.stop()


async def test_it_is_out_of_memory(case: Cases, gateway: Gateway, support: Agent, redis: RedisServer) -> None:
    async with case("is out of memory (`maxmemory`)") as fault:
        setting = partial(redis.run, "CONFIG", "SET", "maxmemory")
        await away(fault, support, partial(setting, "1"), partial(setting, "0"))


async def test_it_loses_a_reply(case: Cases, gateway: Gateway, support: Agent, proxy: RedisProxy) -> None:
    """The admission is sent again, and takes one place: the agent has no more than one."""
    async with case("loses the answer to an admission") as fault:
        lost = proxy.lost
        proxy.lose = b"support.acme"
        fault.strike()
        talk = await fault.talk(support)
        assert proxy.lost == lost + 1
        await go_on([talk])
        assert sum(each["ended_at"] is None for each in gateway.sessions()) == 1
        await hang_up_all(fault, gateway, [talk], "sound")
        fault.ended = WELL


async def test_it_is_slow(case: Cases, gateway: Gateway, support: Agent, proxy: RedisProxy) -> None:
    async with case("answers 500 ms late") as fault:
        running = await fault.talk(support, CROWD)
        proxy.delay_s = 0.5
        fault.strike()
        new = await fault.talk(support, CROWD)
        await go_on([running, new])
        proxy.delay_s = 0.0
        await hang_up_all(fault, gateway, [running, new], "sound; a new caller, too, who waits longer")
        fault.ended = WELL


async def test_it_refuses_and_calls_are_admitted(
    case: Cases, start_gateway: Start, bases: Bases, support: Agent, support_port: AgentPort
) -> None:
    server = RedisServer()
    gateway = on_redis(start_gateway, support_port, server.url(), server, on_failure="admit")
    before = await warm_with(support, gateway, bases, support_port)
    async with case('refuses connections (`on_failure = "admit"`)', of=gateway, before=before) as fault:
        running = await fault.talk(support, CROWD)
        server.kill()
        fault.strike()
        await eventually(lambda: count(gateway, "session_store_failed") == 1, "it is noticed")
        new = await fault.talk(support, CROWD)
        await go_on([running, new])
        assert gateway.get("/readyz")[0] == 200
        server.start()
        for talk in (running, new):
            await eventually(partial(gateway.sessions, talk.session), "it is written")
        assert count(gateway, "session_store_failed") == 1
        await hang_up_all(fault, gateway, [running, new], "sound; a new caller, too")
        fault.ended = WELL
    gateway.stop()
    server.stop()


async def test_it_fails_over_and_loses_writes(
    case: Cases, start_gateway: Start, bases: Bases, support: Agent, support_port: AgentPort
) -> None:
    """The place that was given last is known to nobody but the gateway that has the call."""
    pair = WatchedPair()
    gateway = on_redis(start_gateway, support_port, pair.url(), pair.first)
    before = await warm_with(support, gateway, bases, support_port)
    async with case("fails over (Sentinel), and the last calls are lost", of=gateway, before=before) as fault:
        early, ends = await fault.talk(support, CROWD), await fault.talk(support, CROWD)
        pair.first.run("WAIT", 1, 5000)
        pair.part()
        late = await fault.talk(support)
        await ends.hang_up()
        await eventually(lambda: gateway.sessions(ends.session)[0]["ended_at"], "its end is acknowledged")
        pair.first.kill()
        fault.strike()
        await asyncio.to_thread(pair.wait_for_primary, pair.second)
        vars(gateway)["rows"] = partial(rows_of, pair.second)
        await eventually(lambda: gateway.sessions(late.session), "it is written again")
        await eventually(lambda: gateway.sessions(ends.session)[0]["ended_at"], "and so is the end")
        caller = await gateway.dial(TWILIO)
        for message in opening("twilio"):
            caller.say(message)
        assert (await caller.closed())[0] == 1013
        await go_on([early, late])
        await hang_up_all(fault, gateway, [early, late], "sound; the agent's place stays taken")
        fault.ended = WELL
    gateway.stop()
    pair.stop()


async def test_a_node_is_cut_off_from_it(
    case: Cases, start_gateway: Start, bases: Bases, support: Agent, support_port: AgentPort
) -> None:
    """Another node takes it for dead. Its calls go on, and are counted again when it is back."""
    server = RedisServer()
    way = RedisProxy(server.port)
    near = on_redis(start_gateway, support_port, server.url(), server)
    far = on_redis(own_host(start_gateway), support_port, way.url, server)
    before = await warm_with(support, far, bases, support_port)
    async with case("a node is cut off from it, and not from its carriers", of=far, before=before) as fault:
        talk = await fault.talk(support)
        way.is_stuck = True
        fault.strike()
        await eventually(lambda: far.sessions(talk.session)[0]["reason"] == "gateway_lost", "it is given up")
        await go_on([talk])
        way.is_stuck = False
        await eventually(lambda: far.sessions(talk.session)[0]["state"] == "running", "it is there again")
        caller = await near.dial(TWILIO)
        for message in opening("twilio"):
            caller.say(message)
        assert (await caller.closed())[0] == 1013
        await go_on([talk])
        await hang_up_all(fault, far, [talk], "sound")
        fault.ended = WELL
    for gateway in (near, far):
        gateway.stop()
    way.stop()
    server.stop()


OTHER_HOST = """
import gateway.store.worker_id as worker_id
worker_id.process_namespace = lambda: "elsewhere"
from gateway.cli import main
main()
"""


def own_host(start: Start) -> Start:
    """Return what starts gateways that take themselves for ones of another machine."""
    return partial(start, command=[sys.executable, "-c", OTHER_HOST])


async def test_clocks_differ(
    case: Cases,
    start_gateway: Start,
    launcher: Launcher,
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
) -> None:
    server = RedisServer()
    right = on_redis(start_gateway, support_port, server.url(), server)
    moved, move = launcher.with_a_clock(
        agents=agents_at(support_port.url), limits=LIMITS, store={"url": server.url()}
    )
    vars(moved)["rows"] = partial(rows_of, server)
    move(AHEAD_S)
    before = await warm_with(support, moved, bases, support_port)
    async with case("the clocks of two nodes differ by 10 s", of=moved, before=before) as fault:
        talk = await fault.talk(support)
        fault.strike()
        beats = server.run("HGET", keys.worker(moved.workers()[0]["id"]), "beat_at")
        await eventually(
            lambda: server.run("HGET", keys.worker(moved.workers()[0]["id"]), "beat_at") != beats,
            "each has looked for dead ones",
        )
        caller = await right.dial(TWILIO)
        for message in opening("twilio"):
            caller.say(message)
        assert (await caller.closed())[0] == 1013
        await go_on([talk])
        assert count(right, "session_lost") == count(moved, "session_lost") == 0
        await hang_up_all(fault, moved, [talk], "sound; the agent's place is one at both")
        fault.ended = WELL
    for gateway in (right, moved):
        gateway.stop()
    server.stop()


async def test_another_release_writes_beside_this_one(
    case: Cases, gateway: Gateway, support: Agent, redis: RedisServer
) -> None:
    """It knows fields that this one does not, and leaves out others; and it says what nobody here knows."""
    async with case("another release writes records beside this one") as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        name = keys.session(talk.session)
        redis.run("HSET", name, "of_the_next_release", "1")
        redis.run("HDEL", name, "region", "transport", "start_type", "resumed")
        redis.run(
            "HSET", keys.session("old"), "id", "old", "number", "0", "state", "ended", "created_at", "1"
        )
        redis.run("PUBLISH", f"{keys.EVENTS}:0", "another of_the_next_release key")
        status = gateway.status()
        assert status["sessions"]["active"] == 1
        await go_on([talk])
        await hang_up_all(fault, gateway, [talk], "sound")
        assert redis.run("HGET", name, "of_the_next_release") == "1"
        redis.run("DEL", keys.session("old"))
        fault.ended = WELL
