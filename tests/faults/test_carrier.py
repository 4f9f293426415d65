# SPDX-License-Identifier: BSD-2-Clause
"""The carrier breaks, or the network before it: the agent is told, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.case import Case
from tests.faults.conversation import REPLY, SOUND, speak
from tests.faults.stream_token import url_with_token
from tests.harness.agent import Agent, hangs
from tests.harness.call_assertions import Call
from tests.harness.frames import BINARY, PING, TEXT
from tests.harness.http_requests import send
from tests.harness.transcripts import IDS, opening
from tests.harness.transcripts import talk as says

Cases = Callable[..., Case]

FORM = "application/x-www-form-urlencoded"

FLOOD_FRAMES = 20_000
BOUND = 16 << 20
"""Bytes of memory that one bad side may cost."""

KEY_PRESSED = next(message for message in says("twilio") if json.loads(message)["event"] == "dtmf")

TURN_FRAMES = 10
"""Frames after which a call that goes on is seen to go on."""


# It leaves


@pytest.mark.parametrize(("fault_name", "how"), [("resets", "reset"), ("half-closes", "half_close")])
async def test_leaves_without_a_close(case: Cases, support: Agent, fault_name: str, how: str) -> None:
    async with case(fault_name) as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        getattr(talk.caller, how)()
        assert await talk.agent_recorder.closed() == (1011, "the carrier's socket was lost without a close")
        await fault.over("carrier_lost", "carrier")
        fault.heard = "sound, then it was gone"


# It does not read, or says nothing


async def test_stops_reading(case: Cases, support: Agent) -> None:
    async with case("stops reading while the agent floods") as fault:
        talk = await fault.talk(support, agent_speaks=False)
        await talk.recorder.stop()
        fault.strike()
        pouring = asyncio.create_task(talk.agent.pour_on(talk.agent.frame(TEXT, REPLY.encode()) * 100))
        assert (await talk.agent_recorder.closed())[0] == 1011
        pouring.cancel()
        assert fault.grown <= BOUND, "what is not read is not kept"
        await fault.over("carrier_stalled", "carrier")
        fault.heard = "what it read"


async def test_sends_no_opening(case: Cases, support: Agent) -> None:
    async with case("sends nothing, not even its opening") as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller(messages=[])
        await fault.ends(recorder, 1008, "bad_opening", "carrier")


async def test_falls_silent(case: Cases, support: Agent) -> None:
    async with case("falls silent in the call") as fault:
        talk = await fault.talk(support, "/ws/twilio/quiet.acme")
        talk.silence()
        fault.strike()
        await fault.ends(talk.recorder, 1000, "idle_timeout", "gateway")


async def test_keeps_the_socket_of_a_call_that_is_over(case: Cases, support: Agent) -> None:
    async with case("reports the end of the call and keeps its socket open") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        callback = f"{fault.gateway.url}/callbacks/twilio/{talk.agent.session}/status"
        answer = await send(callback, raw=b"CallStatus=completed", **{"Content-Type": FORM})
        assert answer.status == 200, answer
        await fault.ends(talk.recorder, 1000, "caller_hangup", "caller")


# It sends what it should not


GARBAGE = {
    "bytes that are no frames": lambda peer: peer.send(b"\xff" * 64),
    "a frame that is not masked": lambda peer: peer.send(peer.frame(TEXT, b"{}", key=None)),
    "a frame with a reserved opcode": lambda peer: peer.send(peer.frame(0x3, b"x")),
    "a ping of 126 bytes": lambda peer: peer.send(peer.frame(PING, bytes(126))),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_sends_garbage(case: Cases, support: Agent, name: str) -> None:
    async with case(f"sends {name}") as fault:
        talk = await fault.talk(support)
        talk.silence()
        fault.strike()
        GARBAGE[name](talk.caller)
        await fault.ends(talk.recorder, 1002, "carrier_protocol_error", "carrier")
        assert (await talk.agent_recorder.closed())[0] == 1011


BAD_OPENINGS = {
    "text that is no JSON": ["hello"],
    "sound, and never with `start`": [SOUND],
    "`connected` twice, and never with `start`": [opening("twilio")[0]] * 2,
}


@pytest.mark.parametrize("name", BAD_OPENINGS)
async def test_opens_with_garbage(case: Cases, support: Agent, name: str) -> None:
    async with case(f"opens with {name}") as fault:
        fault.agent = support
        fault.strike()
        _, recorder = await fault.caller(messages=BAD_OPENINGS[name])
        await fault.ends(recorder, 1008, "bad_opening", "carrier")


async def test_speaks_before_its_start(case: Cases, support: Agent) -> None:
    async with case("sends sound and a key before `start`") as fault:
        early = [SOUND, KEY_PRESSED, SOUND]
        fault.strike()
        caller = await fault.gateway.dial("/ws/twilio/support.acme")
        for message in (*early, *opening("twilio")):
            caller.say(message)
        talk = await fault.talks(support, Call(caller, await support.call(), []))
        await goes_on(fault, talk, "sound; the agent the opening, then what was early")
        texts = [text.decode() for text in talk.agent_recorder.texts]
        assert texts[:5] == [*opening("twilio"), *early]


async def goes_on(fault: Case, talk: Any, heard: str) -> None:
    """Both still hear each other; then the caller hangs up, and the row says what was heard."""
    await talk.recorder.until(talk.recorder.audio_frames + TURN_FRAMES)
    await talk.agent_recorder.until(talk.agent_recorder.audio_frames + TURN_FRAMES)
    fault.note_received(talk.recorder, with_close=False)
    fault.heard = heard
    await talk.hang_up()
    await fault.over("caller_hangup", "caller")


NO_MESSAGES = (b"hello", b"{}", b"[" * 100_000, b'{"event":"\xff"}', b'{"event":"media","media":{}}')


async def test_sends_text_that_is_no_message(case: Cases, support: Agent) -> None:
    async with case('sends text that is no message (`media = "messages"`)') as fault:
        talk = await fault.talk(support, "/ws/twilio/reader.acme")
        fault.strike()
        for garbage in NO_MESSAGES:
            talk.caller.send(talk.caller.frame(TEXT, garbage))
        talk.caller.send(talk.caller.frame(BINARY, b"\x00\xff"))
        await goes_on(fault, talk, "sound; the agent none of the garbage")
        assert set(talk.agent_recorder.texts) == {SOUND.encode()}


async def test_sends_text_that_is_no_message_as_bytes(case: Cases, support: Agent) -> None:
    """A relay in bytes passes messages unread; an agent that needs valid messages sets `media`."""
    async with case("sends text that is no message") as fault:
        talk = await fault.talk(support)
        fault.strike()
        for garbage in NO_MESSAGES[:2]:
            talk.caller.send(talk.caller.frame(TEXT, garbage))
        await goes_on(fault, talk, "sound; the agent all of it, as it came")
        assert set(talk.agent_recorder.texts) == {SOUND.encode(), *NO_MESSAGES[:2]}


def numbered(first: int) -> list[bytes]:
    """Media messages that can be told apart."""
    return [
        SOUND.replace('"chunk": "', f'"chunk": "{number}0').encode() for number in range(first, first + 6)
    ]


async def test_duplicates(case: Cases, support: Agent) -> None:
    async with case("says each frame twice") as fault:
        talk = await fault.talk(support, caller_speaks=False)
        fault.strike()
        twice = [message for message in numbered(1) for _ in range(2)]
        for message in twice:
            talk.caller.send(talk.caller.frame(TEXT, message))
        await talk.agent_recorder.until(len(twice))
        assert talk.agent_recorder.texts == twice
        await leaves(fault, talk, "sound; the agent each frame twice")


async def test_reorders(case: Cases, support: Agent) -> None:
    """Telnyx's may come so (docs/reference/carriers.md §3.2), and an agent that asks for messages wants
    them in order.
    """
    async with case('says frames out of order (Telnyx, `media = "messages"`)') as fault:
        talk = await fault.talk(support, "/ws/telnyx/reader.acme", caller_speaks=False)
        fault.strike()
        in_order = [telnyx_sound(number) for number in range(1, 7)]
        for place in (0, 2, 1, 4, 3, 5):
            talk.caller.send(talk.caller.frame(TEXT, in_order[place]))
        await talk.agent_recorder.until(len(in_order))
        assert talk.agent_recorder.texts == in_order
        await leaves(fault, talk, "sound; the agent the frames in order")


def telnyx_sound(number: int) -> bytes:
    """Telnyx's media message of this number, the first behind `start` being 1."""
    message = next(json.loads(said) for said in says("telnyx") if json.loads(said)["event"] == "media")
    message["sequence_number"] = str(number + 1)
    message["media"]["chunk"] = str(number)
    return json.dumps(message).encode()


async def test_repeats_the_opening(case: Cases, support: Agent) -> None:
    async with case("repeats its opening in the call") as fault:
        talk = await fault.talk(support, caller_speaks=False)
        fault.strike()
        said = [message.encode() for message in opening("twilio")]
        for message in said:
            talk.caller.send(talk.caller.frame(TEXT, message))
        await talk.agent_recorder.until(len(said))
        assert talk.agent_recorder.texts == said
        await leaves(fault, talk, "sound; the agent the second opening, too")


async def leaves(fault: Case, talk: Any, heard: str) -> None:
    """The caller has heard sound all the while, and hangs up."""
    await talk.recorder.until(talk.recorder.audio_frames + TURN_FRAMES)
    fault.note_received(talk.recorder, with_close=False)
    fault.heard = heard
    await talk.hang_up()
    await fault.over("caller_hangup", "caller")


SECOND_SOCKETS = {
    "opens a second socket for the same call": None,
    "resets, and opens a second socket for the same call": "reset",
}


@pytest.mark.parametrize("name", SECOND_SOCKETS)
async def test_opens_a_second_socket(case: Cases, support: Agent, name: str) -> None:
    """A reconnect: the session goes on with the same agent, whether or not the first socket is known lost."""
    async with case(name) as fault:
        url, lost = url_with_token(fault.gateway), SECOND_SOCKETS[name]
        first = await fault.talk(support, url, caller_speaks=False)
        fault.strike()
        if lost is not None:
            getattr(first.caller, lost)()
        again = [message.replace(IDS["plivo"][1], "another-stream") for message in opening("plivo")]
        caller, recorder = await fault.caller(url, again)
        voice = asyncio.create_task(speak(caller, SOUND))
        await recorder.until(TURN_FRAMES)
        await first.agent_recorder.until(TURN_FRAMES)
        fault.gap_ms = (recorder.first - first.recorder.last_sound) * 1000
        fault.heard = "sound, on the second socket; the agent too"
        if lost is None:
            assert await first.recorder.closed() == (1000, "the carrier opened a new socket for the call")
            fault.heard += "; the first 1000"
        voice.cancel()
        await fault.hangs_up(recorder)
        await fault.over("caller_hangup", "caller")


# It floods


async def test_floods(case: Cases, support: Agent) -> None:
    async with case(f"floods: {FLOOD_FRAMES} frames at once") as fault:
        talk = await fault.talk(support, caller_speaks=False)
        fault.strike()
        piece = talk.caller.frame(TEXT, SOUND.encode()) * 100
        for _ in range(FLOOD_FRAMES // 100):
            await talk.caller.pour(piece)
        await talk.agent_recorder.until(FLOOD_FRAMES)
        await leaves(fault, talk, "sound; the agent all of the flood")


async def test_floods_its_opening(case: Cases, support: Agent) -> None:
    async with case("floods before `start`") as fault:
        fault.agent = support
        fault.strike()
        caller, recorder = await fault.caller(messages=opening("twilio")[:1])
        caller.send(caller.frame(TEXT, b" " * (1 << 20)))
        await fault.ends(recorder, 1009, "too_large", "tenant")


async def test_floods_while_the_agent_starts(case: Cases, support: Agent) -> None:
    async with case("floods while the agent starts") as fault:
        support.answer = hangs
        fault.agent = support
        fault.strike()
        caller, recorder = await fault.caller()
        await support.next_other_call()
        pouring = asyncio.create_task(caller.pour_on(caller.frame(TEXT, SOUND.encode()) * 100))
        await fault.ends(recorder, None, "agent_start_timeout", "agent")
        pouring.cancel()
        assert fault.grown <= BOUND, "what comes early is kept up to a limit"
