# SPDX-License-Identifier: BSD-2-Clause
"""Agents that the gateway starts, through its management API: numbers, deployments, output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from gateway.simulator.waiting import POLL_S, WAIT_S
from tests.harness.gateway import Gateway
from tests.pool.conftest import lines, logged

KEY = {"Authorization": "Bearer sk_acme"}


@pytest.fixture(scope="module")
def gateway(start_pool: Callable[..., Gateway], pool_agent: Callable[..., dict[str, Any]]) -> Gateway:
    """A gateway whose agents are started, and whose organisation has a private key."""
    return start_pool(
        pool_agent("talks"),
        pool_agent("changes", environment={"GREETING": "hello"}, min_agents=1),
        pool_agent("scales", max_agents=3),
        pool_agent("again", min_agents=1),
        pool_agent("broken", "exit=7"),
        organizations=[{"name": "acme", "private_keys": ["sk_acme"], "public_keys": ["pk_acme"]}],
        limits={"requests_per_second": 10_000, "requests_burst": 10_000},
    )


Ask = Callable[..., Any]


@pytest.fixture
async def ask(gateway: Gateway) -> AsyncIterator[Ask]:
    """A request of the API: the JSON of its answer."""
    async with aiohttp.ClientSession(headers=KEY) as client:

        async def request(path: str, method: str = "GET", value: Any = None) -> Any:
            url = f"http://127.0.0.1:{gateway.port}/v1/agents/{path}"
            async with client.request(method, url, json=value) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        yield request


async def until(found: Callable[[], Any], what: str) -> Any:
    """Ask again until there is something."""
    async with asyncio.timeout(WAIT_S):
        while not (value := await found()):
            await asyncio.sleep(POLL_S)
    return value


async def test_what_an_instance_prints_is_read_by_session(call: Any, gateway: Gateway, ask: Ask) -> None:
    first, port = await call(gateway, "talks")
    second, other = await call(gateway, "talks")
    assert port != other
    newer, older = (each["sessionId"] for each in (await ask("talks/sessions"))["sessions"])

    async def printed(session: str) -> list[str]:
        found = await ask(f"talks/logs?sessionId={session}&order=asc&limit=100")
        return [line["log"] for line in found["logs"]]

    await until(lambda: _has(printed(older), f"session {older} begins"), "what is printed while it runs")
    await first.hang_up()
    await second.hang_up()
    for session, another in ((older, newer), (newer, older)):
        await until(lambda: _has(printed(session), f"session {session} ends"), "the lines")  # noqa: B023
        assert f"session {session} begins" in await printed(session)
        assert another not in " ".join(await printed(session))

    everything = await ask("talks/logs?limit=100")
    assert everything["total"] == {"value": 6, "relation": "eq"}
    times = [line["timestamp"] for line in everything["logs"]]
    assert times == sorted(times, reverse=True)
    assert everything["logs"][-1]["log"].startswith("starting on ")
    deployment = (await ask("talks"))["activeDeploymentId"]
    assert {line["deploymentId"] for line in everything["logs"]} == {deployment}
    found = await ask(f"talks/logs?query=BEGINS&deploymentId={deployment}")
    assert found["total"]["value"] == 2
    assert (await ask("talks/logs?deploymentId=another"))["logs"] == []


async def _has(lines: Any, line: str) -> bool:
    return line in await lines


async def test_a_changed_variable_starts_other_instances_and_running_sessions_stay(
    gateway: Gateway, call: Any, ask: Ask
) -> None:
    await logged(gateway, "instance is ready", "changes", 1)
    caller, port = await call(gateway, "changes")
    changed = await ask("changes", "POST", {"environment": {"GREETING": "good day"}})
    (leaving, *_) = await logged(gateway, "instance leaves", "changes")
    assert leaving["instance"].endswith(port)
    other, elsewhere = await call(gateway, "changes")
    assert elsewhere != port
    scaling = await until(lambda: _scaling(ask, "changes", draining=1), "the old one drains")
    assert scaling["running"] >= 2
    await caller.hang_up()
    (stopped, *_) = await logged(gateway, "instance is stopped", "changes")
    assert stopped["instance"].endswith(port)
    sessions = (await ask("changes/sessions"))["sessions"]
    assert [each["deploymentId"] for each in sessions] == [
        changed["activeDeploymentId"],
        (await ask("changes/deployments/0"))["id"],
    ]
    await other.hang_up()


async def test_a_deployment_that_is_forced_starts_other_instances_and_one_of_numbers_none(
    gateway: Gateway, ask: Ask
) -> None:
    (ready,) = await logged(gateway, "instance is ready", "again")
    await ask("again", "POST", {"cooldown": 200, "autoScaling": {"maxAgents": 3}})
    await ask("again", "POST", {"autoScaling": {"minAgents": 2}})
    await logged(gateway, "instance is ready", "again", 2)
    assert lines(gateway, "instance leaves", "again") == []
    forced = await ask("again", "POST", {"forceRedeploy": True})
    assert forced["deployment"]["number"] == 3
    left = await logged(gateway, "instance leaves", "again", 2)
    assert ready["instance"] in {line["instance"] for line in left}
    await logged(gateway, "instance is ready", "again", 4)
    await until(lambda: _scaling(ask, "again", ready=2, draining=0), "the new ones are there alone")


async def _scaling(ask: Ask, name: str, **values: Any) -> Any:
    scaling = (await ask(name))["scaling"]
    return scaling if values.items() <= scaling.items() else None


async def test_the_numbers_of_instances_are_told_and_changed(gateway: Gateway, call: Any, ask: Ask) -> None:
    agent = await ask("scales")
    assert agent["ready"] is True, "an instance is started when a call comes"
    assert agent["scaling"] == {
        "needed": 0,
        "running": 0,
        "starting": 0,
        "ready": 0,
        "draining": 0,
        "freePlaces": 0,
        "crashLoop": False,
        "troubles": [],
    }
    changed = await ask("scales", "POST", {"autoScaling": {"minAgents": 2}})
    assert changed["scaling"]["needed"] == 2
    await until(lambda: _scaling(ask, "scales", ready=2, freePlaces=2), "two instances are ready")
    caller, _ = await call(gateway, "scales")
    await until(lambda: _scaling(ask, "scales", ready=2, freePlaces=1, needed=2), "one has a call")
    await ask("scales", "POST", {"autoScaling": {"minAgents": 3}})
    await until(lambda: _scaling(ask, "scales", ready=3, freePlaces=2), "a third one is ready")
    assert len((await ask("scales"))["instances"]) == 3
    await caller.hang_up()


async def test_the_status_counts_instances_and_names_none(gateway: Gateway, ask: Ask) -> None:
    await ask("scales", "POST", {"autoScaling": {"minAgents": 3}})
    await until(lambda: _scaling(ask, "scales", ready=3), "three instances are ready")
    status = gateway.status()
    assert set(status["instances"]) == {"starting", "ready", "leaving", "closing"}
    assert status["instances"]["ready"] >= 3
    assert "scales" not in str(status)


async def test_an_agent_that_ends_as_it_starts_is_not_ready(gateway: Gateway, ask: Ask) -> None:
    await ask("broken", "POST", {"autoScaling": {"minAgents": 1}})
    await logged(gateway, "instance failed", "broken", 2)

    async def in_trouble() -> Any:
        agent = await ask("broken")
        return agent if agent["scaling"]["crashLoop"] else None

    agent = await until(in_trouble, "the pool pauses")
    assert agent["ready"] is False
    assert "exit status 7" in agent["scaling"]["troubles"][0]
    assert agent["scaling"]["needed"] == 1
