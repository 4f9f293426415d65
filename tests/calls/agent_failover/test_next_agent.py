# SPDX-License-Identifier: BSD-2-Clause
"""An agent that is lost without a close is replaced, and its caller keeps the call (docs/resume.md)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall, accepts, hangs, resets, upgrade_response, waits_for
from tests.harness.agent_failover import (
    RESUMED,
    assert_resumed,
    first_call,
    hang_up_resumed,
    lose_agent,
    next_agent_takes_over,
    next_call_of_any,
)
from tests.harness.call_assertions import assert_agent_heard, assert_caller_heard, assert_ended
from tests.harness.frames import CONTINUATION, PONG, TEXT
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, replies, talk

MEDIA = talk("twilio")[0]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("how", ["is reset", "its process ends"])
async def test_another_instance_takes_over(
    gateway: Gateway, agents: list[Agent], carrier: str, how: str
) -> None:
    call, own, other = await first_call(gateway, agents, carrier)
    assert RESUMED not in call.agent.headers
    spoken = talk(carrier)
    for message in spoken:
        await assert_agent_heard(call.agent, [call.caller.say(message)])
    answers = replies(carrier)
    await assert_caller_heard(call.caller, [call.agent.say(answers[0])])
    if how == "is reset":
        call.agent.reset()
    else:
        await lose_agent(call.agent, own)

    second = await next_agent_takes_over(other, call)
    await assert_caller_heard(call.caller, [second.say(text) for text in answers])
    await assert_agent_heard(second, [call.caller.say(message) for message in spoken])
    await assert_resumed(gateway, call.session, 1)
    record = await hang_up_resumed(gateway, call, second)
    assert record["instance"] == other.port.url
    assert record["frames_in"] == len(call.opening) + 2 * len(spoken)
    assert record["frames_out"] == 1 + len(answers)


async def test_what_the_caller_says_meanwhile_reaches_the_next_agent(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, _, other = await first_call(gateway, agents)
    may_accept = asyncio.Event()
    other.answer = waits_for(may_accept)
    call.agent.reset()
    offered = await other.next_other_call()
    spoken = [call.caller.say(message) for message in talk("twilio") * 5]
    ping = call.caller.frame(0x9, b"there?")
    call.caller.send(ping)
    received = await call.caller.next()
    assert received is not None
    assert (received.opcode, received.payload) == (PONG, b"there?"), "who waits is answered meanwhile"
    may_accept.set()
    assert (await other.call()) is offered
    await offered.opening(call.opening)
    await assert_agent_heard(offered, spoken)
    await hang_up_resumed(gateway, call, offered)


async def test_steady_audio_reaches_the_next_agent_whole_and_in_order(
    gateway: Gateway, agents: list[Agent]
) -> None:
    """From the first frame on that the second agent hears, every one comes; before it a few may be lost."""
    call, _, other = await first_call(gateway, agents)
    sent: list[bytes] = []

    def says_on() -> bool:
        """One more frame; whether another agent has the call by now."""
        sent.append(call.caller.say(MEDIA[:-1] + f', "number": {len(sent)}}}'))
        return not other.calls.empty()

    for _ in range(100):
        says_on()
    call.agent.reset()
    await eventually(says_on, "another agent has the call")
    second = await next_agent_takes_over(other, call)
    for _ in range(100):
        says_on()
    received = [await second.hear()]
    while received[-1].raw != sent[-1]:
        received.append(await second.hear())
    assert [one.raw for one in received] == sent[-len(received) :]
    await hang_up_resumed(gateway, call, second)


async def test_a_frame_of_which_the_lost_agent_got_a_part(gateway: Gateway, agents: list[Agent]) -> None:
    """Half of it went to the first: the second does not get the other half, but all that follows."""
    call, own, other = await first_call(gateway, agents)
    long = call.caller.frame(TEXT, MEDIA.encode().ljust(5000))
    call.caller.send(long[:3000])
    await call.agent.hear_bytes(sum(map(len, call.opening)) + 3000)
    await lose_agent(call.agent, own)
    following = call.caller.frame(TEXT, MEDIA.encode())
    call.caller.send(long[3000:] + following)
    second = await next_agent_takes_over(other, call)
    await assert_agent_heard(second, [following])
    await hang_up_resumed(gateway, call, second)


async def test_a_message_of_which_the_lost_agent_got_a_part(gateway: Gateway, agents: list[Agent]) -> None:
    call, own, other = await first_call(gateway, agents)
    half = call.caller.frame(TEXT, MEDIA[:50].encode(), fin=False)
    call.caller.send(half)
    await assert_agent_heard(call.agent, [half])
    await lose_agent(call.agent, own)
    following = call.caller.frame(TEXT, MEDIA.encode())
    call.caller.send(call.caller.frame(CONTINUATION, MEDIA[50:].encode()) + following)
    second = await next_agent_takes_over(other, call)
    await assert_agent_heard(second, [following])
    await hang_up_resumed(gateway, call, second)


@pytest.mark.parametrize("fragmented", [False, True])
async def test_an_agent_that_dies_in_the_middle_of_a_frame(
    gateway: Gateway, agents: list[Agent], fragmented: bool
) -> None:
    """What it began is completed, so that the caller's side is one that can go on."""
    call, _, other = await first_call(gateway, agents)
    greeting = call.agent.say(replies("twilio")[0])
    await assert_caller_heard(call.caller, [greeting])
    cut = call.agent.frame(TEXT, b'{"event": "media"'.ljust(1000), fin=not fragmented)
    call.agent.send(cut[:500])
    await call.caller.hear_bytes(len(greeting) + 500)
    call.agent.half_close()
    second = await next_agent_takes_over(other, call)
    whole = second.say(replies("twilio")[0])
    await assert_caller_heard(call.caller, [cut[:500].ljust(len(cut))])
    if fragmented:
        rest = await call.caller.hear()
        assert (rest.opcode, rest.payload) == (CONTINUATION, b"")
    await assert_caller_heard(call.caller, [whole])
    await hang_up_resumed(gateway, call, second)


async def test_the_only_instance_takes_its_own_call_over(gateway: Gateway, agents: list[Agent]) -> None:
    """As when a process is started anew by whoever watches it."""
    call, own, _ = await first_call(gateway, agents[:1] + agents[1:], agent="alone")
    own.answer = resets
    call.agent.reset()
    await own.next_other_call()
    own.answer = accepts
    second = await next_agent_takes_over(own, call)
    await hang_up_resumed(gateway, call, second)


async def test_an_agent_that_is_relayed_by_messages(gateway: Gateway, agents: list[Agent]) -> None:
    call, _, other = await first_call(gateway, agents, agent="messages")
    call.agent.reset()
    second = await next_agent_takes_over(other, call)
    await assert_agent_heard(second, [call.caller.say(message) for message in talk("twilio")])
    await assert_caller_heard(call.caller, [second.say(replies("twilio")[0])])
    call.caller.say("no JSON")
    await assert_agent_heard(second, [call.caller.say(MEDIA)])
    await hang_up_resumed(gateway, call, second)


async def test_the_next_agent_gets_the_same_opening(gateway: Gateway, agents: list[Agent]) -> None:
    """Also where that is not what the carrier said."""
    call, _, other = await first_call(gateway, agents, agent="hidden")
    first = [await call.agent.hear() for _ in call.opening]
    assert call.session.encode() in first[1].payload
    call.agent.reset()
    second = await other.call()
    assert [(await second.hear()).raw for _ in call.opening] == [frame.raw for frame in first]
    await hang_up_resumed(gateway, call, second)


async def test_an_agent_is_replaced_as_often_as_max_resumes_allows(
    gateway: Gateway, agents: list[Agent]
) -> None:
    call, own, other = await first_call(gateway, agents)
    call.agent.reset()
    second = await next_agent_takes_over(other, call)
    second.reset()
    third = await next_agent_takes_over(own, call, times=2)
    await assert_agent_heard(third, [call.caller.say(MEDIA)])
    third.reset()
    code, words = await call.caller.closed()
    assert (code, words.startswith("3 agents were lost on 2 instances, after ")) == (1011, True)
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert (record["resumed"], record["state"]) == (2, "failed")
    await assert_resumed(gateway, call.session, 2)


@pytest.mark.parametrize(("agent", "times"), [("never", 0), ("single", 1)])
async def test_an_agent_with_a_lower_max_resumes(
    gateway: Gateway, agents: list[Agent], agent: str, times: int
) -> None:
    call, _, other = await first_call(gateway, agents, agent=agent)
    call.agent.reset()
    if times:
        (await next_agent_takes_over(other, call)).reset()
    assert (await call.caller.closed())[0] == 1011
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert record["resumed"] == times


@pytest.mark.parametrize("answer", [hangs, resets], ids=["hangs", "resets"])
async def test_no_agent_takes_over_in_time(gateway: Gateway, agents: list[Agent], answer: Any) -> None:
    call, *both = await first_call(gateway, agents, agent="hasty")
    for each in both:
        each.answer = answer
    call.agent.reset()
    code, detail = await call.caller.closed()
    words = "the agent was lost, and no other took over within 2 s"
    assert (code, detail) == (1011, words), "the caller does not learn where its agents are"
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert record["detail"].startswith(f"{words}: ")
    assert record["resumed"] == 0


async def test_after_an_instance_that_refuses_another_is_tried(gateway: Gateway, agents: list[Agent]) -> None:
    call, own, other = await first_call(gateway, agents)
    other.answer = resets
    call.agent.reset()
    second = await next_agent_takes_over(own, call)
    await hang_up_resumed(gateway, call, second)


async def test_the_next_agent_accepts_and_is_lost_at_once(gateway: Gateway, agents: list[Agent]) -> None:
    async def accepts_and_resets(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call))
        call.reset()
        agent.answer = accepts

    call, _, other = await first_call(gateway, agents)
    other.answer = accepts_and_resets
    call.agent.reset()
    _, second = await next_call_of_any(agents)
    await second.opening(call.opening)
    await hang_up_resumed(gateway, call, second, times=int(second.headers[RESUMED]))
