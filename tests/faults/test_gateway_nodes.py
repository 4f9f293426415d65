# SPDX-License-Identifier: BSD-2-Clause
"""A carrier that is lost and dials again, where another machine's gateway picks up; and machines that die.

The machines are two gateways with internal addresses of their own, on one store.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

import pytest

from gateway.simulator.free_ports import free_port
from gateway.simulator.waiting import eventually
from tests.faults.case import Case
from tests.faults.conversation import REPLY, SOUND, Recorder, speak
from tests.faults.many_calls import over, warm_with
from tests.faults.stream_token import url_with_token
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.transcripts import IDS, opening

TURN_FRAMES = 10
"""Frames after which both are seen to hear each other."""


@dataclass
class Machines:
    """Two machines, the first with the call. `before`: the first one's memory."""

    east: Gateway
    west: Gateway
    before: int


@pytest.fixture
async def machines(
    start_gateway: Callable[..., Gateway], bases: dict[int, int], support: Agent, support_port: AgentPort
) -> AsyncIterator[Machines]:
    def start(host: str, **more: object) -> Gateway:
        server = {"node_url": f"http://{host}:{free_port()}"}
        return start_gateway(server=server, agents=agents_at(support_port.url), limits=LIMITS, **more)

    east = start("127.0.0.2")
    west = start("127.0.0.3", store={"url": f"sqlite:///{east.store}"})
    yield Machines(east, west, await warm_with(support, east, bases, support_port))
    for gateway in (east, west):
        await gateway.callers_leave()


async def opens_socket(at: Gateway, url: str, stream: str) -> tuple[Caller, Recorder]:
    """The carrier's next socket at a machine, its opening said."""
    caller = await at.dial(url)
    assert caller.status == 101, caller.body
    for message in opening("plivo"):
        caller.say(message.replace(IDS["plivo"][1], stream))
    return caller, Recorder(caller)


async def goes_on(
    fault: Case, agent_recorder: Recorder, before: Recorder, at: Gateway, url: str, stream: str
) -> tuple[Caller, Recorder]:
    """The next socket, once both hear each other on it; how long the caller heard nothing is noted."""
    caller, recorder = await opens_socket(at, url, stream)
    fault._lines.append(recorder)
    if at is not fault.gateway:  # the end of the call is logged by the machine that has it
        at.upgrades -= 1
        fault.gateway.upgrades += 1
    voice = asyncio.create_task(speak(caller, SOUND))
    await recorder.until(TURN_FRAMES)
    await agent_recorder.until(agent_recorder.audio_frames + TURN_FRAMES)
    voice.cancel()
    fault.gap_ms = max(fault.gap_ms or 0, (recorder.first - before.last_sound) * 1000)
    return caller, recorder


async def test_its_second_socket_comes_to_another_machine(
    case: Callable[..., Case], machines: Machines, support: Agent
) -> None:
    east, west = machines.east, machines.west
    name = "resets, and its second socket comes to another machine than the call's"
    async with case(name, of=east, before=machines.before) as fault:
        url = url_with_token(east)
        first = await fault.talk(support, url, caller_speaks=False)
        fault.strike()
        first.caller.reset()
        _, recorder = await goes_on(fault, first.agent_recorder, first.recorder, west, url, "stream-2")
        fault.heard = "sound, on the second socket; the agent too"
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")


async def test_the_machine_that_passes_a_socket_on_is_killed(
    case: Callable[..., Case], machines: Machines, support: Agent
) -> None:
    east, west = machines.east, machines.west
    name = "a machine is killed that passes on the socket of another's call"
    async with case(name, of=east, before=machines.before) as fault:
        url = url_with_token(east)
        first = await fault.talk(support, url, caller_speaks=False)
        first.caller.reset()
        _, second = await goes_on(fault, first.agent_recorder, first.recorder, west, url, "stream-2")
        fault.gap_ms = None
        fault.strike()
        west.process.kill()
        assert (await second.closed())[0] == 1006
        _, recorder = await goes_on(fault, first.agent_recorder, second, east, url, "stream-3")
        fault.heard = "sound, on the third socket; the agent too"
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")


async def test_the_machine_with_the_call_is_killed(
    case: Callable[..., Case],
    machines: Machines,
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
) -> None:
    east, west = machines.east, machines.west
    before = await warm_with(support, west, bases, support_port)
    fault = case("a machine is killed whose call has its socket at another", of=west, before=before)
    async with fault:
        url = url_with_token(east)
        caller, recorder = await opens_socket(east, url, "stream-1")
        fault._lines.append(recorder)
        fault.agent = support
        taken = await support.call()
        agent_recorder = Recorder(taken)
        fault._lines.append(agent_recorder)
        reply = asyncio.create_task(speak(taken, REPLY))
        await recorder.until(TURN_FRAMES)
        caller.reset()
        _, second = await opens_socket(west, url, "stream-2")
        west.upgrades -= 1
        fault._lines.append(second)
        await second.until(TURN_FRAMES)
        fault.strike()
        east.process.kill()
        assert (await second.closed())[0] == 1006
        reply.cancel()
        fault.note_received(second)
        record = await eventually(partial(over, west, taken.session), "its session is closed")
        assert (record["reason"], record["side"]) == ("gateway_lost", "gateway")
        fault.ended = "`gateway_lost` (gateway)"
    east.upgrades = len(east.ends()) + east.continued  # no line tells of its end


async def test_the_machine_with_the_call_stands_still(
    case: Callable[..., Case], machines: Machines, support: Agent
) -> None:
    """Where the second socket came, it is let go of; the third finds the machine awake."""
    east, west = machines.east, machines.west
    name = "a machine stands still (SIGSTOP) while its call's second socket comes to another"
    async with case(name, of=east, before=machines.before) as fault:
        url = url_with_token(east)
        first = await fault.talk(support, url, caller_speaks=False)
        fault.strike()
        os.kill(east.process.pid, signal.SIGSTOP)
        try:
            first.caller.reset()
            _, second = await opens_socket(west, url, "stream-2")
            fault._lines.append(second)
            west.upgrades -= 1
            assert (await second.closed())[0] == 1006
        finally:
            os.kill(east.process.pid, signal.SIGCONT)
        _, recorder = await goes_on(fault, first.agent_recorder, first.recorder, west, url, "stream-3")
        fault.heard = "sound, on the third socket; the agent too"
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")
    east.upgrades += east.continued - 1  # it may have gone on with the second for a moment
