# SPDX-License-Identifier: BSD-2-Clause
"""The audio that a caller hears while its agent is replaced, and when no agent is found (docs/resume.md)."""

from __future__ import annotations

import asyncio
import base64
import json

from tests.harness.agent import Agent, waits_for
from tests.harness.agent_failover import first_call, hang_up_resumed
from tests.harness.call_assertions import assert_caller_heard, assert_ended
from tests.harness.caller import Caller
from tests.harness.frames import CLOSE
from tests.harness.gateway import Gateway
from tests.harness.transcripts import replies

RATE_HZ = 8000


class Ear:
    """What a Twilio caller is sent: kinds of messages, in order, without repetitions."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.heard: list[str] = []

    async def until(self, raw: bytes) -> None:
        """Listens until these bytes come."""
        while (frame := await self._caller.hear()).raw != raw:
            kind = json.loads(frame.payload)["event"]
            if self.heard[-1:] != [kind]:
                self.heard.append(kind)

    async def until_sound(self) -> None:
        while json.loads((await self._caller.hear()).payload)["event"] != "media":
            pass


async def test_the_caller_hears_something_until_the_second_agent_speaks(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, _, other = await first_call(gateway, agents, agent="ringing")
    await assert_caller_heard(call.caller, [call.agent.say(replies("twilio")[0])])
    may_accept = asyncio.Event()
    other.answer = waits_for(may_accept)
    call.agent.reset()
    offered = await other.next_other_call()
    ear = Ear(call.caller)
    await ear.until_sound()
    may_accept.set()
    second = await other.call()
    assert second is offered
    await second.opening(call.opening)
    await ear.until(second.say(replies("twilio")[0]))
    assert ear.heard[-1] == "clear", "what was not played of it is thrown away"
    await hang_up_resumed(gateway, call, second)


async def test_a_caller_without_another_agent_hears_the_fallback(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, *_ = await first_call(gateway, agents, agent="sorry")
    call.agent.reset()
    received = []
    while (frame := await call.caller.next()) is not None and frame.opcode != CLOSE:
        received.append(json.loads(frame.payload))
    assert {one["event"] for one in received} == {"media"}
    sound = b"".join(base64.b64decode(one["media"]["payload"]) for one in received)
    assert len(sound) == 3 * RATE_HZ // 10, "all of the recording, once"
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert record["detail"].endswith("; its caller was told")


async def test_a_caller_hangs_up_during_the_fallback(gateway: Gateway, agents: list[Agent]) -> None:
    call, *_ = await first_call(gateway, agents, agent="verbose")
    call.agent.reset()
    await Ear(call.caller).until_sound()
    await call.caller.hang_up()
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert "; its caller was being told: " in record["detail"]
