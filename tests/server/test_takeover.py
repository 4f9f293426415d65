# SPDX-License-Identifier: BSD-2-Clause
"""A gateway is replaced while calls come: none is cut, none is refused."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.server.takeover import count_listeners
from gateway.simulator.gateway_process import to_toml
from gateway.simulator.server_process import PATCHBAY
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_both_hear, connect, hang_up
from tests.harness.caller import dial
from tests.harness.gateway import Gateway

PACE_S = 0.03
"""Between two calls of one caller: the new gateway's processes want to start meanwhile."""


@pytest.fixture
def agents(support_port: AgentPort) -> list[dict[str, Any]]:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return [agent | {"sessions_per_instance": 100}]


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_call_is_cut_and_none_refused(
    gateways: list[Gateway],
    start_gateway: Callable[..., Gateway],
    agents: list[dict[str, Any]],
    support: Agent,
    tmp_path: Path,
    workers: int,
) -> None:
    old = start_gateway(server={"workers": workers, "drain_timeout": 60}, agents=agents)
    running = await connect(old, support)
    answers: list[int] = []
    enough = asyncio.Event()

    async def keep_calling() -> None:
        """Callers that come one after another and give up at once."""
        while not enough.is_set():
            caller = await dial(old.port, "/ws/twilio/support.acme")
            answers.append(caller.status)
            await caller.leave()
            await asyncio.sleep(PACE_S)

    async with asyncio.TaskGroup() as callers:
        for _ in range(3):
            callers.create_task(keep_calling())
        await eventually(lambda: len(answers) > 20, "callers come")
        settings = {"server": {"workers": workers}, "agents": agents}
        new = await asyncio.to_thread(Gateway, tmp_path, settings, replace=old)
        gateways.append(new)
        await eventually(lambda: told(new, "patchbay"), "the new one begins to start")
        await eventually(lambda: told(new, "the port is taken over"), "the new one has the port")
        await eventually(lambda: count_listeners(old.port) == workers, "the old one has left it")
        before = len(answers)
        await eventually(lambda: len(answers) > before + 20, "callers still come")
        enough.set()
    assert set(answers) == {101}

    # The call that was running is still the old one's, and a new one is not.
    new.port = old.port
    await assert_both_hear(running)
    fresh = await connect(new, support)
    await assert_both_hear(fresh)
    assert old.process.poll() is None
    await hang_up(running)
    assert await old.ended() == 0
    await hang_up(fresh)
    await eventually(lambda: ended(new, fresh), "its end is told")
    everybody = len(answers) + 2
    await eventually(lambda: len(old.ends()) + len(new.ends()) == everybody, "each call's end is told")
    old.upgrades, new.upgrades = len(old.ends()), len(new.ends())


def told(gateway: Gateway, event: str) -> bool:
    return any(line["event"] == event for line in gateway.log_lines())


def ended(gateway: Gateway, call: Call) -> bool:
    return any(line["session"] == call.session for line in gateway.ends())


def test_nobody_is_there_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "patchbay.toml").write_text(
        to_toml({"server": {"port": 0, "log_format": "json"}, "store": {"url": f"sqlite:///{tmp_path}/a.db"}})
    )
    with subprocess.Popen(["true"]) as gone:
        gone.wait(WAIT_S)
    tried = subprocess.run(
        [*PATCHBAY, "serve", "--config", tmp_path / "patchbay.toml", "--replace", str(gone.pid)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert tried.returncode == 1
    assert "No such process" in tried.stdout + tried.stderr
