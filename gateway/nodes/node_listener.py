# SPDX-License-Identifier: BSD-2-Clause
"""The internal address of this node, at which each of its workers listens (SO_REUSEPORT, socket(7))."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

import structlog

from gateway.nodes.node_connection import NodeConnection, NodeHandlers, NodeServices, PassOn
from gateway.nodes.node_signature import NodeVerifier

log = structlog.get_logger(__name__)

MAX_CONNECTIONS: Final = 1000
"""Open at one worker, streams not counted. More are closed at once."""

HANDSHAKE_S: Final = 5.0
BACKLOG: Final = 512


class NodeAddressUnusable(Exception):  # noqa: N818 - read as a sentence
    """This machine cannot listen at its node's address. `str()` says why."""


def bind_node(url: str) -> socket.socket:
    """Return a socket that is bound to a node's address, and does not listen. Raises NodeAddressUnusable."""
    parts = urlsplit(url)
    number = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, number, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(found[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise NodeAddressUnusable(f"{parts.hostname} is not known: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(found[4])
    except OSError as error:
        bound.close()
        cause = (error.strerror or str(error)).lower()
        raise NodeAddressUnusable(f"{parts.hostname}:{number} cannot be listened on here: {cause}") from None
    return bound


class NodeListener:
    """One worker's socket at the node's address, and the connections that have come to this worker."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        """Bind the address. `tls`: for an address that is https. Raises NodeAddressUnusable."""
        self._socket = bind_node(url)
        self._tls = tls if url.startswith("https:") else None
        self._connections: set[NodeConnection] = set()
        self._services: NodeServices | None = None
        self._server: asyncio.Server | None = None

    async def start(
        self, worker: str, verifier: NodeVerifier, handlers: NodeHandlers, pass_on: PassOn
    ) -> None:
        """Listen. `worker`: this worker's id."""
        open_ones = self._connections
        self._services = NodeServices(worker, verifier, handlers, pass_on, open_ones.add, open_ones.discard)
        self._server = await asyncio.get_running_loop().create_server(
            self._new_connection,
            sock=self._socket,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
        )

    async def take(self, connection: socket.socket, raw: bytes) -> None:
        """Go on with a connection that came to another worker, which has read `raw` of it. Raises OSError."""
        services = self._services
        assert services is not None
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: NodeConnection(services, raw), connection)

    async def stop(self) -> None:
        """Close the address, and the connections that are no streams. May be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._socket.close()
        for connection in list(self._connections):
            connection.close()

    def _new_connection(self) -> asyncio.Protocol:
        assert self._services is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            return _Closed()
        return NodeConnection(self._services)


class _Closed(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.abort()
