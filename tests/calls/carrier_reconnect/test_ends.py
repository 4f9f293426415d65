# SPDX-License-Identifier: BSD-2-Clause
"""A call that waits for a stream ends: no stream comes, or something else ends it (docs/sockets.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent
from tests.harness.api_requests import api_request, stop_session
from tests.harness.call_assertions import assert_agent_heard, assert_ended, assert_refused
from tests.harness.carrier_reconnect import (
    CARRIERS,
    assert_another_session,
    assert_call_over,
    first_stream,
    on_stream,
    only,
)
from tests.harness.document_calls import DocumentCalls, Server, carrier_running
from tests.harness.frames import TEXT
from tests.harness.gateway import Gateway
from tests.harness.rest_plivo import PlivoCall
from tests.harness.transcripts import talk

SOON_S = 1.0


async def test_no_stream_comes_in_time(
    start: Callable[..., Gateway], carrier_servers: dict[str, Server], agents: list[Agent]
) -> None:
    gateway = start(reconnect_timeout=SOON_S)
    for carrier in CARRIERS:
        async with carrier_running(gateway, carrier_servers, carrier) as line:
            stream = await first_stream(line, agents[0])
            stream.caller.reset()
            detail = "the carrier's socket was lost without a close, and no other came within 1 s"
            assert await stream.agent.closed() == (1011, detail)
            record = await assert_ended(gateway, stream.session, "carrier_lost", "carrier")
            assert (record["detail"], record["state"]) == (detail, "failed")
            # Then the next one is a session of its own, as it is where none is waited for.
            caller = await stream.comes_again()
            taken = await agents[0].call()
            assert taken.session != stream.session
            await caller.leave()
            assert (await taken.closed())[0] == 1011
            await assert_ended(gateway, taken.session, "carrier_lost", "carrier")


@only["plivo"]
async def test_the_session_is_stopped_while_it_waits(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    assert await asyncio.to_thread(stop_session, line.gateway, stream.session) == 200
    await assert_call_over(stream, "stopped", "gateway", 1000)


@only["plivo"]
async def test_a_waiting_call_is_not_transferred(line: DocumentCalls, support: Agent) -> None:
    """There is no stream that could end as that of a transferred call does; afterwards there is."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    path = f"/v1/sessions/{stream.session}/call/transfer"
    assert (
        await asyncio.to_thread(api_request, line.gateway, "POST", path, {"to": "sip:desk@example.com"})
        == 409
    )
    await stream.goes_on()
    await stream.both_hear()
    await stream.hangs_up()


@only["plivo"]
async def test_a_waiting_call_is_hung_up(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    path = f"/v1/sessions/{stream.session}/call/hangup"
    line.server.calls[stream.placed.call_id] = PlivoCall(
        stream.placed.call_id, stream.placed.call_id, {}, "in-progress"
    )
    assert await asyncio.to_thread(api_request, line.gateway, "POST", path) == 200
    await assert_call_over(stream, "hung_up", "gateway", 1000)


@only["plivo"]
async def test_the_agent_closes_while_the_call_waits(line: DocumentCalls, support: Agent) -> None:
    """It has ended the call, which is hung up as ever; the next socket is nobody's."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    before = len(line.server.seen)
    stream.agent.send(stream.agent.close_frame(1000, "bye"))
    await stream.agent.ended()
    await assert_ended(line.gateway, stream.session, "agent_ended", "agent")
    assert [seen.operation for seen in line.server.seen[before:]] == ["hangup"]
    reported = len(line.gateway.ends())
    late_stream = await stream.comes_again()
    assert (await late_stream.closed())[0] == 1008
    await assert_refused(line.gateway, reported, "unauthorized")


@pytest.mark.parametrize(("code", "why"), [(1011, "agent_failed"), (None, "agent_lost")])
@only["twilio"]
async def test_the_agent_is_lost_while_the_call_waits(
    line: DocumentCalls, support: Agent, code: int, why: str
) -> None:
    """One thing at a time. The carrier asks again, and gets another stream."""
    stream = await first_stream(line, support)
    await stream.is_lost()
    if code is None:
        stream.agent.reset()
    else:
        stream.agent.send(stream.agent.close_frame(code))
    await assert_ended(line.gateway, stream.session, why, "agent")
    caller = await stream.comes_again()
    await assert_another_session(stream, caller, support)


@only["twilio"]
async def test_the_longest_duration_ends_a_waiting_call(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support, "brief")
    await stream.is_lost()
    assert await stream.agent.closed() == (1000, "5 s")
    await assert_ended(line.gateway, stream.session, "max_duration", "gateway")


@only["twilio"]
async def test_the_longest_duration_counts_from_the_beginning(line: DocumentCalls, support: Agent) -> None:
    """A call does not get more time with each socket (how much: tests/media/test_relay_carrier_lost.py)."""
    stream = await first_stream(line, support, "brief")
    await stream.is_lost()
    await stream.goes_on()
    assert await stream.caller.closed() == (1000, "5 s")
    await assert_call_over(stream, "max_duration", "gateway", 1000)


@only["plivo"]
async def test_the_carrier_reports_the_end_of_a_waiting_call(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    await stream.is_lost()
    url = f"https://us-west.voice.example.com/callbacks/plivo/{stream.session}/status"
    fields = {"CallUUID": stream.placed.call_id, "CallStatus": "completed"}
    answered = await line.server.post(url, fields)
    assert answered.status == 200
    await assert_call_over(stream, "caller_hangup", "caller", 1000)


@only["plivo"]
async def test_no_stream_is_awaited_after_the_carrier_reported_the_end(
    line: DocumentCalls, support: Agent
) -> None:
    stream = await first_stream(line, support)
    url = f"https://us-west.voice.example.com/callbacks/plivo/{stream.session}/status"
    fields = {"CallUUID": stream.placed.call_id, "CallStatus": "completed"}
    assert (await line.server.post(url, fields)).status == 200
    stream.caller.reset()
    await assert_call_over(stream, "carrier_lost", "carrier", 1011)


@only["telnyx"]
async def test_no_stream_is_awaited_after_stop(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    stop = stream.caller.say(on_stream("telnyx", '{"event": "stop", "stop": {}}', "stream-1"))
    await assert_agent_heard(stream.agent, [stop])
    stream.caller.reset()
    await assert_call_over(stream, "caller_hangup", "caller", 1000)


@only["telnyx"]
async def test_a_close_frame_ends_the_call(line: DocumentCalls, support: Agent) -> None:
    stream = await first_stream(line, support)
    stream.caller.send(stream.caller.close_frame(1001))
    assert (await stream.agent.closed())[0] == 1001
    await assert_ended(line.gateway, stream.session, "caller_hangup", "caller")


@only["telnyx"]
async def test_an_agent_with_half_a_message_cannot_continue(line: DocumentCalls, support: Agent) -> None:
    """A bot on Pipecat ends a call over a message that is no JSON (docs/reference/carriers.md §8.2)."""
    stream = await first_stream(line, support)
    half = stream.caller.frame(TEXT, talk("telnyx")[0][:50].encode(), fin=False)
    stream.caller.send(half)
    await assert_agent_heard(stream.agent, [half])
    stream.caller.reset()
    await assert_call_over(stream, "carrier_lost", "carrier", 1011)


@only["plivo"]
async def test_a_draining_gateway_takes_the_next_socket_of_its_call_and_no_new_call(
    start: Callable[..., Gateway], carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    gateway = start()
    async with carrier_running(gateway, carrier_servers, carrier) as line:
        stream = await first_stream(line, agents[0])
        another = await line.place("/xml/plivo?agent=support&org=globex", proven=False)
        await stream.is_lost()
        gateway.terminate()
        await eventually(lambda: gateway.get("/readyz")[0] == 503, "it drains")
        assert (await line.dial(another.stream_url, proven=False)).refusal == (503, "draining")
        await stream.goes_on()
        await stream.both_hear()
        await stream.goes_on()  # and one whose socket is not lost
        await stream.both_hear()
        await stream.hangs_up()
        assert await gateway.ended() == 0


@only["twilio"]
async def test_a_draining_gateway_writes_the_next_document_of_its_call(
    start: Callable[..., Gateway], carrier_servers: dict[str, Server], agents: list[Agent], carrier: str
) -> None:
    gateway = start()
    async with carrier_running(gateway, carrier_servers, carrier) as line:
        stream = await first_stream(line, agents[0])
        await stream.is_lost()
        gateway.terminate()
        await eventually(lambda: gateway.get("/readyz")[0] == 503, "it drains")
        await stream.goes_on()
        await stream.both_hear()
        await stream.hangs_up()
        assert await gateway.ended() == 0
