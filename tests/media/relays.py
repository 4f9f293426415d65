# SPDX-License-Identifier: BSD-2-Clause
"""Legs over socket pairs, and the end of a relay between two of them."""

from __future__ import annotations

import asyncio
import socket

from gateway.media.disconnect import Disconnect
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.model.reasons import CallEnded, Reasons

MAX_MESSAGE_BYTES = 1 << 20


def ignore_disconnect(_: Disconnect) -> None:
    """Do nothing: the relay reports the end."""


async def open_leg(*, client: bool) -> tuple[Leg, socket.socket]:
    """Return a leg that only buffers, and the socket of its far end. `client`: the agent's leg."""
    near, far = socket.socketpair()
    far.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    leg = Leg(
        transport,
        client=client,
        max_opening_bytes=1 << 16,
        max_buffered_bytes=1 << 16,
        on_disconnect=ignore_disconnect,
    )
    leg.buffer_messages(MAX_MESSAGE_BYTES)
    return leg, far


async def close_relay(relay: Relay) -> None:
    """Close both sockets of a relay, in whatever state it is, and let the loop forget them."""
    relay.end(CallEnded(Reasons.draining))
    relay.teardown.finish()
    for side in (relay.carrier, relay.agent):
        side.transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
