# SPDX-License-Identifier: BSD-2-Clause
"""Senders that speak before their `start`: the agent gets the opening first, then the rest, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.calls.opening_reader import read_opening
from gateway.model.reasons import CallEnded, Reasons
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    Call,
    assert_agent_heard,
    assert_caller_heard,
    assert_next_call_works,
    assert_refused,
    hang_up,
)
from tests.harness.frames import CONTINUATION, KEY, PING, PONG, TEXT, frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, opening, replies, talk

EARLY_EVENTS = ("media", "dtmf", "mark", "playedStream")
HELLO = '{"event":"hello","seq":1}'


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agents: list[dict[str, Any]] = [
        {"name": name, "organization": "acme", "instances": [support_port.url]} | settings
        for name, settings in {
            "support": {},
            "forgetful": {"hold": "none", "keep_early_audio": 0},
            "hidden": {"hide_call_id": True},
            "messages": {"media": "messages"},
        }.items()
    ]
    return start_gateway(agents=agents, limits={"max_opening_bytes": 65_536, "start_timeout": 60})


def early_of(carrier: str) -> list[str]:
    """One message of each kind that is early somewhere, and one that nobody knows."""
    found: dict[str, str] = {}
    for message in talk(carrier):
        found.setdefault(json.loads(message)["event"], message)
    return [*(message for event, message in found.items() if event in EARLY_EVENTS), HELLO]


@pytest.mark.parametrize("agent", ["support", "messages"])
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_what_came_before_start_reaches_the_agent_behind_it(
    gateway: Gateway, support: Agent, carrier: str, agent: str
) -> None:
    caller = await gateway.dial(f"/ws/{carrier}/{agent}.acme")
    early = [caller.say(message) for message in early_of(carrier)]
    assert len(early) >= 3
    first = [caller.say(message) for message in opening(carrier)]
    call = await support.call()
    await call.opening([*first, *early])
    await assert_agent_heard(call, [caller.say(message) for message in talk(carrier)[:2]])
    await assert_caller_heard(caller, [call.say(replies(carrier)[0])])
    await hang_up(Call(caller, call, first))


async def test_what_came_between_connected_and_start(gateway: Gateway, support: Agent) -> None:
    caller = await gateway.dial("/ws/twilio/support.acme")
    connected, start = opening("twilio")
    first = [caller.say(connected)]
    early = [caller.say(message) for message in (*early_of("twilio"), connected)]
    first.append(caller.say(start))
    call = await support.call()
    await call.opening([*first, *early])
    await hang_up(Call(caller, call, first))


async def test_early_messages_in_fragments_and_all_at_once(gateway: Gateway, support: Agent) -> None:
    """All in one segment, with a ping between two fragments, and the caller's words right behind."""
    caller = await gateway.dial("/ws/twilio/support.acme")
    sound, later = talk("twilio")[:2]
    half = len(sound) // 2
    early = [
        frame(TEXT, sound[:half].encode(), key=KEY, fin=False),
        frame(CONTINUATION, sound[half:].encode(), key=KEY),
        frame(TEXT, HELLO.encode(), key=KEY),
    ]
    first = [frame(TEXT, message.encode(), key=KEY) for message in opening("twilio")]
    behind = frame(TEXT, later.encode(), key=KEY)
    caller.send(b"".join([early[0], frame(PING, b"?", key=KEY), *early[1:], *first, behind]))
    assert (await caller.hear()).opcode == PONG
    call = await support.call()
    await call.opening([*first, *early, behind])
    await hang_up(Call(caller, call, first))


async def test_early_sound_is_dropped_as_all_sound_before_the_agent_is(
    gateway: Gateway, support: Agent
) -> None:
    caller = await gateway.dial("/ws/twilio/forgetful.acme")
    early = [caller.say(message) for message in early_of("twilio")]
    first = [caller.say(message) for message in opening("twilio")]
    call = await support.call()
    await call.opening([*first, *early[1:]])
    await hang_up(Call(caller, call, first))


async def test_the_calls_id_is_hidden_behind_early_messages(gateway: Gateway, support: Agent) -> None:
    caller = await gateway.dial("/ws/twilio/hidden.acme")
    sound = caller.say(early_of("twilio")[0])
    first = [caller.say(message) for message in opening("twilio")]
    call = await support.call()
    assert (await call.hear()).raw == first[0]
    assert json.loads((await call.hear()).payload)["start"]["callSid"] == call.session
    assert (await call.hear()).raw == sound
    await hang_up(Call(caller, call, first))


async def test_sound_without_a_start_ends_when_it_is_too_much(gateway: Gateway, support: Agent) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/plivo/support.acme")
    sound = next(message for message in talk("plivo") if json.loads(message)["event"] == "media")
    await caller.pour(frame(TEXT, sound.encode(), key=KEY) * (65_536 // len(sound) + 1))
    code, words = await caller.closed()
    assert (code, "opening is larger than 65536 bytes" in words) == (1009, True)
    await assert_refused(gateway, before, "too_large")
    assert support.upgrades == 0
    await assert_next_call_works(gateway, support)


class SilentAfter:
    """A leg whose carrier says so much, and then nothing."""

    def __init__(self, messages: list[str]) -> None:
        self._messages = messages

    async def receive(self) -> str:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)


async def test_sound_without_a_start_ends_when_it_is_too_late() -> None:
    leg: Any = SilentAfter(early_of("twilio"))
    with pytest.raises(CallEnded) as end:
        await read_opening(leg, DIALECTS["twilio"], 0.01)
    assert end.value.reason is Reasons.bad_opening
    count = len(early_of("twilio"))
    assert end.value.detail == f"no start message within 0.01 s, and {count} others came"
