# SPDX-License-Identifier: BSD-2-Clause
"""Gateways that start agents, and calls to them."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.pool.bots import BOT

_starts = count()


@pytest.fixture(scope="module")
def pool_agent() -> Callable[..., dict[str, Any]]:
    """Make the settings of an agent that is started. `options`: of tiny_bot.py."""

    def agent(name: str, *options: str, **settings: Any) -> dict[str, Any]:
        first = 20_000 + (os.getpid() * 97 + next(_starts) * 40) % 9_900
        return {
            "name": name,
            "organization": "acme",
            "command": [sys.executable, "-S", str(BOT), "{port}", *options],
            "ports": f"{first}-{first + 99}",
            "max_agents": 4,
            "buffer": 0,
            "stop_timeout": 0,
            **settings,
        }

    return agent


@pytest.fixture(scope="module")
def start_pool(
    start_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Gateway]:
    """Start a gateway that starts these agents."""

    def start(*agents: dict[str, Any], **tables: Any) -> Gateway:
        folder = tmp_path_factory.mktemp("pool")
        server = {"pool_folder": str(folder), **tables.pop("server", {})}
        return start_gateway(agents=list(agents), server=server, **tables)

    return start


@pytest.fixture(autouse=True)
async def callers_leave(gateways: list[Gateway]) -> AsyncIterator[None]:
    """After each test every caller hangs up."""
    yield
    for gateway in gateways:
        await gateway.callers_leave()


@pytest.fixture
def call() -> Callable[..., Any]:
    """Call an agent by its name; return the caller and the port of the instance that answered."""

    async def place(gateway: Gateway, name: str) -> tuple[Caller, str]:
        caller = await gateway.dial(f"/ws/generic/{name}.acme")
        assert caller.status == 101, caller.body
        hello = await caller.hear()
        return caller, hello.payload.decode().removeprefix("instance ")

    return place


def lines(gateway: Gateway, event: str, name: str) -> list[dict[str, Any]]:
    """Return the lines of an event about an agent."""
    return [
        line for line in gateway.log_lines() if line["event"] == event and line.get("agent") == f"{name}.acme"
    ]


async def logged(gateway: Gateway, event: str, name: str, times: int = 1) -> list[dict[str, Any]]:
    """Wait until an event about an agent was logged so often; return its lines."""
    return await eventually(
        lambda: found if len(found := lines(gateway, event, name)) >= times else [], f"{event!r} of {name}"
    )


def pool_folder(gateway: Gateway) -> Path:
    """Return the folder of a gateway's instances."""
    return Path(gateway.settings["server"]["pool_folder"])
