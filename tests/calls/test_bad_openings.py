# SPDX-License-Identifier: BSD-2-Clause
"""Streams that do not open as the carrier's documents say: a close code, one log line, no session."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.agent import Agent
from tests.harness.call_assertions import assert_next_call_works, assert_refused
from tests.harness.caller import Caller
from tests.harness.frames import BINARY, CLOSE, CONTINUATION, KEY, PING, TEXT, close_frame, frame
from tests.harness.gateway import Gateway
from tests.harness.transcripts import CARRIERS, opening, opening_messages, stop, talk

MAX_OPENING_BYTES = 4096


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"limits": {"max_opening_bytes": MAX_OPENING_BYTES, "start_timeout": 60}}


def text(message: str) -> bytes:
    return frame(TEXT, message.encode(), key=KEY)


CONNECTED, START = opening("twilio")
UNENDED = json.dumps({"event": "connected", "x": "x" * MAX_OPENING_BYTES})
BAD_OPENINGS: dict[str, list[bytes]] = {
    "no JSON": [text("hello?")],
    "an empty message": [text("")],
    "half a JSON object": [text(CONNECTED[:-1])],
    "a list": [text("[1]")],
    "a number": [text("7")],
    "null": [text("null")],
    "no event": [text("{}")],
    "an event that is no text": [text('{"event": 7}')],
    "a key twice": [text('{"event":"connected","event":"start"}')],
    "nested without end": [text("[" * 3000)],
    "binary": [frame(BINARY, CONNECTED.encode(), key=KEY)],
    "binary start": [text(CONNECTED), frame(BINARY, START.encode(), key=KEY)],
    "stop first": [text(stop("twilio"))],
    "stop after sound": [text(CONNECTED), text(talk("twilio")[0]), text(stop("twilio"))],
    "binary after sound": [text(talk("twilio")[0]), frame(BINARY, START.encode(), key=KEY)],
    "a bad start after sound": [text(talk("twilio")[0]), text('{"event":"start"}')],
    "a start that says nothing": [text(CONNECTED), text('{"event":"start"}')],
    "a start that is no object": [text(CONNECTED), text('{"event":"start","start":[]}')],
}


async def assert_closed_for(
    gateway: Gateway, support: Agent, caller: Caller, before: int, reason: str, code: int
) -> None:
    received, detail = await caller.closed()
    assert (received, bool(detail)) == (code, True)
    assert await caller.next() is None
    await assert_refused(gateway, before, reason)
    assert support.upgrades == 0
    await assert_next_call_works(gateway, support)


@pytest.mark.parametrize("sent", BAD_OPENINGS.values(), ids=BAD_OPENINGS)
async def test_a_bad_opening(gateway: Gateway, support: Agent, sent: list[bytes]) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    for raw in sent:
        caller.send(raw)
    await assert_closed_for(gateway, support, caller, before, "bad_opening", 1008)


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def remove(start: dict[str, Any]) -> None:
        for key in path[:-1]:
            start = start[key]
        start.pop(path[-1], None)

    return remove


@pytest.mark.parametrize(
    ("carrier", "missing"),
    [
        ("twilio", [("start", "callSid")]),
        ("twilio", [("start", "streamSid"), ("streamSid",)]),
        ("telnyx", [("start", "call_control_id")]),
        ("plivo", [("start", "callId")]),
        ("plivo", [("start", "streamId")]),
        ("exotel", [("start", "call_sid")]),
        ("exotel", [("start", "stream_sid"), ("stream_sid",)]),
    ],
    ids=str,
)
async def test_a_start_without_its_ids(
    gateway: Gateway, support: Agent, carrier: str, missing: list[tuple[str, ...]]
) -> None:
    *first, start = opening_messages(carrier)
    for path in missing:
        _without(*path)(start)
    before = len(gateway.ends())
    caller = await gateway.dial(f"/ws/{carrier}/support.acme")
    for message in [*first, start]:
        caller.say(json.dumps(message))
    await assert_closed_for(gateway, support, caller, before, "bad_opening", 1008)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_another_carriers_opening(gateway: Gateway, support: Agent, carrier: str) -> None:
    other = CARRIERS[CARRIERS.index(carrier) - 1]
    before = len(gateway.ends())
    caller = await gateway.dial(f"/ws/{carrier}/support.acme")
    for message in opening(other):
        caller.say(message)
    await assert_closed_for(gateway, support, caller, before, "bad_opening", 1008)


TOO_LARGE: dict[str, list[bytes]] = {
    "one message": [text(UNENDED)],
    "one message, half of it sent": [text(UNENDED)[:2000]],
    "the two together": [
        text(CONNECTED),
        text(START[:-1] + " " * (MAX_OPENING_BYTES - len(START) - len(CONNECTED)) + "}"),
    ],
    "fragments": [
        frame(TEXT, b"x" * 2000, key=KEY, fin=False),
        frame(CONTINUATION, b"x" * 2000, key=KEY, fin=False),
        frame(CONTINUATION, b"x" * 2000, key=KEY, fin=False),
    ],
    "sound without end": [text(CONNECTED), *[text(talk("twilio")[0])] * 50],
    "very many fragments": [frame(TEXT, b"{", key=KEY, fin=False)]
    + [frame(CONTINUATION, b"", key=KEY, fin=False)] * 1000,
}


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_an_opening_that_is_too_large(gateway: Gateway, support: Agent, sent: list[bytes]) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    caller.send(b"".join(sent))
    await assert_closed_for(gateway, support, caller, before, "too_large", 1009)


async def test_a_text_message_that_is_not_utf_8(gateway: Gateway, support: Agent) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    caller.send(frame(TEXT, b'{"event":"\xff"}', key=KEY))
    await assert_closed_for(gateway, support, caller, before, "carrier_protocol_error", 1007)


BEHIND = (b"", text(CONNECTED), text(START)[:50])

BAD_FRAMES: dict[str, bytes] = {
    "unmasked": frame(TEXT, CONNECTED.encode()),
    "reserved bit 1": frame(TEXT, b"{}", key=KEY, reserved=0x40),
    "reserved bit 2": frame(TEXT, b"{}", key=KEY, reserved=0x20),
    "reserved bit 3": frame(TEXT, b"{}", key=KEY, reserved=0x10),
    "opcode 3": frame(0x3, b"{}", key=KEY),
    "opcode 11": frame(0xB, b"{}", key=KEY),
    "a fragmented ping": frame(PING, b"", key=KEY, fin=False),
    "a fragmented close": frame(CLOSE, b"", key=KEY, fin=False),
    "a long ping": frame(PING, b"x" * 126, key=KEY),
    "a continuation of nothing": frame(CONTINUATION, b"{}", key=KEY),
    "text inside a message": frame(TEXT, b"{", key=KEY, fin=False) + text("{}"),
    "an illegal close code": close_frame(1005, key=KEY),
    "half a close code": frame(CLOSE, b"\x03", key=KEY),
}


@pytest.mark.parametrize("raw", BAD_FRAMES.values(), ids=BAD_FRAMES)
@pytest.mark.parametrize("behind", [b"", text(CONNECTED)], ids=["at once", "behind connected"])
async def test_a_bad_frame(gateway: Gateway, support: Agent, raw: bytes, behind: bytes) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    caller.send(behind + raw)
    await assert_closed_for(gateway, support, caller, before, "carrier_protocol_error", 1002)


@pytest.mark.parametrize(
    ("how", "behind", "reason"),
    [
        *(("hang_up", behind, "caller_hangup") for behind in BEHIND[:2]),  # no close stands inside a frame
        *(("reset", behind, "carrier_lost") for behind in BEHIND),
        *(("half_close", behind, "carrier_lost") for behind in BEHIND),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, bytes) else value,
)
async def test_the_caller_leaves_before_the_call_is_open(
    gateway: Gateway, support: Agent, behind: bytes, how: str, reason: str
) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    await caller.pour(behind)
    if how == "hang_up":
        assert (await caller.hang_up(1000))[0] == 1000
    else:
        getattr(caller, how)()
    await assert_refused(gateway, before, reason)
    await assert_next_call_works(gateway, support)


async def test_a_close_without_a_code_before_the_call_is_open(gateway: Gateway, support: Agent) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    caller.send(frame(CLOSE, b"", key=KEY))
    assert (await caller.closed())[0] == 1000
    await assert_refused(gateway, before, "caller_hangup")


async def test_the_call_names_no_agent(gateway: Gateway, support: Agent) -> None:
    """Without a number that anybody is called by, it is a request that makes no sense."""
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio")
    for message in opening("twilio"):
        caller.say(message)
    await assert_closed_for(gateway, support, caller, before, "bad_request", 1008)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_no_agent_has_the_called_number(gateway: Gateway, support: Agent, carrier: str) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial(f"/ws/{carrier}")
    for message in opening(carrier, to_number="+14155559999"):
        caller.say(message)
    await assert_closed_for(gateway, support, caller, before, "unknown_agent", 1008)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_parameter_names_an_unknown_agent(gateway: Gateway, support: Agent, carrier: str) -> None:
    before = len(gateway.ends())
    caller = await gateway.dial(f"/ws/{carrier}")
    for message in opening(carrier, {"serviceHost": "nobody.acme"}):
        caller.say(message)
    await assert_closed_for(gateway, support, caller, before, "unknown_agent", 1008)


async def test_a_parameter_that_is_no_service_host(gateway: Gateway, support: Agent) -> None:
    """Whatever a carrier's parameter holds, it neither breaks the log nor the close frame."""
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio")
    for message in opening("twilio", {"serviceHost": "\u0000\n" + "é" * 500}):
        caller.say(message)
    await assert_closed_for(gateway, support, caller, before, "unknown_agent", 1008)


@pytest.mark.parametrize("key", ["callSid", "streamSid", "accountSid"])
@pytest.mark.parametrize("value", ["C" * 257, "CA1 CA2", "CA1\r\nCA2", "CA\u00e9"], ids=ascii)
async def test_an_id_that_no_carrier_sends(gateway: Gateway, support: Agent, key: str, value: str) -> None:
    """Ids are stored, logged, and part of URLs at the carrier."""
    connected, start = opening_messages("twilio")
    start["start"][key] = value
    if key == "streamSid":
        start[key] = value
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in (connected, start):
        caller.say(json.dumps(message))
    await assert_closed_for(gateway, support, caller, before, "bad_opening", 1008)
    assert value not in str(gateway.ends()[before:])
