# SPDX-License-Identifier: BSD-2-Clause
"""A relay whose carrier is lost releases the agent's side, and the next relay continues with it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.media.relay_side import RelaySide
from gateway.model.reasons import CallEnded, Reasons
from gateway.websocket import frames
from serializers.registry import DIALECTS
from tests.media.relays import close_relay, ignore_disconnect, open_leg

MEDIA = b'{"event": "media", "media": {"payload": "AAAA"}}'.ljust(400)
WAIT_S = 60.0


class Call:
    """Two far ends, and the relay between them."""

    def __init__(self) -> None:
        self.far: list[socket.socket] = []
        self.relays: list[Relay] = []
        self.released: list[Leg] = []
        self.accepts_release = True

    async def leg(self, *, client: bool) -> Leg:
        leg, far = await open_leg(client=client)
        self.far.append(far)
        return leg

    def join(self, carrier: Leg, agent: Leg, *, max_duration_s: float = 60) -> Relay:
        options = RelayOptions(
            dialect=DIALECTS["twilio"],
            limits=RelayLimits(max_duration_s, 1000, 10, 1, 1 << 20),
            on_first_sound=lambda: None,
            on_carrier_lost=self._take_agent,
        )
        relay = Relay(carrier, agent, options, previous=self.relays[-1] if self.relays else None)
        self.relays.append(relay)
        relay.start()
        return relay

    def _take_agent(self, agent: RelaySide) -> bool:
        if self.accepts_release:
            leg = Leg(
                agent.transport,
                client=True,
                max_opening_bytes=1 << 16,
                max_buffered_bytes=1 << 16,
                on_disconnect=ignore_disconnect,
                resumed_from=(agent.scanner, b""),
            )
            self.released.append(leg)
        return self.accepts_release

    async def send(self, far_end: socket.socket, raw: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(far_end, raw)

    async def expect(self, far_end: socket.socket, raw: bytes) -> None:
        received = b""
        async with asyncio.timeout(WAIT_S):
            while len(received) < len(raw):
                received += await asyncio.get_running_loop().sock_recv(far_end, len(raw) - len(received))
        assert received == raw


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    made = Call()
    yield made
    for relay in made.relays:
        await close_relay(relay)
    for far in made.far:
        far.close()


def to_agent(text: bytes = MEDIA) -> bytes:
    return frames.build(frames.TEXT, text, masked=True)


def to_carrier(text: bytes = MEDIA) -> bytes:
    return frames.build(frames.TEXT, text, masked=False)


async def test_duration_and_traffic_continue_in_the_next_relay(call: Call) -> None:
    first = call.join(await call.leg(client=False), await call.leg(client=True))
    carrier, agent = call.far
    for _ in range(2):
        sent = to_agent()
        await call.send(carrier, sent)
        await call.expect(agent, sent)
    await call.send(agent, to_carrier())
    await call.expect(carrier, to_carrier())
    end_by = first.end_by
    carrier.shutdown(socket.SHUT_RDWR)
    async with asyncio.timeout(WAIT_S):
        end = await first.ended
    assert end.reason is Reasons.carrier_lost
    assert first.closed.done()
    meanwhile = to_carrier(MEDIA + b" ")
    await call.send(agent, meanwhile)

    second = call.join(await call.leg(client=False), call.released.pop(), max_duration_s=1000)
    assert second.end_by == end_by, "a call does not get more time with each socket"
    await call.expect(call.far[2], meanwhile)
    sent = to_agent()
    await call.send(call.far[2], sent)
    await call.expect(agent, sent)
    size = len(sent)
    assert second.traffic == (3, 3 * size, 2, len(to_carrier()) + len(meanwhile))

    call.far[2].shutdown(socket.SHUT_RDWR)
    await asyncio.wait_for(second.ended, WAIT_S)
    third = call.join(await call.leg(client=False), call.released.pop())
    assert third.traffic == second.traffic
    assert third.end_by == end_by


async def test_a_replaced_carrier_receives_a_close_frame(call: Call) -> None:
    relay = call.join(await call.leg(client=False), await call.leg(client=True))
    assert relay.release_agent(CallEnded(Reasons.taken_over))
    detail = Reasons.taken_over.sentence
    await call.expect(call.far[0], frames.build_close(frames.NORMAL_CLOSURE, detail, masked=False))
    assert not relay.release_agent(CallEnded(Reasons.taken_over)), "it was replaced already"


async def test_if_the_agent_is_not_released_the_call_ends(call: Call) -> None:
    call.accepts_release = False
    relay = call.join(await call.leg(client=False), await call.leg(client=True))
    assert not relay.release_agent(CallEnded(Reasons.taken_over))
    assert not relay.ended.done()
    call.far[0].shutdown(socket.SHUT_RDWR)
    end = await asyncio.wait_for(relay.ended, WAIT_S)
    assert end.reason is Reasons.carrier_lost
    closing = frames.build_close(frames.INTERNAL_ERROR, end.detail, masked=True)
    async with asyncio.timeout(WAIT_S):
        received = await asyncio.get_running_loop().sock_recv(call.far[1], 1 << 16)
    assert len(received) == len(closing)


async def test_an_agent_that_has_half_a_message_is_not_released(call: Call) -> None:
    relay = call.join(await call.leg(client=False), await call.leg(client=True))
    half = bytearray(to_agent())
    half[0] &= ~frames.FIN & 0xFF
    await call.send(call.far[0], bytes(half))
    await call.expect(call.far[1], bytes(half))
    assert not relay.release_agent(CallEnded(Reasons.taken_over))
    assert not call.released
