# SPDX-License-Identifier: BSD-2-Clause
"""The port that a gateway listens on, one socket for each worker (SO_REUSEPORT, socket(7))."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import ExitStack, suppress
from typing import Any

from gateway.config import Settings
from gateway.model.unix_peer import peer_of


def bind_port(settings: Settings, *, shared: bool) -> list[socket.socket]:
    """Bind the configured port once for each worker, open to further sockets of the same user (SO_REUSEPORT).

    `shared`: the port may be in use already, by a gateway that is being replaced. Raises OSError if the port
    cannot be bound.
    """
    host, number = settings.server.host, settings.server.port
    with ExitStack() as bound:
        # Whoever sets SO_REUSEPORT before binding is let in beside a gateway of the same user that runs.
        first = bound.enter_context(bind(host, number, reuse_port=shared))
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        number = first.getsockname()[1]
        others = [
            bound.enter_context(bind(host, number, reuse_port=True))
            for _ in range(settings.server.workers - 1)
        ]
        bound.pop_all()
    return [first, *others]


def bind(host: str, number: int, *, reuse_port: bool) -> socket.socket:
    """Return a bound socket that does not listen yet. `number`: 0 for any free port. Raises OSError."""
    family, address = _resolve(host, number)
    port = socket.socket(family, socket.SOCK_STREAM)
    try:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port.bind(address)
    except OSError:
        port.close()
        raise
    return port


def address_of(port: socket.socket) -> str:
    """Return the address that a socket is bound to, as in "127.0.0.1:7860"."""
    host, number = port.getsockname()[:2]
    return f"{host}:{number}"


def start_lock(settings: Settings) -> socket.socket:
    """Hold the right to start on the configured port until the result is closed.

    The kernel lets two processes bind one port as long as neither listens. Raises OSError if another gateway
    of this user starts on it, or the host is unknown. Another user can take the name, to no effect.
    """
    lock = socket.socket(socket.AF_UNIX)
    _, address = _resolve(settings.server.host, settings.server.port)
    if sys.platform.startswith("linux") and settings.server.port:
        name = f"\0patchbay/starting/{os.geteuid()}/{address[0]}:{address[1]}"
        try:
            lock.bind(name)
            lock.listen()
        except OSError:
            if _is_held_by_same_user(name):
                lock.close()
                raise OSError(errno.EADDRINUSE, "another Patchbay is starting on this port") from None
    return lock


def _is_held_by_same_user(name: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(name)
            return peer_of(probe).is_same_user
        except OSError:  # nobody listens there
            return False


def _resolve(host: str, number: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return found[0], found[4]


def drain_backlog(port: socket.socket, max_connections: int) -> list[socket.socket]:
    """Accept the connections that wait in a port's backlog, without waiting for more.

    Call it before the port is closed: closing it resets what is still in the backlog.
    """
    port.setblocking(False)
    connections: list[socket.socket] = []
    with suppress(OSError):  # the backlog is empty, or no descriptor is free
        while len(connections) < max_connections:
            connection, _ = port.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.append(connection)
    return connections
