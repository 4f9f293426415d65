# SPDX-License-Identifier: BSD-2-Clause
"""The opening for agents that get the session id in place of the carrier's call id."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.calls.hidden_call_id import hide_call_id
from gateway.media.leg import Leg
from serializers.registry import DIALECTS
from tests.harness.frames import BINARY, CONTINUATION, TEXT, split
from tests.harness.transcripts import CARRIERS, IDS, opening, talk
from tests.harness.websocket_peer import WebSocketPeer

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@dataclass
class CarrierLeg:
    """A carrier's leg, and the carrier at its other end."""

    leg: Leg
    carrier: WebSocketPeer

    async def receive(self, raw: bytes, messages: int) -> None:
        await self.carrier.pour(raw)
        for _ in range(messages):
            await self.leg.receive()
        self.leg.buffer_messages(1 << 20)


@pytest.fixture
async def carrier_leg() -> AsyncIterator[CarrierLeg]:
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
    yield CarrierLeg(leg, carrier)
    transport.abort()
    await carrier.leave()


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_opening_has_the_session_id_in_place_of_the_call_id(
    carrier_leg: CarrierLeg, carrier: str
) -> None:
    messages = opening(carrier, {"note": "grüße"})
    raw = [carrier_leg.carrier.frame(TEXT, text.encode()) for text in messages]
    early = carrier_leg.carrier.frame(TEXT, talk(carrier)[0].encode())
    await carrier_leg.receive(b"".join(raw) + early, len(raw))
    await asyncio.sleep(0)
    hide_call_id(carrier_leg.leg, DIALECTS[carrier], IDS[carrier][0], SESSION)
    rewritten = carrier_leg.leg.take_buffered()
    frames, rest = split(rewritten)
    assert rest == b""
    expected = [json.loads(text.replace(IDS[carrier][0], SESSION)) for text in messages]
    assert [json.loads(frame.payload) for frame in frames[: len(messages)]] == expected
    assert IDS[carrier][0].encode() not in b"".join(frame.payload for frame in frames[: len(messages)])
    assert rewritten.startswith(b"".join(raw[:-1]))  # every message before `start` is unchanged


async def test_a_fragmented_start_is_rewritten_too(carrier_leg: CarrierLeg) -> None:
    connected, start = opening("twilio")
    half = len(start) // 2
    raw = (
        carrier_leg.carrier.frame(TEXT, connected.encode())
        + carrier_leg.carrier.frame(TEXT, start[:half].encode(), fin=False)
        + carrier_leg.carrier.frame(CONTINUATION, start[half:].encode())
    )
    await carrier_leg.receive(raw, 2)
    hide_call_id(carrier_leg.leg, DIALECTS["twilio"], IDS["twilio"][0], SESSION)
    frames, _ = split(carrier_leg.leg.take_buffered())
    assert [frame.opcode for frame in frames] == [TEXT, TEXT]
    assert json.loads(frames[1].payload)["start"]["callSid"] == SESSION


async def test_without_start_the_opening_is_unchanged(carrier_leg: CarrierLeg) -> None:
    raw = carrier_leg.carrier.frame(TEXT, b'{"event": "connected"}') + carrier_leg.carrier.frame(BINARY, b"{")
    await carrier_leg.receive(raw, 2)
    hide_call_id(carrier_leg.leg, DIALECTS["twilio"], "CA1", SESSION)
    assert carrier_leg.leg.take_buffered() == raw
