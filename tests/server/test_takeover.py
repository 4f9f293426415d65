# SPDX-License-Identifier: BSD-2-Clause
"""A gateway is replaced while calls arrive: none is cut, none is refused."""

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
"""Pause between two calls of one caller, so that the new gateway's processes get time to start."""


@pytest.fixture
def agents(support_port: AgentPort) -> list[dict[str, Any]]:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return [agent | {"sessions_per_instance": 100}]


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_call_is_cut_or_refused_while_the_port_is_taken_over(
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
        """Place one call after another, each of which hangs up at once."""
        while not enough.is_set():
            caller = await dial(old.port, "/ws/twilio/support.acme")
            answers.append(caller.status)
            await caller.leave()
            await asyncio.sleep(PACE_S)

    async with asyncio.TaskGroup() as callers:
        for _ in range(3):
            callers.create_task(keep_calling())
        await eventually(lambda: len(answers) > 20, "calls arrive")
        settings = {"server": {"workers": workers}, "agents": agents}
        new = await asyncio.to_thread(Gateway, tmp_path, settings, replace=old)
        gateways.append(new)
        await eventually(lambda: has_logged(new, "patchbay"), "the new one begins to start")
        await eventually(lambda: has_logged(new, "the port is taken over"), "the new one has the port")
        await eventually(lambda: count_listeners(old.port) == workers, "the old one has left it")
        before = len(answers)
        await eventually(lambda: len(answers) > before + 20, "calls still arrive")
        enough.set()
    assert set(answers) == {101}

    # The running call stays with the old gateway; new calls go to the new one.
    new.port = old.port
    await assert_both_hear(running)
    fresh = await connect(new, support)
    await assert_both_hear(fresh)
    assert old.process.poll() is None
    await hang_up(running)
    assert await old.ended() == 0
    await hang_up(fresh)
    await eventually(lambda: has_ended(new, fresh), "its end is logged")
    total = len(answers) + 2
    await eventually(lambda: len(old.ends()) + len(new.ends()) == total, "each call's end is logged")
    old.upgrades, new.upgrades = len(old.ends()), len(new.ends())


def has_logged(gateway: Gateway, event: str) -> bool:
    return any(line["event"] == event for line in gateway.log_lines())


def has_ended(gateway: Gateway, call: Call) -> bool:
    return any(line["session"] == call.session for line in gateway.ends())


def test_a_process_that_does_not_exist_cannot_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "patchbay.toml").write_text(
        to_toml({"server": {"port": 0, "log_format": "json"}, "store": {"url": f"sqlite:///{tmp_path}/a.db"}})
    )
    with subprocess.Popen(["true"]) as gone:
        gone.wait(WAIT_S)
    finished = subprocess.run(
        [*PATCHBAY, "serve", "--config", tmp_path / "patchbay.toml", "--replace", str(gone.pid)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert finished.returncode == 1
    assert "No such process" in finished.stdout + finished.stderr
