# SPDX-License-Identifier: BSD-2-Clause
"""A connection from another node that came to one worker of this node, and is for another.

The kernel passes its socket to that worker. One whose TLS is ours cannot be passed: the other worker gets one
end of a pair of sockets, and this one stands between.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from gateway.media.socket_passing import PassResult, send_socket
from gateway.nodes.tunnel import Tunnel

MARK: Final = b"node\n"
"""The beginning of a message that passes such a socket; what was read of it follows."""

_tunnels: set[asyncio.Task[None]] = set()


async def hand_on(
    transport: asyncio.Transport, name: str, read: bytes, note_tunnels: Callable[[int], None]
) -> bool:
    """Give a connection, which is not read now, to another worker of this node. False if it is not here.

    `name`: under which it listens. `read`: all that was read of the connection.
    `note_tunnels`: is called with 1 if it goes through this process from now on, and with -1 at its end.
    """
    if transport.get_extra_info("sslcontext") is None:
        descriptor = transport.get_extra_info("socket").fileno()
        passed = await send_socket(name, descriptor, MARK + read)
        if passed in (PassResult.TAKEN, PassResult.UNKNOWN):
            transport.close()  # this process's copy
            return True
        return False
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            passed = await send_socket(name, theirs.fileno(), MARK + read)
        if passed is not PassResult.TAKEN:
            ours.close()
            return False
        ours.setblocking(False)
        inner, _ = await asyncio.get_running_loop().connect_accepted_socket(_Paused, ours)
    except BaseException:
        ours.close()
        raise
    note_tunnels(1)
    tunnel = Tunnel(transport, inner, on_end=lambda: note_tunnels(-1))
    task = asyncio.create_task(tunnel.run())
    _tunnels.add(task)
    task.add_done_callback(_tunnels.discard)
    return True


class _Paused(asyncio.Protocol):
    """The protocol of a socket that is not read yet."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.pause_reading()
