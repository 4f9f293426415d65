# SPDX-License-Identifier: BSD-2-Clause
"""The TLS handshakes of a worker that are not done: how many there may be, and which of them make room.

A server of asyncio or uvloop with a certificate accepts a connection, begins its handshake, and shows nothing
of it before it is done. So the port is opened without one, and each connection begins its handshake here,
with the event loop's own protocol for TLS: the one that `loop.start_tls` uses, which would take a task each.

A client that stops in its handshake holds a descriptor. Where there are too many of them, of an address or of
the worker, or where descriptors are short, the oldest that is older than SILENT_S is closed
(docs/decisions/0053-silent-sockets-make-room.md).
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import uvloop
import uvloop.loop

from gateway.auth.rate_limits import site_of
from gateway.server.connection_limits import SILENT_S, ConnectionLimits

CLOSED_A_TIME: Final = 100
"""The most handshakes that are closed in one go where descriptors are short."""


class TlsHandshakes:
    """The unfinished handshakes of one worker, the oldest first. It belongs to the worker's event loop."""

    def __init__(self, limits: ConnectionLimits, context: ssl.SSLContext) -> None:
        """`context`: of the port's certificate."""
        self._limits = limits
        self._context = context
        self._unfinished: dict[_Handshake, None] = {}
        self._by_site: dict[str, dict[_Handshake, None]] = {}

    def __len__(self) -> int:
        return len(self._unfinished)

    def accept(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """Return the protocol of a new connection, whose handshake begins at once; `protocol` follows it."""
        return _Accepted(self, protocol)

    def begin(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Begin the handshake of a connection, or close it if there are too many and none makes room."""
        loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        site = "" if self._limits.proxies.trusts(address) else site_of(address)
        full = self._full(site)
        if full is not None and not self._close_old(full, loop.time(), most=1):
            self._limits.count_rejected("too many TLS handshakes are not done")
            transport.abort()
            return
        handshake = _Handshake(transport, site, loop.time())
        self._unfinished[handshake] = None
        if site:
            self._by_site.setdefault(site, {})[handshake] = None
        done = loop.create_future()
        done.add_done_callback(partial(self._done, handshake))
        uses_uvloop = isinstance(loop, uvloop.Loop)
        kind: Callable[..., Any] = uvloop.loop.SSLProtocol if uses_uvloop else SSLProtocol  # type: ignore[attr-defined]
        tls = kind(
            loop,
            protocol,
            self._context,
            done,
            server_side=True,
            ssl_handshake_timeout=self._limits.handshake_timeout_s,
        )
        transport.set_protocol(tls)
        tls.connection_made(transport)

    def close_old(self) -> None:
        """Close those older than SILENT_S, for want of descriptors."""
        if self._unfinished:
            self._close_old(self._unfinished, asyncio.get_running_loop().time(), most=CLOSED_A_TIME)

    def _full(self, site: str) -> Iterable[_Handshake] | None:
        """Return the handshakes of which one must make room for another of this site; None: there is room."""
        own = self._by_site.get(site, {})
        if len(own) >= self._limits.max_handshakes_per_site:
            return own
        return self._unfinished if len(self._unfinished) >= self._limits.max_handshakes else None

    def _close_old(self, handshakes: Iterable[_Handshake], now: float, *, most: int) -> bool:
        """Close the oldest, `most` of them. Return False if none is old enough."""
        old: list[_Handshake] = []
        for handshake in handshakes:
            if len(old) == most or now - handshake.began_at < SILENT_S:
                break
            old.append(handshake)
        for handshake in old:
            self._forget(handshake)
            handshake.transport.abort()
            self._limits.count_rejected("a TLS handshake that was not done made room")
        return bool(old)

    def _done(self, handshake: _Handshake, done: asyncio.Future[None]) -> None:
        self._forget(handshake)
        if not done.cancelled():
            done.exception()  # the client's fault; the connection is closed

    def _forget(self, handshake: _Handshake) -> None:
        if self._unfinished.pop(handshake, False) is False:
            return
        if handshake.site:
            own = self._by_site[handshake.site]
            del own[handshake]
            if not own:
                del self._by_site[handshake.site]


class _Handshake:
    """One handshake that is not done. `site`: of the client, "" for a trusted proxy."""

    __slots__ = ("began_at", "site", "transport")

    def __init__(self, transport: asyncio.Transport, site: str, began_at: float) -> None:
        self.transport = transport
        self.site = site
        self.began_at = began_at


class _Accepted(asyncio.Protocol):
    """The protocol of a connection that was just accepted, until its handshake begins."""

    __slots__ = ("_handshakes", "_protocol")

    def __init__(self, handshakes: TlsHandshakes, protocol: asyncio.Protocol) -> None:
        self._handshakes = handshakes
        self._protocol = protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._handshakes.begin(transport, self._protocol)
