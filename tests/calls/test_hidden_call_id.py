# SPDX-License-Identifier: BSD-2-Clause
"""The opening of agents that must not know their call id."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.calls.bridge import hide_call_id
from gateway.media.leg import Leg
from serializers.registry import DIALECTS
from tests.harness.frames import BINARY, CONTINUATION, TEXT, split
from tests.harness.transcripts import CARRIERS, IDS, opening, talk
from tests.harness.websocket_peer import WebSocketPeer

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@dataclass
class Line:
    """A carrier's leg, and the carrier."""

    leg: Leg
    carrier: WebSocketPeer

    async def hears(self, raw: bytes, messages: int) -> None:
        await self.carrier.pour(raw)
        for _ in range(messages):
            await self.leg.receive()
        self.leg.buffer_messages(1 << 20)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    leg = Leg(
        transport,
        client=False,
        max_opening_bytes=1 << 16,
        max_buffered_bytes=1 << 16,
        on_disconnect=lambda _: None,
    )
    carrier = WebSocketPeer(*await asyncio.open_connection(sock=theirs), masks=True)
    yield Line(leg, carrier)
    transport.abort()
    await carrier.leave()


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_agent_sees_the_session_id_in_place_of_the_call_id(line: Line, carrier: str) -> None:
    spoken = opening(carrier, {"note": "grüße"})
    raw = [line.carrier.frame(TEXT, text.encode()) for text in spoken]
    early = line.carrier.frame(TEXT, talk(carrier)[0].encode())
    await line.hears(b"".join(raw) + early, len(raw))
    await asyncio.sleep(0)
    hide_call_id(line.leg, DIALECTS[carrier], IDS[carrier][0], SESSION)
    reported = line.leg.take_buffered()
    frames, rest = split(reported)
    assert rest == b""
    expected = [json.loads(text.replace(IDS[carrier][0], SESSION)) for text in spoken]
    assert [json.loads(frame.payload) for frame in frames[: len(spoken)]] == expected
    assert IDS[carrier][0].encode() not in b"".join(frame.payload for frame in frames[: len(spoken)])
    assert reported.startswith(b"".join(raw[:-1]))  # what is not `start` is as it came


async def test_a_start_in_fragments(line: Line) -> None:
    connected, start = opening("twilio")
    half = len(start) // 2
    raw = (
        line.carrier.frame(TEXT, connected.encode())
        + line.carrier.frame(TEXT, start[:half].encode(), fin=False)
        + line.carrier.frame(CONTINUATION, start[half:].encode())
    )
    await line.hears(raw, 2)
    hide_call_id(line.leg, DIALECTS["twilio"], IDS["twilio"][0], SESSION)
    frames, _ = split(line.leg.take_buffered())
    assert [frame.opcode for frame in frames] == [TEXT, TEXT]
    assert json.loads(frames[1].payload)["start"]["callSid"] == SESSION


async def test_without_a_start_nothing_is_changed(line: Line) -> None:
    raw = line.carrier.frame(TEXT, b'{"event": "connected"}') + line.carrier.frame(BINARY, b"{")
    await line.hears(raw, 2)
    hide_call_id(line.leg, DIALECTS["twilio"], "CA1", SESSION)
    assert line.leg.take_buffered() == raw
