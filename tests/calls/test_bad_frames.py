# SPDX-License-Identifier: BSD-2-Clause
"""Frames that break RFC 6455 in the middle of a call: who sent them is told, and nothing of them passes.

The agent has one place, so each test shows that the one before has given it back.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.accelerator_modes import accelerator  # noqa: F401 - a fixture
from tests.harness.agent import Agent
from tests.harness.call_assertions import assert_caller_heard, assert_ended, connect
from tests.harness.frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import replies, talk
from tests.harness.websocket_peer import WebSocketPeer

MAX_MESSAGE_BYTES = 100_000
LARGE = b"x" * 60_000


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"limits": {"max_message_bytes": MAX_MESSAGE_BYTES, "close_timeout": 0.3}}


def violations(key: bytes | None, wrong: bytes | None) -> dict[str, tuple[bytes, bytes, int]]:
    """For a sender that masks with `key`: what may pass of it, what breaks the protocol, the close code."""
    begun = frame(TEXT, b"begun", key=key, fin=False)
    return {
        "masked as the other side is": (b"", frame(TEXT, b"sound", key=wrong), 1002),
        "reserved bit 1": (b"", frame(TEXT, b"{}", key=key, reserved=0x40), 1002),
        "reserved bit 2": (b"", frame(BINARY, b"{}", key=key, reserved=0x20), 1002),
        "reserved bit 3": (b"", frame(TEXT, LARGE, key=key, reserved=0x10), 1002),
        "opcode 3": (b"", frame(0x3, b"{}", key=key), 1002),
        "opcode 7": (b"", frame(0x7, b"{}", key=key), 1002),
        "opcode 11": (b"", frame(0xB, b"{}", key=key), 1002),
        "opcode 15": (b"", frame(0xF, b"{}", key=key), 1002),
        "a fragmented ping": (b"", frame(PING, b"x", key=key, fin=False), 1002),
        "a fragmented pong": (b"", frame(PONG, b"x", key=key, fin=False), 1002),
        "a fragmented close": (b"", frame(CLOSE, b"\x03\xe8", key=key, fin=False), 1002),
        "a long ping": (b"", frame(PING, b"x" * 126, key=key), 1002),
        "a long close": (b"", frame(CLOSE, b"\x03\xe8" + b"x" * 124, key=key), 1002),
        "a continuation of nothing": (b"", frame(CONTINUATION, b"goes on", key=key), 1002),
        "text inside a message": (begun, frame(TEXT, b"another", key=key), 1002),
        "binary inside a message": (begun, frame(BINARY, b"another", key=key, fin=False), 1002),
        "too large": (b"", frame(TEXT, b"x" * (MAX_MESSAGE_BYTES + 1), key=key), 1009),
        "too large in fragments": (
            frame(TEXT, LARGE, key=key, fin=False),
            frame(CONTINUATION, LARGE, key=key),
            1009,
        ),
    }


NAMES = list(violations(KEY, None))


async def _heard_to_the_end(peer: WebSocketPeer) -> bytes:
    """Every byte but the close frame's."""
    last = b""
    while (received := await peer.next()) is not None:
        if received.opcode == CLOSE:
            assert not last, "one close frame, and nothing behind it"
            last = received.raw
            peer.send(peer.frame(CLOSE, received.payload[:2]))
    assert last, "it was told nothing"
    return peer.heard.removesuffix(last)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_one_piece", [True, False])
async def test_the_carrier_breaks_the_protocol(
    gateway: Gateway, support: Agent, name: str, in_one_piece: bool
) -> None:
    passes, bad, code = violations(KEY, None)[name]
    call = await connect(gateway, support)
    good = frame(TEXT, talk("twilio")[0].encode(), key=KEY)
    received = b"".join(call.opening) + good + passes
    if in_one_piece:
        call.caller.send(good + passes + bad + good)
    else:
        await call.caller.pour(good + passes)
        assert await call.agent.hear_bytes(len(received)) == received
        await call.caller.pour(bad)
    assert (await call.caller.closed())[0] == code
    assert await _heard_to_the_end(call.agent) == received
    reason = "too_large" if code == 1009 else "carrier_protocol_error"
    await assert_ended(gateway, call.session, reason, "tenant" if code == 1009 else "carrier")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_one_piece", [True, False])
async def test_the_agent_breaks_the_protocol(
    gateway: Gateway, support: Agent, name: str, in_one_piece: bool
) -> None:
    passes, bad, code = violations(None, KEY)[name]
    call = await connect(gateway, support)
    good = frame(TEXT, replies("twilio")[0].encode())
    received = good + passes
    if in_one_piece:
        call.agent.send(received + bad + good)
    else:
        await call.agent.pour(received)
        assert await call.caller.hear_bytes(len(received)) == received
        await call.agent.pour(bad)
    assert (await call.agent.closed())[0] == code
    assert await _heard_to_the_end(call.caller) == received
    assert call.caller.heard[len(received) :][2:4] == (1011).to_bytes(2, "big")
    await assert_ended(gateway, call.session, "agent_protocol_error", "agent")


async def test_a_bad_frame_of_the_carrier_while_the_agent_is_inside_a_frame(
    gateway: Gateway, support: Agent
) -> None:
    """The caller has half of the agent's frame, so no close frame may follow it; its socket just ends."""
    call = await connect(gateway, support)
    first = call.agent.say(replies("twilio")[0])
    await assert_caller_heard(call.caller, [first])
    half = call.agent.frame(TEXT, LARGE)[:40_000]
    await call.agent.pour(half)
    assert await call.caller.hear_bytes(len(first + half)) == first + half
    call.caller.send(frame(0x3, b"", key=KEY))
    assert await call.caller.ended() == first + half
    assert (await call.agent.closed())[0] == 1011
    await assert_ended(gateway, call.session, "carrier_protocol_error", "carrier")


async def test_a_close_before_a_bad_frame_ends_the_call(gateway: Gateway, support: Agent) -> None:
    """What follows a close is void (RFC 6455 §5.5.1), however bad it is."""
    call = await connect(gateway, support)
    call.caller.send(call.caller.close_frame(1000, "bye") + frame(0x3, b"junk", key=KEY))
    assert await call.agent.closed() == (1000, "bye")
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
