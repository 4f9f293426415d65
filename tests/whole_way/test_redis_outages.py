# SPDX-License-Identifier: BSD-2-Clause
"""Redis is away while a gateway runs: what load balancer and log are told, and how the gateway stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_both_hear, connect
from tests.harness.gateway import Gateway
from tests.harness.redis_server import RedisServer
from tests.harness.redis_topologies import freeze, thaw

DRAIN_S = 3600.0
"""Far beyond any wait of a test: only SIGQUIT ends a call."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    if server.process is not None:
        thaw(server)
    server.stop()


@pytest.fixture
def gateway(
    start_gateway: Callable[..., Gateway],
    redis: RedisServer,
    support_port: AgentPort,
    request: pytest.FixtureRequest,
) -> Gateway:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    store = {"url": redis.url(), "on_failure": getattr(request, "param", "refuse")}
    return start_gateway(store=store, agents=[agent | {"sessions_per_instance": 5}])


def told(gateway: Gateway, event: str) -> int:
    return sum(line["event"] == event for line in gateway.log_lines())


async def test_a_gateway_without_its_store_is_not_ready_and_says_so_once(
    gateway: Gateway, redis: RedisServer, support: Agent
) -> None:
    call = await connect(gateway, support)
    freeze(redis)
    await eventually(lambda: gateway.get("/readyz")[0] == 503, "readyz says no")
    assert gateway.get("/readyz")[1] == {"status": "store_failed", "calls": 1}
    assert gateway.get("/livez")[0] == 200
    await assert_both_hear(call)
    thaw(redis)
    await eventually(lambda: gateway.get("/readyz")[0] == 200, "it is ready again")
    lines = [line for line in gateway.log_lines() if line["event"].startswith(("session_store", "store"))]
    assert [line["event"] for line in lines] == ["session_store_failed", "session_store_recovered"]
    await call.caller.leave()


async def test_a_full_store_is_not_ready(gateway: Gateway, redis: RedisServer) -> None:
    """It takes heartbeats, and no calls."""
    redis.run("CONFIG", "SET", "maxmemory", "1")
    await eventually(lambda: gateway.get("/readyz")[0] == 503, "readyz says no")
    redis.run("CONFIG", "SET", "maxmemory", "0")
    await eventually(lambda: gateway.get("/readyz")[0] == 200, "it is ready again")
    await eventually(lambda: told(gateway, "session_store_recovered"), "it says so")
    assert (told(gateway, "session_store_failed"), told(gateway, "session_store_recovered")) == (1, 1)


@pytest.mark.parametrize("gateway", ["admit"], indirect=True)
async def test_a_gateway_that_admits_calls_without_its_store_is_ready(
    gateway: Gateway, redis: RedisServer, support: Agent
) -> None:
    redis.kill()
    await eventually(lambda: told(gateway, "session_store_failed"), "it is noticed")
    assert gateway.get("/readyz") == (200, {"status": "ready"})
    call = await connect(gateway, support)
    await assert_both_hear(call)
    await call.caller.leave()


async def test_a_gateway_that_stops_does_not_wait_for_a_store_that_is_away(
    gateway: Gateway, redis: RedisServer, support: Agent
) -> None:
    call = await connect(gateway, support)
    freeze(redis)
    await eventually(lambda: gateway.get("/readyz")[0] == 503, "it is noticed")
    begun = time.monotonic()
    gateway.process.terminate()
    gateway.process.terminate()
    await call.caller.leave()
    assert await gateway.ended() == 0
    assert time.monotonic() - begun < DRAIN_S
    assert told(gateway, "session_store_lost_writes") == 1
