# SPDX-License-Identifier: BSD-2-Clause
"""The port that a gateway listens on, one socket for each worker (SO_REUSEPORT, socket(7))."""

from __future__ import annotations

import socket

from gateway.config import Settings


def bind_port(settings: Settings, *, shared: bool) -> socket.socket:
    """Bind the configured port, open to further sockets of the same user that bind it with SO_REUSEPORT.

    `shared`: the port may be in use already, by a gateway that is being replaced. Raises OSError if the port
    cannot be bound. With several workers this socket only keeps other programs from taking the port; each
    worker binds and listens on a socket of its own.
    """
    host, number = settings.server.host, settings.server.port
    if not shared:
        with bind(host, number, reuse_port=False) as exclusive:
            number = exclusive.getsockname()[1]
    return bind(host, number, reuse_port=True)


def bind(host: str, number: int, *, reuse_port: bool) -> socket.socket:
    """Return a bound socket that does not listen yet. `number`: 0 for any free port. Raises OSError."""
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


def drain_backlog(port: socket.socket, max_connections: int) -> list[socket.socket]:
    """Accept the connections that wait in a port's backlog, without waiting for more.

    Call it before the port is closed: closing it resets what is still in the backlog.
    """
    port.setblocking(False)
    connections: list[socket.socket] = []
    while len(connections) < max_connections:
        try:
            connection, _ = port.accept()
        except OSError:  # the backlog is empty, or no descriptor is free
            break
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections.append(connection)
    return connections
