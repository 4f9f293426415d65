# SPDX-License-Identifier: BSD-2-Clause
"""A second relay for the same call, whose agent was lost: what goes on from the first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.media.disconnect import Disconnect
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.media.relay_timers import RelayLimits
from gateway.model.reasons import Reasons
from serializers.registry import DIALECTS

LIMITS = RelayLimits(max_duration_s=60, idle_s=1000, stall_s=10, close_s=1, max_message_bytes=1 << 20)


def nobody_leaves(_: Disconnect) -> None:
    pass


@pytest.fixture
async def relay() -> AsyncIterator[Callable[..., Any]]:
    """Makes a relay that has not begun, between sockets of its own."""
    far_ends: list[socket.socket] = []
    made: list[Relay] = []

    async def make(after: Relay | None = None) -> Relay:
        loop = asyncio.get_running_loop()
        legs = []
        for client in (False, True):
            near, far = socket.socketpair()
            far_ends.append(far)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
            leg = Leg(
                transport,
                client=client,
                opening_bytes=1 << 16,
                early_bytes=1 << 16,
                on_disconnect=nobody_leaves,
            )
            leg.hold(1 << 20)
            legs.append(leg)
        made.append(
            Relay(*legs, dialect=DIALECTS["twilio"], limits=LIMITS, on_first_sound=lambda: None, after=after)
        )
        return made[-1]

    yield make
    for one in made:
        one.teardown.finish()
        for side in (one.carrier, one.agent):
            side.transport.abort()
    for far in far_ends:
        far.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_the_longest_duration_is_counted_from_the_first(relay: Callable[..., Any]) -> None:
    first = await relay()
    first.start()
    began_before = asyncio.get_running_loop().time()
    second = await relay(after=first)
    second.start()  # later, so that sixty seconds from now on would not be over
    second.watch.tick(began_before + LIMITS.max_duration_s)
    assert second.ended.done()
    assert second.ended.result().reason is Reasons.max_duration
