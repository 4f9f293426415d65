# SPDX-License-Identifier: BSD-2-Clause
"""A second stream that takes the call over, because the call cannot continue on it (docs/sockets.md)."""

from __future__ import annotations

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, hangs
from tests.harness.call_assertions import assert_ended
from tests.harness.carrier_reconnect import (
    assert_another_session,
    assert_call_over,
    continuations,
    first_stream,
    only,
    opening,
    requests_next_document,
)
from tests.harness.document_calls import DocumentCalls


@only["plivo"]
async def test_a_second_socket_for_another_agent_takes_the_call_over(
    line: DocumentCalls, support: Agent
) -> None:
    """As where an operator's own XML leads the call from one agent to the next."""
    stream = await first_stream(line, support)
    again = await line.place("/xml/plivo?agent=asked&org=acme&return=1", CallUUID=stream.placed.call_id)
    caller = await line.dial(again.stream_url)
    for message in opening("plivo", stream.placed.call_id, "stream-2"):
        caller.say(message)
    await assert_call_over(stream, "taken_over", "carrier", 1000)
    await assert_another_session(stream, caller, support)


@only["telnyx"]
async def test_a_stream_in_another_codec_takes_the_call_over(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    caller = await line.dial(stream.placed.stream_url)
    for message in opening("telnyx", stream.placed.call_id, "stream-2"):
        caller.say(message.replace("PCMU", "PCMA"))
    await assert_call_over(stream, "taken_over", "carrier", 1000)
    await assert_another_session(stream, caller, support)


@only["twilio"]
async def test_without_a_call_token_no_stream_is_awaited(line: DocumentCalls, support: Agent) -> None:
    caller = await line.gateway.dial("/ws/twilio/support.globex")
    sent = [caller.say(message) for message in opening("twilio", "CA1", "stream-1")]
    taken = await support.call()
    await taken.opening(sent)
    caller.reset()
    assert (await taken.closed())[0] == 1011
    await assert_ended(line.gateway, taken.session, "carrier_lost", "carrier")


@only["twilio"]
async def test_no_stream_of_a_carrier_that_never_reconnects_is_awaited(
    line: DocumentCalls, support: Agent
) -> None:
    stream = await first_stream(line, support, "support")
    stream.caller.reset()
    await assert_call_over(stream, "carrier_lost", "carrier", 1011)


async def test_while_the_agent_starts_a_second_socket_takes_the_call_over(
    line: DocumentCalls, support: Agent
) -> None:
    """There is no session yet that could go on."""
    if line.carrier == "twilio":
        return
    support.answer = hangs
    placed = await line.place(f"/xml/{line.carrier}?agent=support&org=acme")
    first = await line.dial(placed.stream_url)
    for message in opening(line.carrier, placed.call_id, "stream-1"):
        first.say(message)
    await support.next_other_call()
    second = await line.dial(placed.stream_url)
    for message in opening(line.carrier, placed.call_id, "stream-2"):
        second.say(message)
    assert (await first.closed())[0] == 1000
    await support.next_other_call()


async def test_the_document_of_a_waiting_call_opens_another_stream(
    line: DocumentCalls, support: Agent
) -> None:
    """At once, and so often as `max_returns` says."""
    stream = await first_stream(line, support, "asked")
    await stream.is_lost()
    placed = stream.placed
    for _ in range(3):
        placed = await requests_next_document(line, placed)
        assert placed.stream_url
    last = await requests_next_document(line, placed)
    assert last.document is not None
    assert [verb.tag for verb in last.document.verbs] == ["Hangup"], "the loop guard"
    caller = await line.dial(placed.stream_url)
    for message in opening(line.carrier, placed.call_id, "stream-2"):
        caller.say(message)
    await eventually(lambda: continuations(line.gateway, stream.session), "the call goes on")
    stream.caller, stream.latest = caller, "stream-2"
    await stream.both_hear()
    await stream.hangs_up()
