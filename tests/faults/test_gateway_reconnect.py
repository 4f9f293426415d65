# SPDX-License-Identifier: BSD-2-Clause
"""A carrier that is lost and dials again, where another worker than the call's picks up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.faults.case import Case
from tests.faults.conversation import SOUND, Recorder, speak
from tests.faults.many_calls import warm_with
from tests.faults.stream_token import url_with_token
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.caller import Caller
from tests.harness.gateway import Gateway
from tests.harness.transcripts import IDS, opening

TURN_FRAMES = 10
"""Frames after which both are seen to hear each other."""

MOST_TRIES = 30
"""Sockets until one of two workers has had one: a coin that falls so is none."""


async def test_its_second_socket_comes_to_another_worker(
    case: Callable[..., Case],
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
) -> None:
    """The socket goes to the worker that carries the call, and the session goes on with the same agent."""
    gateway = start_gateway(server={"workers": 2}, agents=agents_at(support_port.url), limits=LIMITS)
    before = await warm_with(support, gateway, bases, support_port)
    name = "resets, and its second socket comes to another worker than the call's"
    async with case(name, of=gateway, before=before) as fault:
        url = url_with_token(gateway)
        first = await fault.talk(support, url, caller_speaks=False)
        caller, recorder = first.caller, first.recorder
        for number in range(MOST_TRIES):
            fault.strike()
            caller.reset()
            caller, recorder, gap_ms = await dials_again(
                fault, first.agent_recorder, recorder, url, f"stream-{number}"
            )
            fault.gap_ms = max(fault.gap_ms or 0, gap_ms)
            if handed_over(gateway):
                break
        assert handed_over(gateway), "the other worker picks up in the end"
        fault.heard = "sound, on the second socket; the agent too"
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")


async def dials_again(
    fault: Case, agent_recorder: Recorder, before: Recorder, url: str, stream: str
) -> tuple[Caller, Recorder, float]:
    """The next socket, once both hear each other on it, and for how many ms the caller heard nothing."""
    messages = [message.replace(IDS["plivo"][1], stream) for message in opening("plivo")]
    caller, recorder = await fault.caller(url, messages)
    voice = asyncio.create_task(speak(caller, SOUND))
    await recorder.until(TURN_FRAMES)
    await agent_recorder.until(agent_recorder.audio_frames + TURN_FRAMES)
    voice.cancel()
    return caller, recorder, (recorder.first - before.last_sound) * 1000


def handed_over(gateway: Gateway) -> bool:
    return any(line["event"] == "socket handed over" for line in gateway.log_lines())
