# SPDX-License-Identifier: BSD-2-Clause
"""The gateway itself breaks, is told to go, or has nothing left to work with."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.serving.takeover import listeners
from tests.faults.case import TWILIO, Case
from tests.faults.line import Talk
from tests.faults.setup import LIMITS, agents_at, warmed
from tests.harness.agent import Agent, AgentPort
from tests.harness.caller import dial
from tests.harness.gateway import Gateway, eventually, newest
from tests.harness.openings import opening
from tests.harness.peer import ABNORMAL
from tests.harness.telephony import assert_ended, assert_next_call_works, assert_no_places_taken

Cases = Callable[..., Case]
Bases = dict[int, int]

CROWD = "/ws/twilio/crowd.acme"
CALLS = 12
"""A load that a test on a busy machine can speak and hear for at telephony's pace."""

TURN_FRAMES = 25
"""Half a second in which calls are seen to go on."""

DAY_S = 86400.0
WELL = "`caller_hangup` (caller)"


async def crowd(fault: Case, agent: Agent, calls: int = CALLS) -> list[Talk]:
    return [await fault.talk(agent, CROWD) for _ in range(calls)]


async def go_on(talks: list[Talk], frames: int = TURN_FRAMES) -> None:
    """Each caller and each agent hears so many more frames."""
    for talk in talks:
        assert talk.ear.close is None, talk.ear.close
    for ear, heard in [(ear, ear.sounds) for talk in talks for ear in (talk.ear, talk.agents_ear)]:
        await ear.until(heard + frames)


async def hang_up_all(fault: Case, gateway: Gateway, talks: list[Talk], heard: str) -> None:
    """Keeps the longest gap of all, and ends every call as the caller does."""
    for talk in talks:
        fault.hears(talk.ear, told=False)
    fault.heard = heard
    for talk in talks:
        await talk.hang_up()
        await assert_ended(gateway, talk.session, "caller_hangup", "caller")


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
        while len({owner_of(gateway, talk) for talk in talks}) < 2:
            talks += await crowd(own, support, 1)
        victim = owner_of(gateway, talks[0])
        doomed = [talk for talk in talks if owner_of(gateway, talk) == victim]
        lucky = [talk for talk in talks if talk not in doomed]
        pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
        own.strike()
        others.strike()
        os.kill(pids[victim], signal.SIGKILL)
        gateway.upgrades -= len(doomed)  # it does not live to tell their ends
        for talk in doomed:
            assert await talk.ear.closed() == ABNORMAL
            assert await talk.agents_ear.closed() == ABNORMAL  # nor is the agent left talking to nobody
            own.hears(talk.ear)
        for talk in doomed:
            record = await eventually(partial(over, gateway, talk), "its session is closed")
            assert (record["reason"], record["side"]) == ("gateway_lost", "gateway")
        own.ended, others.ended = "`gateway_lost` (gateway)", WELL
        await go_on(lucky)
        await hang_up_all(others, gateway, lucky, "sound")
        await eventually(lambda: len(gateway.workers()) == 2, "a worker is started again")


def owner_of(gateway: Gateway, talk: Talk) -> Any:
    return gateway.sessions(talk.session)[0]["owner"]


def over(gateway: Gateway, talk: Talk) -> dict[str, Any] | None:
    (record,) = gateway.sessions(talk.session)
    return record if record["ended_at"] is not None else None


async def warm_with(agent: Agent, gateway: Gateway, bases: Bases, port: AgentPort) -> int:
    """As `warmed`, for tests in which the agent is there already."""
    await agent.stop()
    before = await warmed(gateway, bases, port)
    await agent.start()
    return before


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
    old = start_gateway(agents=agents, limits=LIMITS)
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
        settings = {"agents": agents, "limits": LIMITS, "store": {"url": f"sqlite:///{old.store}"}}
        fault.strike()
        async with asyncio.TaskGroup() as callers:
            callers.create_task(keep_calling())
            new = await asyncio.to_thread(Gateway, tmp_path, settings, replace=old)
            gateways.append(new)
            await eventually(lambda: taken_over(new), "the new one has the port")
            await eventually(lambda: listeners(old.port) == 1, "the old one has left it")
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
        await assert_no_places_taken(new)
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


# Nothing left to work with


@contextmanager
def files(gateway: Gateway, left: int) -> Iterator[None]:
    """The gateway may open so many files more than it has, and no other."""
    pid = gateway.process.pid
    taken = {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()}
    free = [number for number in range(len(taken) + left + 1) if number not in taken]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[left], before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def test_out_of_files(case: Cases, gateway: Gateway, support: Agent) -> None:
    async with case("out of files: none left") as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        with files(gateway, 0):
            asking = asyncio.create_task(gateway.dial(CROWD))
            await go_on([talk])
            answered = asking.done()
        caller = await asking
        heard = f"is answered {caller.status}" if answered else "waits until there are some again"
        await fault.served(caller)
        await hang_up_all(fault, gateway, [talk], f"sound; a new caller {heard}")
        fault.ended = WELL
        if (answered, caller.status) != (True, 503):
            fault.asked = "a new call is to be refused with 503"


async def test_out_of_files_for_the_agent(case: Cases, gateway: Gateway, support: Agent) -> None:
    async with case("out of files: one left, none for the agent") as fault:
        talk = await fault.talk(support, CROWD)
        before = len(gateway.ends())
        fault.strike()
        with files(gateway, 1):
            caller = await gateway.dial(CROWD)
            code = caller.status
            if code == 101:
                for message in opening("twilio"):
                    caller.say(message)
                code = (await caller.closed())[0]
            await go_on([talk])
        (end,) = await eventually(newest(gateway, before), "the end of the new call is told")
        await hang_up_all(fault, gateway, [talk], f"sound; a new caller {code}")
        fault.ended = f"{WELL}; the new one `{end['reason']}` ({end['side']})"
        if code != 503:
            fault.asked = "a new call is to be refused with 503, for the gateway's fault and not the agent's"


async def test_out_of_disk(
    case: Cases, launcher: Any, bases: Bases, support: Agent, support_port: AgentPort
) -> None:
    """The store's disk is full: what runs goes on, what ends meanwhile is written when there is room."""
    gateway, disk = launcher.with_a_small_disk(agents=agents_at(support_port.url), limits=LIMITS)
    before = await warm_with(support, gateway, bases, support_port)
    async with case("out of disk: the store cannot write", of=gateway, before=before) as fault:
        talk = await fault.talk(support, CROWD)
        filler = disk / "filler"
        fill(filler)
        fault.strike()
        _, ear = await fault.caller()
        code, _ = await ear.closed()
        await go_on([talk])
        fault.hears(talk.ear, told=False)
        fault.heard = f"sound; a new caller {code}"
        await talk.hang_up()
        ends = await fault.all_over(2)
        fault.ended = f"{WELL}; the new one `{ends[0]['reason']}` ({ends[0]['side']})"
        assert ends[0]["reason"] == "store_failed"
        assert over(gateway, talk) is None, "its end cannot be written yet"
        filler.unlink()
        await eventually(lambda: over(gateway, talk), "its end is written")
        await assert_ended(gateway, talk.session, "caller_hangup", "caller")


def fill(file: Path) -> None:
    """Takes all the room that is left on its disk."""
    with file.open("wb", buffering=0) as filler:
        for size in (1 << 16, 1):
            try:
                while filler.write(bytes(size)):
                    pass
            except OSError:
                continue
