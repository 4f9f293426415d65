# SPDX-License-Identifier: BSD-2-Clause
"""Faults of agents that the gateway starts itself, each a real process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.pool.output_file import output_bytes
from gateway.simulator.waiting import eventually
from tests.faults.case import Case
from tests.faults.suite_settings import LIMITS, agents_at, warmed
from tests.harness.agent import Agent, AgentPort
from tests.harness.gateway import Gateway
from tests.pool.bots import BOT, runs

DISK_MIB = 64
"""Mebibytes that are left of an agent's output which prints as fast as it can."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what is started."""
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort, folder: Path) -> Gateway:
    first = 20_000 + os.getpid() % 90 * 100

    def started(name: str, *options: str, **settings: Any) -> dict[str, Any]:
        return {
            "name": name,
            "organization": "acme",
            "command": [sys.executable, "-S", str(BOT), "{port}", *options],
            "ports": f"{first}-{first + 99}",
            "buffer": 0,
            "max_agents": 2,
            "cooldown": 0,
            "stop_timeout": 0,
            **settings,
        }

    agents = [
        *agents_at(support_port.url),
        started("lazy", "never-ready", start_limit=0.5),
        started("broken", "exit=7", start_limit=3),
        started("crashing", resume_timeout=30),
        started("deaf", "deaf", "escaped-child", stop_grace=0.3),
        started("flood", "flood"),
    ]
    return start_gateway(agents=agents, limits=LIMITS, server={"pool_folder": str(folder)})


@pytest.fixture
async def base(gateway: Gateway, bases: dict[int, int], support_port: AgentPort) -> int:
    return await warmed(gateway, bases, support_port)


def files_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what is stored of an agent's instances."""
    found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return [each for each in found if each["agent"] == f"{name}.acme"]


def logged(gateway: Gateway, event: str, name: str) -> bool:
    return any(line["event"] == event and line.get("agent") == f"{name}.acme" for line in gateway.log_lines())


async def test_it_is_never_ready(case: Callable[..., Case], gateway: Gateway, support: Agent) -> None:
    async with case("is started, and never ready") as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller("/ws/twilio/lazy.acme")
        await fault.ends(recorder, 1011, "agent_start_timeout", "agent")
        await eventually(lambda: logged(gateway, "instance failed", "lazy"), "it is told")


async def test_it_ends_as_it_starts(case: Callable[..., Case], gateway: Gateway, support: Agent) -> None:
    async with case("is started, and ends at once, again and again") as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller("/ws/twilio/broken.acme")
        (end,) = await fault.all_over(1)
        await recorder.closed()
        fault.note_received(recorder)
        assert end["reason"] in ("agent_start_timeout", "agent_unreachable", "at_capacity")
        fault.ended = "`agent_start_timeout` (agent), or `agent_unreachable`, or `at_capacity`"
        assert logged(gateway, "instance failed", "broken")


async def test_it_crashes_in_a_call(case: Callable[..., Case], gateway: Gateway, support: Agent) -> None:
    async with case("is started, and crashes in a call: another one is started") as fault:
        fault.agent = support
        caller, recorder = await fault.caller("/ws/twilio/crashing.acme")
        await recorder.until(1)
        fault.strike()
        caller.say('{"event": "media", "media": {"payload": "crash"}}')
        await recorder.until(2)
        assert len({text for text in recorder.texts if text.startswith(b"instance ")}) == 2
        fault.note_received(recorder, with_close=False)
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")


async def test_it_ignores_sigterm_and_leaves_a_child(
    case: Callable[..., Case], gateway: Gateway, support: Agent, folder: Path
) -> None:
    async with case("is started, ignores SIGTERM, and its child leaves its process group") as fault:
        fault.agent = support
        _, recorder = await fault.caller("/ws/twilio/deaf.acme")
        await recorder.until(1)
        (instance,) = files_of(folder, "deaf")
        child = int(Path(instance["output"]).read_text().split("escaped-child ")[1].split()[0])
        assert runs(child)
        fault.strike()
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")
        await eventually(lambda: logged(gateway, "instance is stopped", "deaf"), "it is stopped")
        assert not runs(child)
        assert not runs(instance["pid"])
        fault.heard = "sound; both processes are gone"


async def test_it_prints_without_end(
    case: Callable[..., Case], gateway: Gateway, support: Agent, folder: Path
) -> None:
    """What it prints between two looks is on the disk for a moment."""
    async with case(f"is started, and prints without end: {DISK_MIB} MiB of it are left") as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller("/ws/twilio/flood.acme")
        await recorder.until(1)
        (instance,) = files_of(folder, "flood")
        output = Path(instance["output"])
        await eventually(
            lambda: any(
                line["event"] == "instance prints more than is stored" for line in gateway.log_lines()
            ),
            "its output is emptied",
        )
        await eventually(lambda: output_bytes(output) < DISK_MIB << 20, "little of it is left")
        fault.note_received(recorder, with_close=False)
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")
        await eventually(lambda: logged(gateway, "instance is stopped", "flood"), "it is stopped")
        assert output_bytes(output) < 2 * DISK_MIB << 20
