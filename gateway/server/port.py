# SPDX-License-Identifier: BSD-2-Clause
"""The port that a gateway listens on, one socket for each worker."""

from __future__ import annotations

import socket

from gateway.config import Settings


def reserve(settings: Settings, *, shared: bool) -> socket.socket:
    """The port, bound, and open to others of our user who ask for it in the same way.

    Raises OSError, also where somebody has it already and it is not to be `shared`. With several workers it
    is only kept, so that no other program takes it: each worker listens for itself.
    """
    host, number = settings.server.host, settings.server.port
    if not shared:
        with bind(host, number, reuse_port=False) as alone:
            number = alone.getsockname()[1]
    return bind(host, number, reuse_port=True)


def bind(host: str, number: int, *, reuse_port: bool) -> socket.socket:
    """A bound socket that does not listen yet; number 0 is any that is free. Raises OSError."""
    family, kind, proto, _, address = socket.getaddrinfo(
        host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    port = socket.socket(family, kind, proto)
    try:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port.bind(address)
    except OSError:
        port.close()
        raise
    return port


def drain_backlog(port: socket.socket, most: int) -> list[socket.socket]:
    """Accepts whom the kernel holds for a port that listens; waits for nobody.

    To be called before it is closed, which resets them. `most`: of them at once.
    """
    port.setblocking(False)
    taken: list[socket.socket] = []
    while len(taken) < most:
        try:
            connection, _ = port.accept()
        except OSError:  # nobody is left, or no file is
            break
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        taken.append(connection)
    return taken
