# SPDX-License-Identifier: BSD-2-Clause
"""Two machines: what an instance prints on one of them is read at the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulator.free_ports import free_port
from gateway.simulator.waiting import POLL_S, WAIT_S
from tests.harness.gateway import Gateway
from tests.harness.redis_server import RedisServer
from tests.pool.conftest import logged


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="module")
def machines(
    start_pool: Callable[..., Gateway],
    pool_agent: Callable[..., dict[str, Any]],
    redis: RedisServer,
    folder: Path,
) -> tuple[Gateway, Gateway]:
    """Two gateways with addresses of their own, one store, and a folder each."""
    talks = pool_agent("talks", max_agents=1, min_agents=1)

    def start(name: str) -> Gateway:
        return start_pool(
            talks,
            store={"url": redis.url()},
            server={"node_url": f"http://127.0.0.1:{free_port()}", "pool_folder": str(folder / name)},
            organizations=[{"name": "acme", "private_keys": ["sk_acme"]}],
            limits={"requests_per_second": 10_000, "requests_burst": 10_000},
        )

    return start("here"), start("there")


async def logs(gateway: Gateway, query: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{gateway.port}/v1/agents/talks/logs?order=asc&{query}"
    headers = {"Authorization": "Bearer sk_acme"}
    async with aiohttp.ClientSession(headers=headers) as client, client.get(url) as answer:
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def test_lines_are_the_same_whichever_machine_is_asked(
    machines: tuple[Gateway, Gateway], call: Any
) -> None:
    here, there = machines
    await logged(here, "instance is ready", "talks")
    caller, port = await call(there, "talks")
    await caller.hang_up()
    async with asyncio.timeout(WAIT_S):
        while "ends" not in str(found := await logs(there, "limit=100")):
            await asyncio.sleep(POLL_S)
    lines = [line["log"] for line in found["logs"]]
    assert lines[0] == f"starting on {port}"
    assert [line.split()[-1] for line in lines[1:]] == ["begins", "ends"]
    assert found["total"] == {"value": 3, "relation": "eq"}
    assert await logs(here, "limit=100") == found
    session = lines[1].split()[1]
    for gateway in machines:
        assert f"session {session} begins" in str(await logs(gateway, f"sessionId={session}"))


async def test_many_lines_come_from_another_machine(machines: tuple[Gateway, Gateway], folder: Path) -> None:
    _, there = machines
    (output,) = (folder / "here").glob("*.log")
    with output.open("a") as more:
        more.writelines(f"{number:09d} {'é' * 200}\n" for number in range(900))
    async with asyncio.timeout(WAIT_S):
        while (found := await logs(there, "limit=1000&query=é"))["total"]["value"] != 900:
            await asyncio.sleep(POLL_S)
    assert [line["log"][:9] for line in found["logs"]] == [f"{number:09d}" for number in range(900)]


async def test_a_machine_that_has_ended_is_not_waited_for(machines: tuple[Gateway, Gateway]) -> None:
    here, there = machines
    here.end()
    async with asyncio.timeout(WAIT_S):
        # It has withdrawn its address, as its end was meant: nobody is left to ask.
        while (found := await logs(there, "query=session"))["total"] != {"value": 0, "relation": "eq"}:
            await asyncio.sleep(POLL_S)
    assert found["logs"] == []
