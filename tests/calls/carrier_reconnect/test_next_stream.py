# SPDX-License-Identifier: BSD-2-Clause
"""A carrier that is lost and opens another socket for its call goes on with the session (docs/sockets.md).

docs/reference/carriers.md §1, "Carrier reconnects by itself", §3.1, §4.1.
"""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, waits_for
from tests.harness.agent_failover import logged_health
from tests.harness.call_assertions import assert_agent_heard, assert_caller_heard
from tests.harness.caller import Caller
from tests.harness.carrier_reconnect import (
    continuations,
    first_stream,
    on_stream,
    only,
    opening,
    requests_next_document,
)
from tests.harness.document_calls import DocumentCalls, opening_of_call
from tests.harness.frames import BINARY, CONTINUATION, TEXT
from tests.harness.transcripts import replies, talk


@pytest.mark.parametrize("how", ["half_close", "reset"])
async def test_the_next_stream_continues_the_session(line: DocumentCalls, support: Agent, how: str) -> None:
    stream = await first_stream(line, support)
    await stream.both_hear()
    await stream.is_lost(how)
    await stream.goes_on()
    await stream.both_hear()
    assert support.upgrades == 1
    record = await stream.hangs_up()
    received, opened = len(talk(line.carrier)), len(opening_of_call(line.carrier, ""))
    assert record["frames_in"] == 2 * (opened + received)
    assert record["frames_out"] == 2 * len(replies(line.carrier))
    assert record["resumed"] == 0
    (reported,) = continuations(line.gateway, stream.session)
    assert (reported["times"], reported["call_id"]) == (1, stream.placed.call_id)
    assert reported["words"] == "the carrier's socket was lost without a close"
    assert reported["seconds"] >= 0


async def test_what_the_next_socket_says_before_its_start_reaches_the_agent(
    line: DocumentCalls, support: Agent
) -> None:
    stream = await first_stream(line, support)
    await stream.both_hear()
    await stream.is_lost()
    early, later = talk(line.carrier)[:2], talk(line.carrier)[2:]
    await stream.goes_on([on_stream(line.carrier, message, "stream-2") for message in early])
    for message in early:
        heard = await stream.agent.hear()
        assert json.loads(heard.payload) == json.loads(on_stream(line.carrier, message, stream.first))
    await stream.agent_hears(later)  # Telnyx numbers its messages: these follow
    await stream.caller_hears(replies(line.carrier))
    await stream.hangs_up()
    assert support.upgrades == 1


async def test_an_earlier_socket_that_seems_open_is_closed(line: DocumentCalls, support: Agent) -> None:
    """Half open: the carrier knows that it is gone, the gateway does not."""
    stream = await first_stream(line, support)
    await stream.both_hear()
    first = stream.caller
    await stream.goes_on()
    assert await first.closed() == (1000, "the carrier opened a new socket for the call")
    await stream.both_hear()
    await stream.hangs_up()
    assert support.upgrades == 1


async def test_a_call_continues_again_and_again(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    for times in range(1, 4):  # a document is asked for so often, and no more
        if times % 2:
            await stream.is_lost()
        await stream.goes_on()
        await stream.both_hear()
        assert continuations(line.gateway, stream.session)[-1]["times"] == times
    await stream.hangs_up()


async def test_the_caller_hears_what_the_agent_said_meanwhile(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    meanwhile = replies(line.carrier) * 5
    for message in meanwhile:
        stream.agent.say(on_stream(line.carrier, message, stream.first))
    ping = stream.agent.frame(0x9, b"there?")
    stream.agent.send(ping)
    assert (await stream.agent.hear()).payload == b"there?", "who waits is answered meanwhile"
    await stream.goes_on()
    await stream.caller_hears_what_was_said(meanwhile)
    await stream.both_hear()
    await stream.hangs_up()


async def test_the_agent_hears_what_the_caller_says_at_once(line: DocumentCalls, support: Agent) -> None:
    """Also in the packet that ends the opening."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    stream.count += 1
    stream.latest = "stream-2"
    url = (await requests_next_document(line, stream.placed)).stream_url if line.carrier == "twilio" else None
    stream.caller = await line.dial(url or stream.placed.stream_url)
    messages = opening(line.carrier, stream.placed.call_id, stream.latest)
    early = talk(line.carrier)
    messages += [on_stream(line.carrier, message, stream.latest) for message in early]
    stream.caller.send(b"".join(stream.caller.frame(TEXT, message.encode()) for message in messages))
    for message in early:
        received = await stream.agent.hear()
        assert json.loads(received.payload) == json.loads(on_stream(line.carrier, message, stream.first))
    await stream.hangs_up()


async def test_a_stream_that_kept_its_id(line: DocumentCalls, support: Agent) -> None:
    """Whether an id is new is not documented (docs/reference/carriers.md §3.1): where it is not, bytes pass
    as they come.
    """
    stream = await first_stream(line, support)
    await stream.is_lost()
    stream.count = 0
    await stream.goes_on()
    await assert_agent_heard(stream.agent, [stream.caller.say(message) for message in talk(line.carrier)])
    await assert_caller_heard(stream.caller, [stream.agent.say(one) for one in replies(line.carrier)])
    await stream.hangs_up()


async def test_a_call_that_is_relayed_by_messages(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support, "messages")
    await stream.both_hear()
    if line.carrier != "twilio":
        stream.placed = await requests_next_document(line, stream.placed)
    await stream.is_lost()
    await stream.goes_on()
    stream.caller.say("no message")
    await stream.both_hear()
    await stream.hangs_up()


@only["twilio"]
async def test_an_agent_that_does_not_know_the_call_id(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support, "hidden", opened=False)
    first = [await stream.agent.hear() for _ in opening_of_call("twilio", "")]
    assert stream.placed.call_id.encode() not in first[-1].payload
    await stream.is_lost()
    await stream.goes_on()
    await stream.both_hear()
    assert stream.placed.call_id.encode() not in stream.agent.heard
    await stream.hangs_up()


@pytest.mark.parametrize("fragmented", [False, True])
@only["plivo"]
async def test_a_message_of_which_the_lost_carrier_got_a_part(
    line: DocumentCalls, support: Agent, fragmented: bool
) -> None:
    """Half of it went to the first socket: the second does not get the other half, but all that follows."""
    stream = await first_stream(line, support)
    await stream.both_hear()
    # While sound of the agent's is played, a message passes in parts; the next sound is looked at whole.
    await stream.caller_hears(replies("plivo")[:1] * 100)
    text = replies("plivo")[0].encode().ljust(5000)
    if fragmented:
        begun = stream.agent.frame(TEXT, text[:3000], fin=False)
        rest = stream.agent.frame(CONTINUATION, text[3000:])
    else:
        whole = stream.agent.frame(TEXT, text)
        begun, rest = whole[:3000], whole[3000:]
    at = len(stream.caller.heard)
    stream.agent.send(begun)
    await stream.caller.hear_bytes(at + len(begun))
    await stream.is_lost()
    stream.agent.send(rest)
    await stream.goes_on()
    await stream.both_hear()
    await stream.hangs_up()


@only["telnyx"]
async def test_a_call_whose_agent_is_lost_later(line: DocumentCalls, agents: list[Agent]) -> None:
    """The next agent is told the latest stream; then that one goes on, too."""
    stream = await first_stream(line, await ready_one(line, agents), "resumed")
    await stream.is_lost()
    await stream.goes_on()
    for other in (agents[1], agents[0]):
        stream.agent.reset()
        second = await other.call()
        assert second.session == stream.session
        reported = b"".join([(await second.hear()).payload for _ in opening_of_call("telnyx", "")])
        assert stream.latest.encode() in reported
        stream.agent, stream.first = second, stream.latest
        await stream.both_hear()
        await stream.is_lost()
        await stream.goes_on()
        await stream.both_hear()
    record = await stream.hangs_up()
    assert record["resumed"] == 2


@pytest.mark.parametrize("carrier", ["twilio", "telnyx"], indirect=True)
async def test_a_translated_call_whose_agent_is_lost_later(line: DocumentCalls, agents: list[Agent]) -> None:
    """Each agent speaks on the stream that the carrier has, and hears the caller from its first message."""
    stream = await first_stream(line, await ready_one(line, agents), "translated", opened=False)
    carrier = line.carrier
    said = [message for message in talk(carrier) if '"media"' in message]

    async def both_hear() -> None:
        for message in said:
            stream.caller.say(on_stream(carrier, message, stream.latest))
        for message in said:
            sound = base64.b64decode(json.loads(message)["media"]["payload"])
            assert len((await stream.agent.hear()).payload) == 2 * len(sound)
        stream.agent.send(stream.agent.frame(BINARY, bytes(320)))
        heard = json.loads((await stream.caller.hear()).payload)
        assert (heard["event"], heard.get("streamSid", stream.latest)) == ("media", stream.latest)

    await both_hear()
    await stream.is_lost()
    await stream.goes_on()
    await both_hear()
    stream.agent.reset()
    stream.agent = await agents[1].call()
    await eventually(
        lambda: [each for each in line.gateway.log_lines() if each["event"] == "call resumed"],
        "another agent has the call",
    )
    await both_hear()
    record = await stream.hangs_up()
    assert record["resumed"] == 1


async def ready_one(line: DocumentCalls, agents: list[Agent]) -> Agent:
    """Return the instance that the next call goes to: of two that are ready and free, the first."""
    await eventually(
        lambda: all(logged_health(line.gateway, each.port) == "ready" for each in agents), "both are ready"
    )
    return agents[0]


@only["twilio"]
async def test_the_hold_audio_goes_on(line: DocumentCalls, support: Agent) -> None:
    """Of an agent that has not spoken: the caller hears that it is called, on the second socket too."""
    may_accept = asyncio.Event()
    support.answer = waits_for(may_accept)
    taking = asyncio.create_task(first_stream(line, support, "ringing"))
    await support.next_other_call()
    await until_sound(line.gateway.callers[-1], "stream-1")
    may_accept.set()
    stream = await taking
    await stream.is_lost()
    await stream.goes_on()
    await until_sound(stream.caller, "stream-2")
    stream.agent.say(on_stream("twilio", replies("twilio")[0], stream.first))
    while (received := json.loads((await stream.caller.hear()).payload))["event"] != "clear":
        assert received["streamSid"] == "stream-2"
    await stream.caller_hears_what_was_said(replies("twilio")[:1])
    await stream.hangs_up()


@only["telnyx"]
async def test_a_carrier_that_needs_audio_gets_silence(line: DocumentCalls, support: Agent) -> None:
    """docs/reference/carriers.md §3.3: a leg that got nothing ends after 1.6 s; its agent has nothing to
    say just now.
    """
    stream = await first_stream(line, support)
    await stream.is_lost()
    await stream.goes_on()
    silence = json.loads((await stream.caller.hear()).payload)
    assert silence["event"] == "media"
    await stream.hangs_up()


async def until_sound(caller: Caller, stream: str) -> None:
    while (received := json.loads((await caller.hear()).payload))["event"] != "media":
        pass
    assert received["streamSid"] == stream


@only["plivo"]
async def test_a_carrier_that_stopped_reading(line: DocumentCalls, support: Agent) -> None:
    """Its network is gone, and what the agent says is stuck. All that follows is heard, and whole."""
    stream = await first_stream(line, support)
    message, poured = replies("plivo")[0], 0
    goes_on = asyncio.Event()

    async def pour() -> None:
        """Four kilobytes at a time, numbered, until the call has gone on."""
        nonlocal poured
        while not goes_on.is_set():
            text = message[:-1] + f', "number": {poured}, "more": "{"." * 4000}"}}'
            await stream.agent.pour(stream.agent.frame(TEXT, text.encode()))
            poured += 1

    pouring = asyncio.create_task(pour())
    before, unchanged = -1, 0
    while unchanged < 5:  # until nobody takes it any more; a busy gateway may pause for a moment
        unchanged = unchanged + 1 if poured == before and stream.agent.unsent else 0
        before = poured
        await asyncio.sleep(0.1)
    await stream.goes_on()
    goes_on.set()
    numbers = [json.loads((await stream.caller.hear()).payload)["number"]]
    while not pouring.done() or numbers[-1] < poured - 1:
        numbers.append(json.loads((await stream.caller.hear()).payload)["number"])
    assert numbers == list(range(numbers[0], poured))
    assert numbers[0] <= before
    await stream.both_hear()
    await stream.hangs_up()
