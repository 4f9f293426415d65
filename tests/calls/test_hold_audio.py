# SPDX-License-Identifier: BSD-2-Clause
"""Hold audio while the agent starts, and what becomes of what the caller says meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from serializers.events import Clear, Media
from serializers.registry import DIALECTS
from tests.harness.agent import Agent, AgentCall, AgentPort, answers, waits_for
from tests.harness.caller import Caller
from tests.harness.frames import CLOSE, PING, PONG
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, opening, replies, talk

LIMITS = {"close_timeout": 0.2}
AT_ONCE_S = 0.1
"""Below gateway.media.audio_player.WAIT_S, so that no sound can have begun before the agent was there."""

AGENTS: dict[str, dict[str, Any]] = {
    "support": {"hold_limit": 60},
    "berlin": {"hold_limit": 60, "hold_tone": "eu"},
    "quiet": {"hold": "none"},
    "listener": {"hold_limit": 0.2},
    "forgetful": {"hold": "none", "keep_early_audio": 0},
    "short": {"hold": "none", "keep_early_audio": 0.1},
    "messages": {"hold_limit": 60, "media": "messages"},
}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agents = [
        {"name": name, "organization": "acme", "instances": [support_port.url]}
        | {"sessions_per_instance": 4}
        | settings
        for name, settings in AGENTS.items()
    ]
    return start_gateway(agents=agents, limits=LIMITS)


@pytest.fixture
def here(support: Agent) -> asyncio.Event:
    """To be set when the agent's container has started."""
    event = asyncio.Event()
    support.answer = waits_for(event)
    return event


async def ring(
    gateway: Gateway, carrier: str, agent: str = "support", *early: str
) -> tuple[Caller, list[bytes]]:
    """A call, its opening and the caller's early words, as bytes."""
    caller = await gateway.dial(f"/ws/{carrier}/{agent}.acme")
    assert caller.status == 101
    return caller, [caller.say(message) for message in (*opening(carrier), *early)]


async def arrived(caller: Caller) -> None:
    """All that was said is at the gateway, none of it on its way: a ping behind it is answered."""
    caller.send(caller.frame(PING, b"heard?"))
    while (await caller.hear()).opcode != PONG:
        pass


async def hear(caller: Caller, carrier: str) -> Any:
    """The next message, as the carrier understands it."""
    return DIALECTS[carrier].read_agent((await caller.hear()).payload)


async def hear_sound(caller: Caller, carrier: str, pieces: int) -> None:
    for _ in range(pieces):
        assert isinstance(await hear(caller, carrier), Media)


def sound_of(carrier: str) -> str:
    sounds = DIALECTS[carrier].agent_media_events
    return next(reply for reply in replies(carrier) if json.loads(reply)["event"] in sounds)


def media_of(carrier: str, count: int) -> list[str]:
    one = next(message for message in talk(carrier) if json.loads(message)["event"] == "media")
    return [json.dumps(json.loads(one) | {"n": number}) for number in range(count)]


def dtmf_of(carrier: str) -> str:
    return next(message for message in talk(carrier) if json.loads(message)["event"] == "dtmf")


@pytest.mark.parametrize("agent", ["support", "messages"])
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_caller_hears_hold_audio_then_a_clear_then_the_agent(
    gateway: Gateway, support: Agent, here: asyncio.Event, carrier: str, agent: str
) -> None:
    caller, raw = await ring(gateway, carrier, agent)
    await support.next_other_call()
    await hear_sound(caller, carrier, 3)
    here.set()
    call = await support.call()
    await call.opening(raw)
    await hear_sound(caller, carrier, 3)  # it has not said anything yet
    for _ in range(10):
        call.say(sound_of(carrier))
    while isinstance(received := await hear(caller, carrier), Media):
        pass
    assert isinstance(received, Clear)
    await hear_sound(caller, carrier, 1)
    await caller.hang_up()


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_after_the_clear_the_caller_hears_the_agents_bytes_and_nothing_else(
    gateway: Gateway, support: Agent, here: asyncio.Event, carrier: str
) -> None:
    caller, raw = await ring(gateway, carrier)
    await support.next_other_call()
    await hear_sound(caller, carrier, 2)
    here.set()
    call = await support.call()
    await call.opening(raw)
    spoken = b"".join(call.say(message) for message in [sound_of(carrier), *replies(carrier)] * 5)
    await call.hang_up()
    assert await caller.closed() == (1000, "")
    received = await caller.ended()
    at = received.index(spoken)
    clear = DIALECTS[carrier].write_agent(Clear(), _start(carrier)).encode()
    assert received[:at].endswith(clear), "the clear stands right before the agent's first sound"
    assert received.count(spoken) == 1


def _start(carrier: str) -> Any:
    return DIALECTS[carrier].read_carrier(opening(carrier)[-1])


async def test_a_caller_hears_no_hold_audio_before_an_agent_that_speaks_at_once(
    gateway: Gateway, support: Agent
) -> None:
    """Whether it was, the gateway itself says: how long it took is in its record of the call."""
    at_once = False
    async with asyncio.timeout(WAIT_S):
        while not at_once:
            caller, raw = await ring(gateway, "twilio")
            call = await support.call()
            await call.opening(raw)
            (record,) = await eventually(
                lambda session=call.session: [  # type: ignore[misc]
                    one for one in gateway.sessions(session) if one["started_at"]
                ],
                "it runs",
            )
            at_once = record["started_at"] - record["created_at"] < AT_ONCE_S
            spoken = call.say(sound_of("twilio"))
            received = await caller.hear_bytes(len(spoken))
            assert received == spoken or not at_once
            await caller.hang_up()


async def test_messages_without_audio_do_not_end_the_hold_audio(
    gateway: Gateway, support: Agent, here: asyncio.Event
) -> None:
    caller, raw = await ring(gateway, "twilio")
    await support.next_other_call()
    await hear_sound(caller, "twilio", 1)
    here.set()
    call = await support.call()
    await call.opening(raw)
    mark = next(reply for reply in replies("twilio") if json.loads(reply)["event"] == "mark")
    call.send(call.frame(1, mark.encode()) + call.frame(1, sound_of("twilio").encode()))
    received = []
    while "clear" not in received:
        received.append(json.loads((await caller.hear()).payload)["event"])
    assert received[-2:] == ["mark", "clear"]
    assert json.loads((await caller.hear()).payload) == json.loads(sound_of("twilio"))
    await caller.hang_up()


async def test_an_agent_that_only_listens_still_hears_its_caller(
    gateway: Gateway, support: Agent, here: asyncio.Event
) -> None:
    caller, raw = await ring(gateway, "twilio", "listener")
    await support.next_other_call()
    await hear_sound(caller, "twilio", 1)
    here.set()
    call = await support.call()
    await call.opening(raw)
    while isinstance(received := await hear(caller, "twilio"), Media):
        pass
    assert isinstance(received, Clear)
    spoken = call.say(sound_of("twilio"))
    assert (await caller.hear()).raw == spoken
    await caller.hang_up()


async def test_without_hold_audio_only_telnyx_gets_silence(
    gateway: Gateway, support: Agent, here: asyncio.Event
) -> None:
    twilio, twilio_raw = await ring(gateway, "twilio", "quiet")
    telnyx, telnyx_raw = await ring(gateway, "telnyx", "quiet")
    for _ in range(2):
        await support.next_other_call()
    received = [await hear(telnyx, "telnyx") for _ in range(3)]
    assert {one.payload for one in received} == {b"\xff" * 800}, "silence in the codec that is played"
    here.set()
    calls = [await support.call() for _ in range(2)]
    for call in calls:
        call.say(sound_of("twilio"))
    assert json.loads((await twilio.hear()).payload) == json.loads(sound_of("twilio"))
    for caller in (twilio, telnyx):
        await caller.hang_up()
    assert len(twilio_raw) == len(telnyx_raw) == 2


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_agent_fails_while_the_caller_hears_hold_audio(
    gateway: Gateway, support: Agent, carrier: str
) -> None:
    event = asyncio.Event()
    refuses = answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", then="close")

    async def answer(agent: Agent, call: AgentCall) -> None:
        await event.wait()
        await refuses(agent, call)

    support.answer = answer
    caller, _ = await ring(gateway, carrier)
    await hear_sound(caller, carrier, 2)
    event.set()
    last = b""
    while (frame := await caller.next()) is not None and frame.opcode != CLOSE:
        last = frame.payload
    assert isinstance(DIALECTS[carrier].read_agent(last), Clear)
    assert frame is not None


async def test_a_caller_hangs_up_while_it_hears_hold_audio(
    gateway: Gateway, support: Agent, here: asyncio.Event
) -> None:
    caller, _ = await ring(gateway, "twilio")
    await support.next_other_call()
    await hear_sound(caller, "twilio", 2)
    await caller.hang_up()


# Early words


async def told(support: Agent, here: asyncio.Event, raw: list[bytes]) -> None:
    """The agent comes, and is told just this."""
    here.set()
    call = await support.call()
    await call.opening(raw)
    call.say(sound_of("twilio"))


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_early_audio_is_buffered_in_order(
    gateway: Gateway, support: Agent, here: asyncio.Event, carrier: str
) -> None:
    early = [*media_of(carrier, 8), dtmf_of(carrier), *media_of(carrier, 8)]
    caller, raw = await ring(gateway, carrier, "quiet", *early)
    await support.next_other_call()
    await arrived(caller)
    await told(support, here, raw)
    await caller.hang_up()


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_early_audio_is_discarded_but_not_the_opening_or_digits(
    gateway: Gateway, support: Agent, here: asyncio.Event, carrier: str
) -> None:
    early = [*media_of(carrier, 8), dtmf_of(carrier), *media_of(carrier, 8), dtmf_of(carrier)]
    caller, raw = await ring(gateway, carrier, "forgetful", *early)
    await support.next_other_call()
    await arrived(caller)
    there = len(opening(carrier))
    await told(support, here, [*raw[:there], raw[there + 8], raw[-1]])
    await caller.hang_up()


async def test_only_the_latest_early_audio_is_buffered(
    gateway: Gateway, support: Agent, here: asyncio.Event
) -> None:
    early = [*media_of("twilio", 20), dtmf_of("twilio"), *media_of("twilio", 3), dtmf_of("twilio")]
    caller, raw = await ring(gateway, "twilio", "short", *early)
    await support.next_other_call()
    await arrived(caller)
    await told(support, here, [*raw[:2], *raw[20:]])
    await caller.hang_up()


async def test_what_comes_after_the_early_audio_is_passed_on(
    gateway: Gateway, support: Agent, here: asyncio.Event
) -> None:
    caller, raw = await ring(gateway, "twilio", "forgetful", *media_of("twilio", 5))
    await support.next_other_call()
    await arrived(caller)
    here.set()
    call = await support.call()
    await call.opening(raw[:2])
    later = caller.say(media_of("twilio", 1)[0])
    received = await call.hear_bytes(len(b"".join(raw[:2])) + len(later))
    assert received.endswith(later)
    await caller.hang_up()
