# SPDX-License-Identifier: BSD-2-Clause
"""A relay whose carrier is lost gives the agent's side back; another goes on from there."""

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

SOUND = b'{"event": "media", "media": {"payload": "AAAA"}}'.ljust(400)
WAIT_S = 15.0


class Call:
    """Two far ends, and the relay between them."""

    def __init__(self) -> None:
        self.far: list[socket.socket] = []
        self.relays: list[Relay] = []
        self.kept: list[Leg] = []
        self.takes = True

    async def leg(self, *, client: bool) -> Leg:
        leg, far = await open_leg(client=client)
        self.far.append(far)
        return leg

    def couple(self, carrier: Leg, agent: Leg, *, max_duration_s: float = 60) -> Relay:
        options = RelayOptions(
            dialect=DIALECTS["twilio"],
            limits=RelayLimits(max_duration_s, 1000, 10, 1, 1 << 20),
            on_first_sound=lambda: None,
            on_carrier_lost=self._keep,
        )
        relay = Relay(carrier, agent, options, previous=self.relays[-1] if self.relays else None)
        self.relays.append(relay)
        relay.start()
        return relay

    def _keep(self, agent: RelaySide) -> bool:
        if self.takes:
            leg = Leg(
                agent.transport,
                client=True,
                max_opening_bytes=1 << 16,
                max_buffered_bytes=1 << 16,
                on_disconnect=ignore_disconnect,
                resumed_from=(agent.scanner, b""),
            )
            self.kept.append(leg)
        return self.takes

    async def says(self, who: socket.socket, raw: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(who, raw)

    async def hears(self, who: socket.socket, raw: bytes) -> None:
        heard = b""
        async with asyncio.timeout(WAIT_S):
            while len(heard) < len(raw):
                heard += await asyncio.get_running_loop().sock_recv(who, len(raw) - len(heard))
        assert heard == raw


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    made = Call()
    yield made
    for relay in made.relays:
        await close_relay(relay)
    for far in made.far:
        far.close()


def to_agent(text: bytes = SOUND) -> bytes:
    return frames.build(frames.TEXT, text, masked=True)


def to_carrier(text: bytes = SOUND) -> bytes:
    return frames.build(frames.TEXT, text, masked=False)


async def test_time_and_counts_go_on(call: Call) -> None:
    first = call.couple(await call.leg(client=False), await call.leg(client=True))
    carrier, agent = call.far
    for _ in range(2):
        said = to_agent()
        await call.says(carrier, said)
        await call.hears(agent, said)
    await call.says(agent, to_carrier())
    await call.hears(carrier, to_carrier())
    end_by = first.end_by
    carrier.shutdown(socket.SHUT_RDWR)
    async with asyncio.timeout(WAIT_S):
        end = await first.ended
    assert end.reason is Reasons.carrier_lost
    assert first.closed.done()
    meanwhile = to_carrier(SOUND + b" ")
    await call.says(agent, meanwhile)

    second = call.couple(await call.leg(client=False), call.kept.pop(), max_duration_s=1000)
    assert second.end_by == end_by, "a call does not get more time with each socket"
    await call.hears(call.far[2], meanwhile)
    said = to_agent()
    await call.says(call.far[2], said)
    await call.hears(agent, said)
    size = len(said)
    assert second.traffic == (3, 3 * size, 2, len(to_carrier()) + len(meanwhile))

    call.far[2].shutdown(socket.SHUT_RDWR)
    await asyncio.wait_for(second.ended, WAIT_S)
    third = call.couple(await call.leg(client=False), call.kept.pop())
    assert third.traffic == second.traffic
    assert third.end_by == end_by


async def test_a_carrier_is_let_go_with_a_close(call: Call) -> None:
    relay = call.couple(await call.leg(client=False), await call.leg(client=True))
    assert relay.release_agent(CallEnded(Reasons.taken_over))
    detail = Reasons.taken_over.sentence
    await call.hears(call.far[0], frames.build_close(frames.NORMAL_CLOSURE, detail, masked=False))
    assert not relay.release_agent(CallEnded(Reasons.taken_over)), "it is gone already"


async def test_where_the_agent_is_not_kept_the_call_ends(call: Call) -> None:
    call.takes = False
    relay = call.couple(await call.leg(client=False), await call.leg(client=True))
    assert not relay.release_agent(CallEnded(Reasons.taken_over))
    assert not relay.ended.done()
    call.far[0].shutdown(socket.SHUT_RDWR)
    end = await asyncio.wait_for(relay.ended, WAIT_S)
    assert end.reason is Reasons.carrier_lost
    closing = frames.build_close(frames.INTERNAL_ERROR, end.detail, masked=True)
    async with asyncio.timeout(WAIT_S):
        heard = await asyncio.get_running_loop().sock_recv(call.far[1], 1 << 16)
    assert len(heard) == len(closing)


async def test_an_agent_that_has_half_a_message_is_not_kept(call: Call) -> None:
    relay = call.couple(await call.leg(client=False), await call.leg(client=True))
    half = bytearray(to_agent())
    half[0] &= ~frames.FIN & 0xFF
    await call.says(call.far[0], bytes(half))
    await call.hears(call.far[1], bytes(half))
    assert not relay.release_agent(CallEnded(Reasons.taken_over))
    assert not call.kept
