# SPDX-License-Identifier: BSD-2-Clause
"""The second relay of a call continues the duration of the first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.media.relay import Relay
from gateway.media.relay_options import RelayLimits, RelayOptions
from gateway.model.reasons import Reasons
from serializers.registry import DIALECTS
from tests.media.relays import close_relay, open_leg

LIMITS = RelayLimits(max_duration_s=60, idle_s=1000, stall_s=10, close_s=1, max_message_bytes=1 << 20)


@pytest.fixture
async def relay() -> AsyncIterator[Callable[..., Any]]:
    """Make a relay that has not started, between sockets of its own."""
    far_ends: list[socket.socket] = []
    made: list[Relay] = []

    async def make(previous: Relay | None = None) -> Relay:
        carrier, caller = await open_leg(client=False)
        agent, agent_end = await open_leg(client=True)
        far_ends.extend((caller, agent_end))
        options = RelayOptions(dialect=DIALECTS["twilio"], limits=LIMITS, on_first_sound=lambda: None)
        made.append(Relay(carrier, agent, options, previous=previous))
        return made[-1]

    yield make
    for relayed in made:
        await close_relay(relayed)
    for far in far_ends:
        far.close()


async def test_the_longest_duration_is_counted_from_the_first(relay: Callable[..., Any]) -> None:
    first = await relay()
    first.start()
    began_before = asyncio.get_running_loop().time()
    second = await relay(previous=first)
    second.start()  # later, so that sixty seconds from now on would not be over
    second.timers.tick(began_before + LIMITS.max_duration_s)
    assert second.ended.done()
    assert second.ended.result().reason is Reasons.max_duration
