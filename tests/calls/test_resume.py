# SPDX-License-Identifier: BSD-2-Clause
"""An agent that is lost without a close is replaced; its caller keeps the call (docs/resume.md)."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.media.accelerator import ACTIVE
from tests.harness.agent import Agent, AgentCall, AgentPort, accepts, hangs, resets, upgraded, waits_for
from tests.harness.caller import Caller
from tests.harness.frames import CLOSE, CONTINUATION, PONG, TEXT, close_frame
from tests.harness.gateway import Gateway, eventually
from tests.harness.openings import CARRIERS, opening, replies, talk
from tests.harness.peer import WAIT_S
from tests.harness.telephony import (
    Call,
    assert_agent_heard,
    assert_caller_heard,
    assert_ended,
    hang_up,
)

MEDIA = talk("twilio")[0]
KEY = "sk_acme"
RATE_HZ = 8000
RESUMED = "x-patchbay-resumed"


def recording(path: Path, seconds: float) -> str:
    """A WAV file with a tone that nobody would call silence; its name."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(b"\x00\x20\x00\xe0" * round(seconds * RATE_HZ / 2))
    return str(path)


@pytest.fixture(scope="module", params=["on", "off"] if ACTIVE else ["off"])
def accelerator(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port(), agent_port()]


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway],
    ports: list[AgentPort],
    accelerator: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    """support.acme has two instances and one place: a place that is not moved but taken twice is noticed."""
    directory = tmp_path_factory.mktemp("recordings")
    support = {
        "name": "support",
        "organization": "acme",
        "instances": [port.url for port in ports],
        "max_agents": 1,
        "hold": "none",
    }
    others = {
        "hasty": {"resume_timeout": 2},
        "single": {"max_resumes": 1},
        "never": {"max_resumes": 0},
        "messages": {"media": "messages"},
        "hidden": {"hide_call_id": True},
        "brief": {"max_session_duration": 5},
        "alone": {"instances": [ports[0].url]},
        "ringing": {"hold": "ringback"},
        "sorry": {"max_resumes": 0, "fallback": recording(directory / "sorry.wav", 0.3)},
        "verbose": {"max_resumes": 0, "fallback": recording(directory / "verbose.wav", 60)},
    }
    agents = [support, *(support | {"name": name} | more for name, more in others.items())]
    return start_gateway(
        organizations=[{"name": "acme", "private_keys": [KEY]}],
        accelerator=accelerator,
        agents=agents,
        limits={"close_timeout": 0.3, "instance_failures": 0},
    )


@pytest.fixture
async def agents(agent_at: Callable[..., Any], ports: list[AgentPort], gateway: Gateway) -> list[Agent]:
    """Both instances, at work, as the gateway sees them."""
    both = [await agent_at(port) for port in ports]
    await eventually(lambda: all(readiness(gateway, port) == "ready" for port in ports), "both are ready")
    return both


def readiness(gateway: Gateway, port: AgentPort) -> str:
    told = [line for line in gateway.log_lines() if line["event"] == "instance"]
    seen = [line["readiness"] for line in told if line["instance"] == port.url]
    return seen[-1] if seen else ""


async def first_call(
    gateway: Gateway, agents: list[Agent], carrier: str = "twilio", agent: str = "support"
) -> tuple[Call, Agent, Agent]:
    """A call, the instance that has it, and the other one."""
    for each in agents:
        each.answer = accepts
    taking = asyncio.create_task(_taken(agents))
    caller = await gateway.dial(f"/ws/{carrier}/{agent}.acme")
    assert caller.status == 101, caller.body
    sent = [caller.say(message) for message in opening(carrier)]
    mine, taken = await taking
    if agent != "hidden":
        await taken.opening(sent)
    other = next(each for each in agents if each is not mine)
    return Call(caller, taken, sent), mine, other


async def _taken(agents: list[Agent]) -> tuple[Agent, AgentCall]:
    found: list[tuple[Agent, AgentCall]] = []

    def any_has() -> bool:
        found.extend((each, each.calls.get_nowait()) for each in agents if not each.calls.empty())
        return bool(found)

    await eventually(any_has, "an instance has the call")
    return found[0]


def resumes(gateway: Gateway, session: str) -> list[dict[str, Any]]:
    lines = gateway.log_lines()
    return [line for line in lines if line["event"] == "call resumed" and line["session"] == session]


async def assert_resumed(gateway: Gateway, session: str, times: int) -> None:
    lines = await eventually(lambda: resumes(gateway, session)[times - 1 :], "it is logged")
    assert [line["times"] for line in resumes(gateway, session)] == list(range(1, times + 1))
    assert lines[0]["words"]


async def taken_over(agent: Agent, call: Call, times: int = 1) -> AgentCall:
    """The next agent has the call: the same session, the same opening."""
    second = await agent.call()
    assert (second.session, second.headers[RESUMED]) == (call.session, str(times))
    assert second.path == call.agent.path
    await second.opening(call.opening)
    return second


async def noticed(agent: AgentCall) -> None:
    """The agent is lost, and the gateway knows it: it has closed the socket too."""
    agent.half_close()
    await agent.ended()


async def end(gateway: Gateway, call: Call, agent: AgentCall, times: int = 1) -> dict[str, Any]:
    """The caller hangs up; gives the record."""
    await hang_up(Call(call.caller, agent, call.opening))
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert (record["resumed"], record["state"]) == (times, "ended")
    return record


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("how", ["reset", "half_close"])
async def test_another_instance_takes_over(
    gateway: Gateway, agents: list[Agent], carrier: str, how: str
) -> None:
    call, _, other = await first_call(gateway, agents, carrier)
    assert RESUMED not in call.agent.headers
    said = talk(carrier)
    for message in said:
        await assert_agent_heard(call.agent, [call.caller.say(message)])
    answers = replies(carrier)
    await assert_caller_heard(call.caller, [call.agent.say(answers[0])])
    getattr(call.agent, how)()

    second = await taken_over(other, call)
    await assert_caller_heard(call.caller, [second.say(text) for text in answers])
    await assert_agent_heard(second, [call.caller.say(message) for message in said])
    await assert_resumed(gateway, call.session, 1)
    record = await end(gateway, call, second)
    assert record["instance"] == other.port.url
    assert record["frames_in"] == len(call.opening) + 2 * len(said)
    assert record["frames_out"] == 1 + len(answers)


async def test_nothing_that_is_said_meanwhile_is_lost(gateway: Gateway, agents: list[Agent]) -> None:
    call, _, other = await first_call(gateway, agents)
    may_accept = asyncio.Event()
    other.answer = waits_for(may_accept)
    call.agent.reset()
    asked = await other.asks()
    said = [call.caller.say(message) for message in talk("twilio") * 5]
    ping = call.caller.frame(0x9, b"there?")
    call.caller.send(ping)
    heard = await call.caller.next()
    assert heard is not None
    assert (heard.opcode, heard.payload) == (PONG, b"there?"), "who waits is answered meanwhile"
    may_accept.set()
    assert (await other.call()) is asked
    await asked.opening(call.opening)
    await assert_agent_heard(asked, said)
    await end(gateway, call, asked)


async def test_what_is_said_all_the_while_comes_whole_and_in_order(
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
    second = await taken_over(other, call)
    for _ in range(100):
        says_on()
    heard = [await second.hear()]
    while heard[-1].raw != sent[-1]:
        heard.append(await second.hear())
    assert [one.raw for one in heard] == sent[-len(heard) :]
    await end(gateway, call, second)


async def test_a_frame_that_was_cut_between_the_agents(gateway: Gateway, agents: list[Agent]) -> None:
    """Half of it went to the first: the second does not get the other half, but all that follows."""
    call, _, other = await first_call(gateway, agents)
    long = call.caller.frame(TEXT, MEDIA.encode().ljust(5000))
    call.caller.send(long[:3000])
    await call.agent.hear_bytes(sum(map(len, call.opening)) + 3000)
    await noticed(call.agent)
    following = call.caller.frame(TEXT, MEDIA.encode())
    call.caller.send(long[3000:] + following)
    second = await taken_over(other, call)
    await assert_agent_heard(second, [following])
    await end(gateway, call, second)


async def test_a_message_that_was_cut_between_the_agents(gateway: Gateway, agents: list[Agent]) -> None:
    call, _, other = await first_call(gateway, agents)
    half = call.caller.frame(TEXT, MEDIA[:50].encode(), fin=False)
    call.caller.send(half)
    await assert_agent_heard(call.agent, [half])
    await noticed(call.agent)
    following = call.caller.frame(TEXT, MEDIA.encode())
    call.caller.send(call.caller.frame(CONTINUATION, MEDIA[50:].encode()) + following)
    second = await taken_over(other, call)
    await assert_agent_heard(second, [following])
    await end(gateway, call, second)


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
    second = await taken_over(other, call)
    whole = second.say(replies("twilio")[0])
    await assert_caller_heard(call.caller, [cut[:500].ljust(len(cut))])
    if fragmented:
        rest = await call.caller.hear()
        assert (rest.opcode, rest.payload) == (CONTINUATION, b"")
    await assert_caller_heard(call.caller, [whole])
    await end(gateway, call, second)


async def test_the_only_instance_takes_its_own_call_over(gateway: Gateway, agents: list[Agent]) -> None:
    """As when a process is started anew by whoever watches it."""
    call, mine, _ = await first_call(gateway, agents[:1] + agents[1:], agent="alone")
    mine.answer = resets
    call.agent.reset()
    await mine.asks()
    mine.answer = accepts
    second = await taken_over(mine, call)
    await end(gateway, call, second)


async def test_through_messages(gateway: Gateway, agents: list[Agent]) -> None:
    call, _, other = await first_call(gateway, agents, agent="messages")
    call.agent.reset()
    second = await taken_over(other, call)
    await assert_agent_heard(second, [call.caller.say(message) for message in talk("twilio")])
    await assert_caller_heard(call.caller, [second.say(replies("twilio")[0])])
    call.caller.say("no JSON")
    await assert_agent_heard(second, [call.caller.say(MEDIA)])
    await end(gateway, call, second)


async def test_the_second_agent_is_told_the_same_as_the_first(gateway: Gateway, agents: list[Agent]) -> None:
    """Also where that is not what the carrier said."""
    call, _, other = await first_call(gateway, agents, agent="hidden")
    first = [await call.agent.hear() for _ in call.opening]
    assert call.session.encode() in first[1].payload
    call.agent.reset()
    second = await other.call()
    assert [(await second.hear()).raw for _ in call.opening] == [frame.raw for frame in first]
    await end(gateway, call, second)


async def test_as_often_as_it_may_be(gateway: Gateway, agents: list[Agent]) -> None:
    call, mine, other = await first_call(gateway, agents)
    call.agent.reset()
    second = await taken_over(other, call)
    second.reset()
    third = await taken_over(mine, call, times=2)
    await assert_agent_heard(third, [call.caller.say(MEDIA)])
    third.reset()
    assert await call.caller.closed() == (1011, "3 agents were lost")
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert (record["resumed"], record["state"]) == (2, "failed")
    await assert_resumed(gateway, call.session, 2)


@pytest.mark.parametrize(("agent", "times"), [("never", 0), ("single", 1)])
async def test_an_agent_that_may_be_replaced_less_often(
    gateway: Gateway, agents: list[Agent], agent: str, times: int
) -> None:
    call, _, other = await first_call(gateway, agents, agent=agent)
    call.agent.reset()
    if times:
        (await taken_over(other, call)).reset()
    assert (await call.caller.closed())[0] == 1011
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert record["resumed"] == times


@pytest.mark.parametrize("answer", [hangs, resets], ids=["hangs", "resets"])
async def test_nobody_takes_over_in_time(gateway: Gateway, agents: list[Agent], answer: Any) -> None:
    call, *both = await first_call(gateway, agents, agent="hasty")
    for each in both:
        each.answer = answer
    call.agent.reset()
    code, words = await call.caller.closed()
    assert (code, words.startswith("the agent was lost, and no other took over within 2 s: ")) == (
        1011,
        True,
    )
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert record["resumed"] == 0


async def test_one_that_refuses_is_not_the_last_that_is_asked(gateway: Gateway, agents: list[Agent]) -> None:
    call, mine, other = await first_call(gateway, agents)
    other.answer = resets
    call.agent.reset()
    second = await taken_over(mine, call)
    await end(gateway, call, second)


async def test_one_that_accepts_and_is_lost_at_once(gateway: Gateway, agents: list[Agent]) -> None:
    async def accepts_and_resets(agent: Agent, call: AgentCall) -> None:
        call.send(upgraded(call))
        call.reset()
        agent.answer = accepts

    call, _, other = await first_call(gateway, agents)
    other.answer = accepts_and_resets
    call.agent.reset()
    _, second = await _taken(agents)
    await second.opening(call.opening)
    await end(gateway, call, second, times=int(second.headers[RESUMED]))


# Ends that stay ends


@pytest.mark.parametrize(
    ("code", "why"),
    [(1000, "agent_ended"), (1001, "agent_ended"), (1011, "agent_failed"), (4000, "agent_failed")],
)
async def test_a_close_is_an_end(gateway: Gateway, agents: list[Agent], code: int, why: str) -> None:
    call, *_ = await first_call(gateway, agents)
    call.agent.send(call.agent.close_frame(code))
    call.agent.half_close()
    assert await call.caller.closed() == (code, "")
    record = await assert_ended(gateway, call.session, why, "agent")
    assert record["resumed"] == 0


async def test_one_that_takes_over_and_closes(gateway: Gateway, agents: list[Agent]) -> None:
    async def accepts_and_closes(agent: Agent, call: AgentCall) -> None:
        call.send(upgraded(call) + close_frame(1000, "no bot today"))

    call, _, other = await first_call(gateway, agents)
    other.answer = accepts_and_closes
    call.agent.reset()
    assert await call.caller.closed() == (1000, "no bot today")
    await assert_ended(gateway, call.session, "agent_ended", "agent")


async def test_a_client_without_a_dialect_has_nothing_to_replay(
    gateway: Gateway, agents: list[Agent]
) -> None:
    taking = asyncio.create_task(_taken(agents))
    caller = await gateway.dial("/ws/generic/support.acme")
    _, taken = await taking
    taken.reset()
    assert (await caller.closed())[0] == 1011
    await assert_ended(gateway, taken.session, "agent_lost", "agent")


async def caller_waits(gateway: Gateway, agents: list[Agent]) -> tuple[Call, AgentCall, Caller]:
    """A caller whose agent is lost, while the next one hangs."""
    call, mine, other = await first_call(gateway, agents)
    mine.answer = other.answer = hangs
    call.agent.reset()
    return call, await other.asks(), call.caller


@pytest.mark.parametrize(
    ("how", "why", "side"),
    [
        ("hang_up", "caller_hangup", "caller"),
        ("reset", "carrier_lost", "carrier"),
        ("half_close", "carrier_lost", "carrier"),
    ],
)
async def test_the_caller_leaves_while_another_agent_is_looked_for(
    gateway: Gateway, agents: list[Agent], how: str, why: str, side: str
) -> None:
    call, asked, caller = await caller_waits(gateway, agents)
    if how == "hang_up":
        assert (await caller.hang_up())[0] == 1000
    else:
        getattr(caller, how)()
    assert await asked.ended() == b""
    record = await assert_ended(gateway, call.session, why, side)
    assert record["resumed"] == 0


def delete(gateway: Gateway, session: str) -> int:
    """Has a session stopped, through the API; the answer's status."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    try:
        path = f"/v1/agents/support/sessions/{session}"
        connection.request("DELETE", path, headers={"Authorization": f"Bearer {KEY}"})
        return connection.getresponse().status
    finally:
        connection.close()


async def test_it_is_stopped_while_another_agent_is_looked_for(gateway: Gateway, agents: list[Agent]) -> None:
    call, asked, caller = await caller_waits(gateway, agents)
    assert await asyncio.to_thread(delete, gateway, call.session) == 200
    assert (await caller.closed())[0] == 1000
    assert await asked.ended() == b""
    await assert_ended(gateway, call.session, "stopped", "gateway")


async def test_the_caller_breaks_the_protocol_meanwhile(gateway: Gateway, agents: list[Agent]) -> None:
    call, asked, caller = await caller_waits(gateway, agents)
    caller.send(caller.frame(0x3, b"?"))
    assert (await caller.closed())[0] == 1002
    assert await asked.ended() == b""
    await assert_ended(gateway, call.session, "carrier_protocol_error", "carrier")


async def test_both_leave_at_the_same_time(gateway: Gateway, agents: list[Agent]) -> None:
    for _ in range(10):
        call, mine, other = await first_call(gateway, agents)
        call.agent.reset()
        call.caller.reset()
        ended = await eventually(
            lambda session=call.session: [one for one in gateway.sessions(session) if one["reason"]],
            "it ends",
        )
        assert ended[0]["reason"] in ("carrier_lost", "agent_lost")
        for each in (mine, other):
            while not each.calls.empty():
                each.calls.get_nowait()


async def test_the_longest_duration_goes_on(gateway: Gateway, agents: list[Agent]) -> None:
    """A call does not get more time with each agent (how much: tests/media/test_relay_again.py)."""
    call, _, other = await first_call(gateway, agents, agent="brief")
    call.agent.reset()
    second = await taken_over(other, call)
    assert await call.caller.closed() == (1000, "5 s")
    assert await second.closed() == (1000, "5 s")
    await assert_ended(gateway, call.session, "max_duration", "gateway")


async def test_a_gateway_that_drains_goes_on_with_its_calls(
    start_gateway: Callable[..., Gateway], ports: list[AgentPort], agents: list[Agent]
) -> None:
    support = {"name": "support", "organization": "acme", "instances": [port.url for port in ports]}
    draining = start_gateway(agents=[support], server={"drain_timeout": 60})
    call, _, other = await first_call(draining, agents)
    draining.terminate()
    await eventually(lambda: draining.get("/readyz")[0] == 503, "it takes no more calls")
    call.agent.reset()
    second = await taken_over(other, call)
    await assert_agent_heard(second, [call.caller.say(MEDIA)])
    await hang_up(Call(call.caller, second, call.opening))
    assert await draining.ended() == 0
    (record,) = draining.sessions(call.session)
    assert (record["reason"], record["resumed"]) == ("caller_hangup", 1)


async def test_instances_that_lose_their_callers_are_set_aside(
    start_gateway: Callable[..., Gateway], ports: list[AgentPort], agents: list[Agent]
) -> None:
    """One that says it is ready and loses whom it gets: after three, callers go elsewhere."""
    support = {"name": "support", "organization": "acme", "instances": [port.url for port in ports]}
    bad, good = agents
    careful = start_gateway(agents=[support | {"sessions_per_instance": 9, "max_resumes": 9}])
    for each in ports:
        await eventually(lambda port=each: readiness(careful, port) == "ready", "it is seen")  # type: ignore[misc]
    losses = 0
    while losses < 3:
        call, mine, _ = await first_call(careful, agents)
        agent = call.agent
        if mine is bad:
            agent.reset()
            losses += 1
            mine, agent = await _taken(agents)
            await agent.opening(call.opening)
        if mine is bad:
            agent.reset()
            losses += 1
            mine, agent = await _taken(agents)
            await agent.opening(call.opening)
        await hang_up(Call(call.caller, agent, call.opening))

    def aside() -> list[str]:
        lines = [line for line in careful.log_lines() if line["event"] == "instance set aside"]
        return [line["instance"] for line in lines]

    assert await eventually(aside, "it is set aside") == [bad.port.url]
    # It would be the first of the two that are free, and then the less loaded. It is left alone for 5 s.
    later = [await first_call(careful, agents) for _ in range(2)]
    assert [mine for _, mine, _ in later] == [good, good]
    for call, *_ in later:
        await hang_up(call)
    await eventually(
        lambda: [line for line in careful.log_lines() if line["event"] == "instance may be tried again"],
        "it was left alone for long enough, and asked",
    )


async def test_an_agent_that_is_silent_for_too_long(
    start_gateway: Callable[..., Gateway], ports: list[AgentPort], agents: list[Agent], accelerator: str
) -> None:
    """One that answers pings may be silent; one that does not is frozen, and told that it is over."""
    support = {"name": "support", "organization": "acme", "instances": [port.url for port in ports]}
    watchful = start_gateway(accelerator=accelerator, agents=[support], limits={"agent_silence": 2.4})
    call, _, other = await first_call(watchful, agents)
    for _ in range(4):
        await call.agent.answer_ping()
    said = call.caller.say(MEDIA)
    second = await taken_over(other, call)
    assert await call.agent.closed() == (1011, "neither a word nor a pong for 2.4 s")
    for _ in range(4):
        await second.answer_ping()
    assert said not in second.heard, "it was the first agent's to hear"
    await end(watchful, call, second)


# What the caller hears meanwhile


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
    asked = await other.asks()
    ear = Ear(call.caller)
    await ear.until_sound()
    may_accept.set()
    second = await other.call()
    assert second is asked
    await second.opening(call.opening)
    await ear.until(second.say(replies("twilio")[0]))
    assert ear.heard[-1] == "clear", "what was not played of it is thrown away"
    await end(gateway, call, second)


async def test_a_caller_who_cannot_be_helped_is_told(gateway: Gateway, agents: list[Agent]) -> None:
    call, *_ = await first_call(gateway, agents, agent="sorry")
    call.agent.reset()
    heard = []
    while (frame := await call.caller.next()) is not None and frame.opcode != CLOSE:
        heard.append(json.loads(frame.payload))
    assert {one["event"] for one in heard} == {"media"}
    sound = b"".join(base64.b64decode(one["media"]["payload"]) for one in heard)
    assert len(sound) == 3 * RATE_HZ // 10, "all of the recording, once"
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert record["detail"].endswith("; its caller was told")


async def test_a_caller_who_does_not_listen_to_the_end(gateway: Gateway, agents: list[Agent]) -> None:
    call, *_ = await first_call(gateway, agents, agent="verbose")
    call.agent.reset()
    await Ear(call.caller).until_sound()
    await call.caller.hang_up()
    record = await assert_ended(gateway, call.session, "agent_lost", "agent")
    assert "; its caller was being told: " in record["detail"]
