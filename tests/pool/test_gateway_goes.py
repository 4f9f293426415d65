# SPDX-License-Identifier: BSD-2-Clause
"""Started agents when a worker or a gateway goes: they end with one that is stopped, and with no other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings as GatewaySettings
from gateway.pool.node_lock import NodeLock
from gateway.simulator.waiting import eventually
from tests.harness.gateway import Gateway
from tests.pool.bots import runs
from tests.pool.conftest import logged

Call = Callable[..., Any]
Settings = Callable[..., dict[str, Any]]


def bots(folder: Path) -> dict[str, int]:
    """The processes that run by the files in the folder: by instance, where it listens."""
    found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return {each["url"].rpartition(":")[2]: each["pid"] for each in found if each["ended_at"] is None}


@pytest.fixture
def tables(tmp_path: Path, pool_agent: Settings) -> dict[str, Any]:
    """A gateway that keeps two instances, in folders that the next one finds again."""
    return {
        "agents": [pool_agent("support", min_agents=2)],
        "server": {"pool_folder": str(tmp_path / "pool"), "drain_timeout": 30},
        "store": {"url": f"sqlite:///{tmp_path}/patchbay.db"},
    }


async def test_agents_end_with_a_gateway_that_is_stopped(
    start_gateway: Callable[..., Gateway], tables: dict[str, Any], tmp_path: Path, call: Call
) -> None:
    gateway = await asyncio.to_thread(lambda: start_gateway(**tables))
    await logged(gateway, "instance is ready", "support", 2)
    caller, port = await call(gateway, "support")
    pids = bots(tmp_path / "pool")
    gateway.terminate()
    idle = next(pid for each, pid in pids.items() if each != port)
    await eventually(lambda: not runs(idle), "the instance without a call stops")
    assert runs(pids[port]), "the call goes on"
    assert gateway.process.poll() is None
    await caller.hang_up()
    assert await gateway.ended() == 0
    assert not any(map(runs, pids.values()))
    assert bots(tmp_path / "pool") == {}


async def test_agents_outlive_a_gateway_that_is_killed_and_the_next_one_goes_on_with_them(
    start_gateway: Callable[..., Gateway], tables: dict[str, Any], tmp_path: Path, call: Call
) -> None:
    first = await asyncio.to_thread(lambda: start_gateway(**tables))
    await logged(first, "instance is ready", "support", 2)
    pids = bots(tmp_path / "pool")
    first.process.kill()
    await first.ended()
    second = await asyncio.to_thread(lambda: start_gateway(**tables))
    await eventually(
        lambda: any(line["event"] == "instances run already" for line in second.log_lines()), "they are found"
    )
    ports = {(await call(second, "support"))[1] for _ in range(2)}
    assert ports == set(pids)
    assert all(map(runs, pids.values()))
    assert bots(tmp_path / "pool") == pids
    await second.callers_leave()
    second.terminate()
    assert await second.ended() == 0
    assert not any(map(runs, pids.values()))


async def test_agents_go_over_to_the_gateway_that_replaces_another(
    start_gateway: Callable[..., Gateway],
    gateways: list[Gateway],
    tables: dict[str, Any],
    tmp_path: Path,
    call: Call,
) -> None:
    old = await asyncio.to_thread(lambda: start_gateway(**tables))
    await logged(old, "instance is ready", "support", 2)
    pids = bots(tmp_path / "pool")
    caller, _ = await call(old, "support")
    new_tables = {**tables, "server": dict(tables["server"])}
    (tmp_path / "new").mkdir()
    new = await asyncio.to_thread(Gateway, tmp_path / "new", new_tables, replace=old)
    gateways.append(new)
    await eventually(
        lambda: any(line["event"] == "instances run already" for line in new.log_lines()), "they are found"
    )
    new.port = old.port
    await caller.hang_up()
    assert await old.ended() == 0
    assert all(map(runs, pids.values()))
    assert bots(tmp_path / "pool") == pids
    _, port = await call(new, "support")
    assert port in pids


async def test_agents_do_not_outlive_a_gateway_whose_successor_does_not_know_them(
    start_gateway: Callable[..., Gateway],
    gateways: list[Gateway],
    tables: dict[str, Any],
    tmp_path: Path,
    call: Call,
) -> None:
    """The one that takes over has another folder, and starts agents of its own."""
    old = await asyncio.to_thread(lambda: start_gateway(**tables))
    await logged(old, "instance is ready", "support", 2)
    pids = bots(tmp_path / "pool")
    (tmp_path / "new").mkdir()
    server = {**tables["server"], "pool_folder": str(tmp_path / "other")}
    new = await asyncio.to_thread(Gateway, tmp_path / "new", {**tables, "server": server}, replace=old)
    gateways.append(new)
    assert await old.ended() == 0
    assert not any(map(runs, pids.values()))
    new.port = old.port
    await logged(new, "instance is ready", "support", 2)
    caller, _ = await call(new, "support")
    await caller.hang_up()


def test_two_folders_make_no_two_pools_of_one_node(tmp_path: Path) -> None:
    settings = GatewaySettings.model_validate(
        {"store": {"url": "redis://127.0.0.1:6379/0"}, "server": {"node_url": "http://127.0.0.9:7861"}}
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = (NodeLock(tmp_path / name, settings) for name in ("first", "second"))
    assert first.take()
    assert not second.take()
    assert second.is_doubled
    first.release()
    assert second.take()
    assert not second.is_doubled
    assert not first.take()
    first.close()
    second.close()


async def test_another_worker_goes_on_with_the_agents_of_one_that_died(
    start_gateway: Callable[..., Gateway], tables: dict[str, Any], tmp_path: Path, call: Call
) -> None:
    tables["server"]["workers"] = 2
    gateway = await asyncio.to_thread(lambda: start_gateway(**tables))
    await logged(gateway, "instance is ready", "support", 2)
    pids = bots(tmp_path / "pool")

    def managers() -> list[int]:
        event = "this worker manages the pool"
        return [line["pid"] for line in gateway.log_lines() if line["event"] == event]

    (manager,) = managers()
    os.kill(manager, signal.SIGKILL)
    await eventually(lambda: len(managers()) == 2, "another worker manages the pool")
    await eventually(
        lambda: any(line["event"] == "instances run already" for line in gateway.log_lines()), "it found them"
    )
    assert bots(tmp_path / "pool") == pids
    assert all(map(runs, pids.values()))
    _, port = await call(gateway, "support")
    assert port in pids
    await gateway.callers_leave()
    gateway.terminate()
    assert await gateway.ended() == 0
    assert not any(map(runs, pids.values()))
