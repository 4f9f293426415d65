# SPDX-License-Identifier: BSD-2-Clause
"""Every byte of every message arrives unchanged and in order, in both directions."""

from __future__ import annotations

import os

import pytest

from tests.harness.accelerator_modes import accelerator  # noqa: F401 - a fixture
from tests.harness.agent import Agent, AgentCall, upgrade_response
from tests.harness.call_assertions import (
    Call,
    assert_agent_heard,
    assert_caller_heard,
    assert_ended,
    connect,
    hang_up,
)
from tests.harness.frames import BINARY, CONTINUATION, PING, PONG, TEXT, frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, opening, replies, talk

MAX_MESSAGE_BYTES = 1048576


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_carriers_call_arrives_as_it_was_sent(gateway: Gateway, support: Agent, carrier: str) -> None:
    call = await connect(gateway, support, f"/ws/{carrier}/support.acme")
    assert call.agent.headers["x-daily-session-id"] == gateway.sessions()[-1]["id"]
    assert call.agent.path == "/ws"

    await assert_agent_heard(call.agent, [call.caller.say(message) for message in talk(carrier)])
    await assert_caller_heard(call.caller, [call.agent.say(message) for message in replies(carrier)])
    both = list(zip(talk(carrier), replies(carrier), strict=False))  # at the same time
    spoken = [(call.caller.say(caller), call.agent.say(agent)) for caller, agent in both]
    await assert_agent_heard(call.agent, [caller for caller, _ in spoken])
    await assert_caller_heard(call.caller, [agent for _, agent in spoken])

    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_what_follows_the_opening_at_once_is_buffered_for_the_agent(
    gateway: Gateway, support: Agent, carrier: str
) -> None:
    caller = await gateway.dial(f"/ws/{carrier}/support.acme")
    said = [*opening(carrier), *talk(carrier)]
    frames = [caller.frame(TEXT, text.encode()) for text in said]
    caller.send(b"".join(frames))  # in one piece
    taken = await support.call()
    await assert_agent_heard(taken, frames)
    await hang_up(Call(caller, taken, frames))


async def test_an_agent_that_speaks_first_is_heard(gateway: Gateway, support: Agent) -> None:
    # Its greeting is in the same packet as its 101.
    greeting = [frame(TEXT, text.encode()) for text in replies("twilio")]

    async def greets(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call) + b"".join(greeting))
        agent.calls.put_nowait(call)

    support.answer = greets
    call = await connect(gateway, support)
    await assert_caller_heard(call.caller, greeting)
    await hang_up(call)
    record = await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert record["first_agent_sound_at"] is not None


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_generic_carries_text_and_binary(gateway: Gateway, support: Agent, opcode: int) -> None:
    call = await connect(gateway, support, "/ws/generic/support.acme")
    for size in (0, 1, 125, 126, 127, 65535, 65536, 200_000, MAX_MESSAGE_BYTES):
        payload = b"x" * size if opcode == TEXT else os.urandom(size)
        up, down = call.caller.frame(opcode, payload), call.agent.frame(opcode, payload)
        await call.caller.pour(up)
        await assert_agent_heard(call.agent, [up])
        await call.agent.pour(down)
        await assert_caller_heard(call.caller, [down])
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_frames_of_every_form_pass_unchanged(gateway: Gateway, support: Agent) -> None:
    """Odd lengths, keys and fragments, control frames between fragments: none of it is written anew."""
    call = await connect(gateway, support)

    def said(key: bytes | None) -> list[bytes]:
        return [
            frame(TEXT, b'{"event":"media"}', key=key),
            frame(TEXT, b"x" * 30, key=key, wide=8),  # longer than need be
            frame(TEXT, b"y" * 30, key=key, wide=2),
            frame(TEXT, b"begins ", key=key, fin=False),
            frame(PING, b"are you there", key=key),
            frame(CONTINUATION, b"goes on ", key=key, fin=False),
            frame(PONG, b"unasked", key=key),
            frame(CONTINUATION, b"ends", key=key),
            frame(BINARY, b"", key=key),
            frame(PING, b"", key=key),
            frame(TEXT, b"z" * 70_000, key=key),
        ]

    up, down = said(b"\0\0\0\0"), said(None)
    call.caller.send(b"".join(up))
    call.agent.send(b"".join(down))
    await assert_agent_heard(call.agent, up)
    await assert_caller_heard(call.caller, down)
    await hang_up(call)


async def test_a_stream_cut_anywhere_arrives_whole(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    frames = [call.caller.frame(TEXT, message.encode()) for message in talk("twilio")]
    stream = b"".join(frames)
    for at in range(0, len(stream), 61):
        await call.caller.pour(stream[at : at + 61])
    await assert_agent_heard(call.agent, frames)
    await hang_up(call)


async def test_an_opening_in_fragments_reaches_the_agent_in_the_same_fragments(
    gateway: Gateway, support: Agent
) -> None:
    caller = await gateway.dial("/ws/twilio/support.acme")
    connected, start = (message.encode() for message in opening("twilio"))
    frames = [
        caller.frame(TEXT, connected),
        caller.frame(TEXT, start[:10], fin=False),
        caller.frame(CONTINUATION, start[10:50], fin=False),
        caller.frame(CONTINUATION, start[50:]),
    ]
    ping = caller.frame(PING, b"between")
    caller.send(b"".join([*frames[:2], ping, *frames[2:]]))
    taken = await support.call()
    await assert_agent_heard(taken, frames)  # the ping was for us
    pong = await caller.hear()
    assert (pong.opcode, pong.payload, pong.masked) == (PONG, b"between", False)
    await hang_up(Call(caller, taken, frames))


async def test_pings_reach_the_far_end_which_answers_them(gateway: Gateway, support: Agent) -> None:
    call = await connect(gateway, support)
    call.caller.send(call.caller.frame(PING, b"carrier"))
    await call.agent.answer_ping()
    pong = await call.caller.hear()
    assert (pong.opcode, pong.payload, pong.masked) == (PONG, b"carrier", False)
    call.agent.send(call.agent.frame(PING, b"agent"))
    await call.caller.answer_ping()
    pong = await call.agent.hear()
    assert (pong.opcode, pong.payload, pong.masked) == (PONG, b"agent", True)
    await hang_up(call)


async def test_each_call_has_its_own_session_id(gateway: Gateway, support: Agent) -> None:
    ids = set()
    for _ in range(3):
        call = await connect(gateway, support)
        ids.add(call.session)
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")
    assert len(ids) == 3
