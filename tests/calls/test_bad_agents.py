# SPDX-License-Identifier: BSD-2-Clause
"""Agents that refuse, break or leave at once: the caller is closed, the slot freed, the next call works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import (
    Agent,
    AgentCall,
    AgentPort,
    Answer,
    accepts,
    answers,
    half_closes,
    hangs,
    resets,
    upgrade_response,
    waits_for,
)
from tests.harness.call_assertions import (
    assert_end_logged,
    assert_ended,
    assert_next_call_works,
    connect,
    hang_up,
)
from tests.harness.caller import Caller
from tests.harness.frames import TEXT, close_frame, frame
from tests.harness.gateway import Gateway, ends_after
from tests.harness.transcripts import opening

TEN_KILOBYTES_OF_HEADERS = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 90) for number in range(100))


def head(status: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + more + b"\r\n"


BAD_ANSWERS: dict[str, Answer] = {
    "resets": resets,
    "closes": half_closes,
    "200": answers(head(b"200 OK", b"Content-Length: 2\r\n") + b"ok"),
    "302": answers(head(b"302 Found", b"Location: ws://127.0.0.1:1/\r\n")),
    "401": answers(head(b"401 Unauthorized")),
    "403": answers(head(b"403 Forbidden")),
    "404": answers(head(b"404 Not Found")),
    "426": answers(head(b"426 Upgrade Required")),
    "500": answers(head(b"500 Internal Server Error", b"Content-Length: 5\r\n") + b"sorry"),
    "503 and a close": answers(head(b"503 Service Unavailable"), then="close"),
    "101 without a key": answers(head(b"101 Yes", b"Upgrade: websocket\r\nConnection: Upgrade\r\n")),
    "101 with a wrong key": answers(
        head(b"101 Yes", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: bm8=\r\n")
    ),
    "101 to something else": answers(head(b"101 Yes", b"Upgrade: h2c\r\nConnection: Upgrade\r\n")),
    "half an answer": answers(b"HTTP/1.1 101 Swit", then="close"),
    "no HTTP": answers(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "HTTP/1.0": answers(b"HTTP/1.0 101 Yes\r\n\r\n"),
    "no status": answers(b"HTTP/1.1\r\n\r\n"),
    "a status that is no number": answers(b"HTTP/1.1 OK OK\r\n\r\n"),
    "bytes that are no text": answers(b"HTTP/1.1 101 \xff\xfe\r\nX: \x00\r\n\r\n"),
    "a head without end": answers(b"HTTP/1.1 101 Yes\r\n" + TEN_KILOBYTES_OF_HEADERS * 10),
}


async def _compression(agent: Agent, call: AgentCall) -> None:
    extended = b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    call.send(upgrade_response(call).removesuffix(b"\r\n\r\n") + extended)


BAD_ANSWERS["101 with compression"] = _compression


async def refused_twilio(gateway: Gateway) -> Caller:
    caller = await gateway.dial("/ws/twilio/support.acme")
    assert caller.status == 101
    for message in opening("twilio"):
        caller.say(message)
    return caller


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_agent_that_does_not_accept(gateway: Gateway, support: Agent, answer: Answer) -> None:
    support.answer = answer
    before = len(gateway.ends())
    caller = await refused_twilio(gateway)
    code, detail = await caller.closed()
    assert (code, bool(detail)) == (1011, True)
    line = await assert_end_logged(gateway, before, "agent_unreachable")
    assert line["event"] == "call not begun"
    record = await assert_ended(gateway, line["session"], "agent_unreachable", "agent")
    assert (record["state"], record["started_at"]) == ("failed", None)

    before = len(gateway.ends())
    caller = await gateway.dial("/ws/generic/support.acme")
    assert caller.refusal == (502, "agent_unreachable")
    await assert_end_logged(gateway, before, "agent_unreachable")

    support.answer = accepts
    await assert_next_call_works(gateway, support)


async def test_no_process_listens_at_the_instance(
    gateway: Gateway, agent_at: Callable[..., Any], support_port: AgentPort
) -> None:
    before = len(gateway.ends())
    caller = await refused_twilio(gateway)
    code, detail = await caller.closed()
    assert (code, "refused" in detail) == (1011, True)
    await assert_end_logged(gateway, before, "agent_unreachable")
    caller = await gateway.dial("/ws/generic/support.acme")
    assert caller.refusal == (502, "agent_unreachable")
    await eventually(lambda: len(gateway.ends()) == before + 2, "the second refusal is told")
    await assert_next_call_works(gateway, await agent_at(support_port))


# An agent that leaves at once, with its 101 or right behind it


def accepts_then(last: bytes) -> Answer:
    async def answer(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call) + last)
        agent.calls.put_nowait(call)

    return answer


@pytest.mark.parametrize("target", ["/ws/twilio/support.acme", "/ws/generic/support.acme"])
@pytest.mark.parametrize(
    ("code", "reason", "why"),
    [
        (1000, "no bot today", "agent_ended"),
        (1011, "broken", "agent_failed"),
        (4003, "token", "agent_failed"),
    ],
)
async def test_an_agent_that_accepts_and_closes(
    gateway: Gateway, support: Agent, target: str, code: int, reason: str, why: str
) -> None:
    """Its code and reason are the caller's, however early they come (docs/reference/agent-container.md:
    4003).
    """
    support.answer = accepts_then(close_frame(code, reason))
    before = len(gateway.ends())
    if "twilio" in target:
        caller = await refused_twilio(gateway)
        assert await caller.closed() == (code, reason)
    else:
        caller = await gateway.dial(target)
        assert caller.status == 101  # as the agent said
        assert await caller.closed() == (code, reason)
    line = await assert_end_logged(gateway, before, why)
    await assert_ended(gateway, line["session"], why, "agent")
    support.answer = accepts
    await support.call()
    await assert_next_call_works(gateway, support)


async def test_an_agent_that_accepts_and_breaks_the_protocol(gateway: Gateway, support: Agent) -> None:
    support.answer = accepts_then(frame(TEXT, b"{}", key=b"abcd"))
    before = len(gateway.ends())
    caller = await refused_twilio(gateway)
    assert (await caller.closed())[0] == 1011
    taken = await support.call()
    assert (await taken.closed())[0] == 1002
    line = await assert_end_logged(gateway, before, "agent_protocol_error")
    await assert_ended(gateway, line["session"], "agent_protocol_error", "agent")


# The caller leaves while the agent is being connected


TWILIO, GENERIC = "/ws/twilio/support.acme", "/ws/generic/support.acme"


@pytest.mark.parametrize(
    ("target", "how", "why", "side"),
    [
        (TWILIO, "hang_up", "caller_hangup", "caller"),  # before its 101 a generic caller cannot
        *(
            (target, how, "carrier_lost", "carrier")
            for target in (TWILIO, GENERIC)
            for how in ("reset", "half_close")
        ),
    ],
)
async def test_the_caller_hangs_up_while_the_agent_does_not_answer(
    gateway: Gateway, support: Agent, target: str, how: str, why: str, side: str
) -> None:
    support.answer = hangs
    dialling = None
    if "twilio" in target:
        caller = await refused_twilio(gateway)
    else:
        dialling = asyncio.create_task(gateway.dial(target))
        await eventually(lambda: gateway.callers, "the caller dials")
        caller = gateway.callers[-1]
    offered = await support.next_other_call()
    if how == "hang_up":
        await caller.hang_up()
    else:
        getattr(caller, how)()
    assert await offered.ended() == b"", "the agent is not left with half a handshake"
    await assert_ended(gateway, offered.session, why, side)
    if dialling is not None:
        assert (await dialling).status == 0
    support.answer = accepts
    await assert_next_call_works(gateway, support)


@pytest.mark.parametrize("code", [1000, 4001])
async def test_a_generic_client_that_closes_before_its_101(
    gateway: Gateway, support: Agent, code: int
) -> None:
    """It should not (RFC 6455 §4.1), but a close is a close: its code is the agent's."""
    may_accept = asyncio.Event()
    support.answer = waits_for(may_accept)
    dialling = asyncio.create_task(gateway.dial("/ws/generic/support.acme"))
    offered = await support.next_other_call()
    gateway.callers[-1].send(gateway.callers[-1].close_frame(code, "never mind"))
    # The gateway has read the close once it has answered something that was sent behind it.
    assert gateway.get("/livez")[0] == 200
    may_accept.set()
    caller = await dialling
    assert caller.status == 101
    assert (await caller.closed())[0] == code
    assert await offered.closed() == (code, "never mind")
    await assert_ended(
        gateway,
        offered.session,
        *(("caller_hangup", "caller") if code == 1000 else ("carrier_lost", "carrier")),
    )


async def test_what_a_generic_client_sends_before_its_101_is_buffered(
    gateway: Gateway, support: Agent
) -> None:
    may_accept = asyncio.Event()
    support.answer = waits_for(may_accept)
    dialling = asyncio.create_task(gateway.dial("/ws/generic/support.acme"))
    await support.next_other_call()
    early = gateway.callers[-1].say("can you hear me?")
    assert gateway.get("/livez")[0] == 200
    may_accept.set()
    caller = await dialling
    taken = await support.call()
    assert await taken.hear_bytes(len(early)) == early
    caller.send(caller.close_frame(1000))
    received = await taken.next()
    assert received is not None
    assert received.raw == early
    assert await taken.closed() == (1000, "")


# Both at once


@pytest.mark.parametrize("how", ["hang_up", "reset"])
async def test_the_caller_hangs_up_as_the_agent_fails(gateway: Gateway, support: Agent, how: str) -> None:
    """Whichever is noticed first is the one reason, and the place is free."""
    for _ in range(10):
        support.answer = hangs
        before = len(gateway.ends())
        caller = await refused_twilio(gateway)
        offered = await support.next_other_call()
        offered.reset()
        if how == "hang_up":
            caller.send(caller.close_frame(1000))
        else:
            caller.reset()
        (line,) = await eventually(ends_after(gateway, before), "the call ends")
        assert line["reason"] in ("agent_unreachable", "caller_hangup", "carrier_lost")
        await assert_ended(gateway, offered.session, line["reason"], line["side"])
    support.answer = accepts
    await assert_next_call_works(gateway, support)


async def test_a_bad_frame_as_the_agent_refuses(gateway: Gateway, support: Agent) -> None:
    for _ in range(10):
        support.answer = hangs
        before = len(gateway.ends())
        caller = await refused_twilio(gateway)
        offered = await support.next_other_call()
        caller.send(frame(0x3, b"?", key=b"abcd"))
        offered.send(head(b"500 Internal Server Error"))
        code, _ = await caller.closed()
        (line,) = await eventually(ends_after(gateway, before), "the call ends")
        assert line["reason"] in ("agent_unreachable", "carrier_protocol_error")
        assert code in (1011, 1002)
        await assert_ended(gateway, offered.session, line["reason"], line["side"])


async def test_the_agent_gets_the_session_header_and_none_of_the_carriers(
    gateway: Gateway, support: Agent
) -> None:
    """The agent gets a request of ours, not a copy of the carrier's."""
    call = await connect(
        gateway, support, headers={"Authorization": "Basic c2VjcmV0", "X-Twilio-Signature": "sig"}
    )
    assert call.agent.headers.keys() <= {
        "host",
        "upgrade",
        "connection",
        "sec-websocket-key",
        "sec-websocket-version",
        "x-daily-session-id",
        "user-agent",
    }
    await hang_up(call)
