# SPDX-License-Identifier: BSD-2-Clause
"""Health checks of agents that speak WebSocket alone, that are not to be asked, or asked in another way."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from gateway.agents import instance_health as module
from gateway.agents.circuit_breaker import FIRST_PAUSE_S
from gateway.agents.health_check import HealthCheck, health_checks
from gateway.agents.instance_health import Health, InstanceHealth, ProbeResult
from gateway.agents.listening_probe import look_for_listener
from gateway.config import AgentSettings
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.clock import Clock
from tests.harness.socket_servers import SocketServer

OFTEN = 0.01
"""Seconds between two probes; the settings allow 0.5."""


class Complaints(logging.Handler):
    """The log of a WebSocket server, INFO and above."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    handler, logger = Complaints(), logging.getLogger("websockets.server")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@asynccontextmanager
async def websocket_agent(port: int = 0) -> AsyncIterator[str]:
    """An agent made with `websockets` alone, which echoes; the URL of its instance."""

    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", port) as server:
        number = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{number}"


@asynccontextmanager
async def watching(checks: dict[str, HealthCheck], **options: Any) -> AsyncIterator[InstanceHealth]:
    health = InstanceHealth(checks, **options)
    await health.start()
    try:
        yield health
    finally:
        await health.stop()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the connection is made")
async def test_a_look_at_a_listener_leaves_no_trace_there(complaints: Complaints) -> None:
    async with websocket_agent() as url:
        complaints.lines.clear()
        for _ in range(20):
            await look_for_listener(url)
        # A request comes after all of them, and is reported.
        async with watching({url: HealthCheck("/readyz", 3600)}) as health:
            await eventually(lambda: health.of(url) is Health.READY, "it is asked")
        await eventually(lambda: complaints.lines, "the request is reported")
    assert "rejected" in complaints.lines[0], "there is nothing before it"


async def test_a_look_where_nothing_listens_is_refused(agent_port: Callable[[], AgentPort]) -> None:
    with pytest.raises(ConnectionRefusedError):
        await look_for_listener(agent_port().url)


async def test_an_agent_that_speaks_websocket_alone_is_asked_once(complaints: Complaints) -> None:
    async with websocket_agent() as url, watching({url: HealthCheck(interval_s=OFTEN)}) as health:
        looks = count_looks(health)
        await eventually(lambda: looks() >= 10, "it was probed again and again")
        assert health.of(url) is Health.READY
        assert sum("rejected" in line for line in complaints.lines) == 1
        assert await health.answers(url), "it is asked whether it answers, after all"
        assert sum("rejected" in line for line in complaints.lines) == 2


def count_looks(health: InstanceHealth) -> Callable[[], int]:
    """Count the probes that only look for a listener from now on."""
    looks = 0
    look = health._look

    async def counted(instance: str) -> ProbeResult:
        nonlocal looks
        looks += 1
        return await look(instance)

    health._look = counted  # type: ignore[method-assign]
    return lambda: looks


async def test_an_agent_is_asked_again_once_its_process_has_ended(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    """Another program may listen there next, and say when it is ready."""
    port = agent_port()
    async with watching({port.url: HealthCheck(interval_s=OFTEN)}) as health:
        upgrades: Agent = await agent_at(port, ready=426)
        looks = count_looks(health)
        await eventually(looks, "it is looked at, and not asked")
        await upgrades.stop()
        await eventually(lambda: health.of(port.url) is Health.UNREACHABLE, "it is gone")
        await agent_at(port, ready=503)
        await eventually(lambda: health.of(port.url) is Health.STARTING, "the next one says that it starts")


async def test_an_agent_is_asked_at_its_own_path(agent_port: Callable[[], AgentPort]) -> None:
    port = agent_port()
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = SocketServer(answer)
    await server.start(port.listen())
    async with watching({port.url: HealthCheck("/healthz/deep", OFTEN)}) as health:
        await eventually(lambda: health.of(port.url) is Health.STARTING, "its 503 is believed")
    assert set(asked) == {b"/healthz/deep"}
    await server.stop()


async def test_an_agent_without_a_health_path_is_only_looked_at(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent: Agent = await agent_at(port, ready=503)
    async with watching({port.url: HealthCheck("", OFTEN)}) as health:
        await eventually(lambda: health.of(port.url) is Health.READY, "something listens")
        await agent.stop()
        await eventually(lambda: health.of(port.url) is Health.UNREACHABLE, "nothing does")
    assert agent.health == 0


async def test_an_agent_whose_answers_are_no_http_is_asked_less_and_less(
    agent_port: Callable[[], AgentPort],
) -> None:
    port = agent_port()
    requests = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        writer.close()

    server = SocketServer(hang_up)
    await server.start(port.listen())
    async with watching({port.url: HealthCheck()}) as health:
        await eventually(lambda: health._vain_probes.get(port.url), "it was asked in vain")
        assert health.of(port.url) is Health.UNKNOWN, "it may get calls"
        intervals = []
        for _ in range(8):
            assert await health.probe(port.url) is ProbeResult.NOT_HTTP
            intervals.append(health._interval_s(port.url))
    assert intervals[:3] == [8.0, 16.0, module.LONGEST_VAIN_INTERVAL_S]
    assert set(intervals[3:]) == {module.LONGEST_VAIN_INTERVAL_S}
    await server.stop()


# Without health checks


async def test_an_agent_without_health_checks_is_known_by_its_calls_alone(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    clock = Clock()
    first, second = agent_port(), agent_port()
    both = [first.url, second.url]
    agent: Agent = await agent_at(first, ready=503)
    other: Agent = await agent_at(second)
    checks = {first.url: HealthCheck(interval_s=0), second.url: HealthCheck(interval_s=OFTEN)}
    async with watching(checks, max_failures=2, now=clock) as health:
        await eventually(lambda: other.health > 3, "the other one is asked")
        assert agent.health == 0
        assert health.of(first.url) is Health.UNKNOWN
        health.mark_connected(first.url)
        assert health.of(first.url) is Health.READY
        ranks = dict(health.ranks(both))
        assert ranks[first.url] is Health.UNKNOWN, "a call of its own does not prefer it to others"

        health.mark_unreachable(first.url)
        assert health.of(first.url) is Health.UNREACHABLE
        clock.now += FIRST_PAUSE_S
        assert health.of(first.url) is Health.UNKNOWN, "it may be tried again"

        health.mark_unreachable(first.url)
        health.mark_unreachable(first.url)
        assert [url for url, _ in health.ranks(both)] == [second.url], "its circuit is open"
        clock.now += FIRST_PAUSE_S
        assert health.has_half_open(both), "the pause is all that it waits for"
        health.trial_started(first.url)
        assert [url for url, _ in health.ranks(both)] == [second.url]
        assert agent.health == 0


async def test_an_agent_without_health_checks_is_looked_at_where_one_must_know(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    async with watching({port.url: HealthCheck(interval_s=0)}) as health:
        assert not await health.answers(port.url)
        health.mark_unreachable(port.url)
        waiting = asyncio.create_task(health.wait_until_answering(port.url))
        agent: Agent = await agent_at(port, ready=503)
        await waiting
        assert await health.answers(port.url)
        assert await health.probe(port.url) is ProbeResult.READY
    assert agent.health == 0


# Which check an instance has


def agent(**keys: Any) -> AgentSettings:
    return AgentSettings.model_validate({"name": "support", "organization": "acme", **keys})


def test_an_instance_of_several_agents_is_asked_as_the_one_wants_that_asks_most_often() -> None:
    url, other = "http://127.0.0.1:1", "http://127.0.0.1:2"
    agents = [
        agent(instances=[url, other], health_interval=0),
        agent(instances=[url], health_interval=30, health_path="/slow"),
        agent(instances=[url], health_interval=5, health_path="/fast"),
        agent(instances=[url], health_interval=5, health_path="/second"),
    ]
    checks = health_checks(agents)
    assert checks == {url: HealthCheck("/fast", 5.0), other: HealthCheck("/readyz", 0.0)}


async def test_what_is_known_of_an_instance_outlives_a_change_of_the_others(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    await agent_at(port, ready=426)
    async with watching({port.url: HealthCheck(interval_s=OFTEN)}) as health:
        await eventually(count_looks(health), "it is looked at")
        health.watch({port.url: HealthCheck(interval_s=OFTEN), agent_port().url: HealthCheck()})
        assert health.of(port.url) is Health.READY
        assert port.url in health._websocket_only
        health.watch({port.url: HealthCheck(interval_s=2 * OFTEN)})
        assert port.url not in health._websocket_only, "it is to be asked otherwise"
