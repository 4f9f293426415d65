# SPDX-License-Identifier: BSD-2-Clause
"""The gateway itself breaks, is told to go, or has its clock moved."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.server.takeover import count_listeners
from gateway.simulator.gateway_process import to_toml
from gateway.simulator.waiting import eventually
from tests.faults.case import TWILIO, Case
from tests.faults.many_calls import CROWD, WELL, crowd, go_on, hang_up_all, over, owner_of, warm_with
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_next_call_works, assert_no_slots_taken
from tests.harness.caller import dial
from tests.harness.gateway import Gateway
from tests.harness.websocket_peer import ABNORMAL_CLOSE

Cases = Callable[..., Case]
Bases = dict[int, int]

DAY_S = 86400.0


# A worker dies


async def test_a_worker_is_killed(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
) -> None:
    gateway = start_gateway(server={"workers": 2}, agents=agents_at(support_port.url), limits=LIMITS)
    before = await warm_with(support, gateway, bases, support_port)
    own = case("a worker is killed: its calls", of=gateway, before=before)
    others = case("a worker is killed: the other's calls", of=gateway, before=before)
    async with own, others:
        talks = await crowd(own, support)
        while len({owner_of(gateway, talk.session) for talk in talks}) < 2:
            talks += await crowd(own, support, 1)
        victim = owner_of(gateway, talks[0].session)
        doomed = [talk for talk in talks if owner_of(gateway, talk.session) == victim]
        lucky = [talk for talk in talks if talk not in doomed]
        pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
        own.strike()
        others.strike()
        os.kill(pids[victim], signal.SIGKILL)
        gateway.upgrades -= len(doomed)  # it does not live to tell their ends
        for talk in doomed:
            assert await talk.recorder.closed() == ABNORMAL_CLOSE
            assert (
                await talk.agent_recorder.closed() == ABNORMAL_CLOSE
            )  # nor is the agent left talking to nobody
            own.note_received(talk.recorder)
        for talk in doomed:
            record = await eventually(partial(over, gateway, talk.session), "its session is closed")
            assert (record["reason"], record["side"]) == ("gateway_lost", "gateway")
        own.ended, others.ended = "`gateway_lost` (gateway)", WELL
        await go_on(lucky)
        await hang_up_all(others, gateway, lucky, "sound")
        await eventually(lambda: len(gateway.workers()) == 2, "a worker is started again")


FROZEN_SOON = """
import gateway.server.worker_processes as processes
processes.SILENT_S = {silent_s}
from gateway.cli import main
main()
"""
SILENT_S = 1.5


async def test_a_worker_freezes(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
) -> None:
    """The others get its new callers; its own calls go on when it wakes."""
    command = [sys.executable, "-c", FROZEN_SOON.format(silent_s=SILENT_S)]
    gateway = start_gateway(
        server={"workers": 2}, agents=agents_at(support_port.url), limits=LIMITS, command=command
    )
    before = await warm_with(support, gateway, bases, support_port)
    own = case("a worker stands still for 2 s (SIGSTOP): its calls", of=gateway, before=before)
    others = case("a worker stands still for 2 s (SIGSTOP): new callers", of=gateway, before=before)
    async with own, others:
        (talk,) = await crowd(own, support, 1)
        pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
        frozen = pids[owner_of(gateway, talk.session)]
        own.strike()
        os.kill(frozen, signal.SIGSTOP)
        try:
            new = await crowd(others, support, 6)  # the kernel gives it some of so many
            assert frozen not in {pids[owner_of(gateway, one.session)] for one in new}
            others.strike()
            await go_on(new)
        finally:
            os.kill(frozen, signal.SIGCONT)
        await go_on([talk])
        await hang_up_all(own, gateway, [talk], "sound, after the gap")
        await hang_up_all(others, gateway, new, "sound")
        own.ended = others.ended = WELL


async def test_the_parent_process_is_killed(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
) -> None:
    """Its workers carry their calls to the end, and leave the port to the gateway that is started next."""
    tables: dict[str, Any] = {"agents": agents_at(support_port.url), "limits": LIMITS}
    gateway = start_gateway(server={"workers": 2, "drain_timeout": 600}, **tables)
    before = await warm_with(support, gateway, bases, support_port)
    async with case("the parent of the workers is killed", of=gateway, before=before) as fault:
        talks = await crowd(fault, support)
        fault.strike()
        gateway.process.kill()
        await eventually(lambda: gateway.process.poll() is not None, "it is dead")
        store = {"url": f"sqlite:///{gateway.store}"}
        after = await asyncio.to_thread(start_gateway, server={"port": gateway.port}, store=store, **tables)
        after.store = gateway.store
        await go_on(talks)
        await hang_up_all(fault, gateway, talks, "sound, to the end of the call")
        fault.ended = WELL
        await assert_next_call_works(after, support)
        await after.callers_leave()
        fault.next_call = "works on the next gateway, on the same port"


# It is told to go


async def test_sigterm_under_load(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
) -> None:
    gateway = start_gateway(agents=agents_at(support_port.url), limits=LIMITS)
    before = await warm_with(support, gateway, bases, support_port)
    async with case("SIGTERM under load", of=gateway, before=before) as fault:
        talks = await crowd(fault, support)
        fault.strike()
        gateway.terminate()
        await eventually(lambda: gateway.get("/readyz")[0] == 503, "readyz says no")
        refused = await gateway.dial(TWILIO)
        assert refused.refusal == (503, "draining")
        assert refused.headers["retry-after"] == "10"
        await go_on(talks)
        await hang_up_all(fault, gateway, talks, "sound, to the end of the call")
        assert await gateway.ended() == 0
        fault.ended = WELL
        after = start_gateway(
            agents=agents_at(support_port.url),
            limits=LIMITS,
            store={"url": f"sqlite:///{gateway.store}"},
        )
        after.store = gateway.store
        await assert_next_call_works(after, support)
        await after.callers_leave()
        fault.next_call = "503 while it drains; works on the next gateway"


async def test_the_configuration_is_read_again_under_load(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
) -> None:
    gateway = start_gateway(agents=agents_at(support_port.url), limits=LIMITS)
    before = await warm_with(support, gateway, bases, support_port)
    file = gateway.directory / "patchbay.toml"
    without = tomllib.loads(file.read_text())
    without["agents"] = [agent for agent in without["agents"] if agent["name"] != "crowd"]

    async def reload(text: str, event: str) -> None:
        file.write_text(text)
        gateway.process.send_signal(signal.SIGHUP)
        await eventually(lambda: event in [line["event"] for line in gateway.log_lines()], event)

    async with case(
        "SIGHUP under load: a faulty file, then the agent removed", of=gateway, before=before
    ) as it:
        talks = await crowd(it, support)
        it.strike()
        await reload("[[agents]", "the configuration stays as it was")
        await go_on(talks)
        await reload(to_toml(without), "configuration read again")
        await eventually(lambda: gateway.status()["agents"] == len(without["agents"]), "it is gone")
        assert (await gateway.dial(CROWD)).refusal == (404, "unknown_agent")
        await go_on(talks)
        await hang_up_all(it, gateway, talks, "sound, to the end of the call")
        it.ended = WELL


async def test_replacement_under_load(
    case: Cases,
    gateways: list[Gateway],
    start_gateway: Callable[..., Gateway],
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
    tmp_path: Path,
) -> None:
    """A second gateway takes the port while calls run and calls come: none is cut, none refused."""
    agents = agents_at(support_port.url)
    limits = LIMITS | {"requests_per_second": 10_000.0, "requests_burst": 10_000}  # all from one address
    old = start_gateway(agents=agents, limits=limits)
    before = await warm_with(support, old, bases, support_port)
    answers: list[int] = []
    enough = asyncio.Event()

    async def keep_calling() -> None:
        while not enough.is_set():
            caller = await dial(old.port, CROWD)
            answers.append(caller.status)
            await caller.leave()

    async with case("replaced under load (`--replace`)", of=old, before=before) as fault:
        talks = await crowd(fault, support)
        settings = {"agents": agents, "limits": limits, "store": {"url": f"sqlite:///{old.store}"}}
        fault.strike()
        async with asyncio.TaskGroup() as callers:
            callers.create_task(keep_calling())
            new = await asyncio.to_thread(Gateway, tmp_path, settings, replace=old)
            gateways.append(new)
            await eventually(lambda: taken_over(new), "the new one has the port")
            await eventually(lambda: count_listeners(("127.0.0.1", old.port)) == 1, "the old one has left it")
            await go_on(talks)
            enough.set()
        assert set(answers) == {101}
        await hang_up_all(fault, old, talks, "sound, to the end of the call; every new caller is taken")
        assert await old.ended() == 0
        everybody = old.upgrades + len(answers)
        await eventually(lambda: len(old.ends()) + len(new.ends()) == everybody, "each call's end is told")
        old.upgrades, new.upgrades = len(old.ends()), len(new.ends())
        new.port, new.store = old.port, old.store
        await assert_next_call_works(new, support)
        await new.callers_leave()
        await assert_no_slots_taken(new)
        fault.ended, fault.next_call = WELL, "works, on the new one"


def taken_over(gateway: Gateway) -> bool:
    return any(line["event"] == "the port is taken over" for line in gateway.log_lines())


# The clock


@pytest.mark.parametrize(("jump", "seconds"), [("ahead", DAY_S), ("back", -DAY_S)])
async def test_the_clock_jumps(
    case: Cases,
    launcher: Any,
    bases: Bases,
    support: Agent,
    support_port: AgentPort,
    jump: str,
    seconds: float,
) -> None:
    gateway, move = launcher.with_a_clock(
        server={"workers": 2}, agents=agents_at(support_port.url), limits=LIMITS
    )
    before = await warm_with(support, gateway, bases, support_port)
    async with case(f"the clock jumps a day {jump}", of=gateway, before=before) as fault:
        talks = await crowd(fault, support)
        beats = [worker["beat_at"] for worker in gateway.workers()]
        fault.strike()
        move(seconds)

        def all_noticed() -> bool:
            now = [worker["beat_at"] for worker in gateway.workers()]
            return len(now) == 2 and all(abs(at - beats[0]) > DAY_S / 2 for at in now)

        await eventually(all_noticed, "each worker has looked for dead ones since")
        await go_on(talks)
        await hang_up_all(fault, gateway, talks, "sound")
        fault.ended = WELL
