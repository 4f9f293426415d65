# SPDX-License-Identifier: BSD-2-Clause
"""A relay by messages between two real connections."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.websocket import frames
from gateway.websocket.frames import FrameScanner
from serializers.registry import DIALECTS
from tests.media.relays import close_relay, open_leg

LIMITS = RelayLimits(max_duration_s=60, idle_s=60, stall_s=10, close_s=1, max_message_bytes=1 << 20)


class Call:
    """A relay by messages, and its two far ends."""

    def __init__(self, relay: Relay, carrier: socket.socket, agent: socket.socket) -> None:
        self.relay = relay
        self.ends = {"carrier": carrier, "agent": agent}
        self._scanners = {
            name: FrameScanner(masked=name == "agent", max_payload=1 << 20, inspect_below=frames.INSPECT_ALL)
            for name in self.ends
        }

    async def send(self, far_end: str, *pieces: bytes) -> None:
        for piece in pieces:
            await asyncio.get_running_loop().sock_sendall(self.ends[far_end], piece)

    async def send_text(self, far_end: str, *messages: bytes) -> None:
        for message in messages:
            await self.send(far_end, frames.build(frames.TEXT, message, masked=far_end == "carrier"))

    async def receive(self, far_end: str, count: int) -> list[tuple[int, bytes]]:
        """Return opcode and payload of the next frames that reach a far end."""
        received: list[tuple[int, bytes]] = []
        scanner = self._scanners[far_end]
        async with asyncio.timeout(60):
            while len(received) < count:
                data = await asyncio.get_running_loop().sock_recv(self.ends[far_end], 65536)
                assert data, f"the {far_end}'s socket was closed after {received}"
                data = scanner.feed(data)
                received += [(frame.opcode, frames.payload(data, frame)) for frame in scanner.spans]
                scanner.spans.clear()
        return received


@pytest.fixture
async def exotel() -> AsyncIterator[Call]:
    carrier, caller = await open_leg(client=False)
    agent, agent_end = await open_leg(client=True)
    options = RelayOptions(
        dialect=DIALECTS["exotel"],
        limits=LIMITS,
        on_first_sound=lambda: None,
        transforms=DIALECTS["exotel"].transforms(),
    )
    relay = Relay(carrier, agent, options)
    relay.start()
    yield Call(relay, caller, agent_end)
    await close_relay(relay)
    for far in (caller, agent_end):
        far.close()


def media(size: int, **more: str) -> bytes:
    payload = base64.b64encode(b"\1" * size).decode()
    return json.dumps({"event": "media", "stream_sid": "S1", "media": {"payload": payload, **more}}).encode()


async def test_an_agent_receives_only_messages_and_they_are_not_changed(exotel: Call) -> None:
    good = [media(1600, chunk="1"), b'{"event":"dtmf","dtmf":{"digit":"5"}}', media(1600, chunk="2")]
    await exotel.send_text("carrier", good[0], b"no message", good[1], media(1600, track="outbound"), good[2])
    assert [payload for _, payload in await exotel.receive("agent", 3)] == good


async def test_exotel_receives_audio_in_whole_pieces(exotel: Call) -> None:
    await exotel.send_text("agent", *[media(640)] * 6)
    pieces = [json.loads(payload) for _, payload in await exotel.receive("carrier", 2)]
    assert [len(base64.b64decode(piece["media"]["payload"])) for piece in pieces] == [3200, 3200]
    assert all(piece["stream_sid"] == "S1" for piece in pieces)


async def test_a_fragmented_message_is_transformed_as_a_whole(exotel: Call) -> None:
    message = media(1600)
    first = bytearray(frames.build(frames.TEXT, message[:700], masked=True))
    first[0] &= 0x7F
    ping = frames.build(frames.PING, b"?", masked=True)
    last = bytearray(frames.build(frames.TEXT, message[700:], masked=True))
    last[0] = frames.FIN | frames.CONTINUATION
    await exotel.send("carrier", bytes(first), ping, bytes(last))
    received = await exotel.receive("agent", 3)
    assert received[0] == (frames.PING, b"?"), "a control frame may overtake"
    assert b"".join(payload for _, payload in received[1:]) == message


async def test_buffered_audio_is_sent_before_the_agents_close(exotel: Call) -> None:
    await exotel.send_text("agent", media(640))
    await exotel.send("agent", frames.build_close(1000, "done", masked=False))
    received = await exotel.receive("carrier", 2)
    assert [opcode for opcode, _ in received] == [frames.TEXT, frames.CLOSE]
    assert frames.read_close(received[1][1]) == (1000, "done")
    assert (await exotel.relay.ended).reason.code == "agent_ended"


async def test_what_precedes_a_broken_frame_is_passed_on(exotel: Call) -> None:
    good = media(1600)
    await exotel.send("carrier", frames.build(frames.TEXT, good, masked=True) + b"\xf1\x80\0\0\0\0")
    received = await exotel.receive("agent", 2)
    assert received[0] == (frames.TEXT, good)
    assert received[1][0] == frames.CLOSE
    assert (await exotel.relay.ended).reason.code == "carrier_protocol_error"
