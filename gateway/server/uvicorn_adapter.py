# SPDX-License-Identifier: BSD-2-Clause
"""The one file that knows uvicorn: its server, and its HTTP protocol with the limits that it lacks.

`UvicornServer` leaves signals and the time to stop to its caller (worker.py) and adds TLS limits, connection
limits and a way to leave the port. `HttpProtocol` is one connection: it bounds the time and the size of a
request's head, which neither uvicorn nor its parser does, determines the client's address, and rejects what
exceeds a limit (connection_limits.py) or cannot be served for want of descriptors (fd_reserve.py) before any
work is done. `UpgradeProtocol` hands a media socket over to gateway/media/accept.py.

uvicorn promises none of the internals that are used here. So its range is pinned in pyproject.toml, and
tests/server/ fails if a new version changes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.media.accept import SERVE_CALL, ServeCall, Upgrade, error_response, json_response
from gateway.model.reasons import CallEnded
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.fd_reserve import SHORTAGE_HEAD_TIMEOUT_S, FdReserve
from gateway.server.port import drain_backlog
from gateway.server.tls import Certificate
from gateway.websocket.handshake import list_elements

log = structlog.get_logger(__name__)

BACKLOG: Final = 2048

TICKS_PER_SECOND: Final = 10
"""How often uvicorn calls `on_tick`."""

STARTUP_FAILED: Final = 3
"""Exit status if the worker cannot start for a cause that a restart would not remove, such as the store."""

CLOSE_TIMEOUT_S: Final = 5
"""How long calls and requests may take to end once the server stops, in whole seconds."""

MAX_HEAD_BYTES: Final = 65536
"""Limit of a request's head: request line and all headers, trailers too. It also bounds chunk extensions."""

_FORWARDED_FOR: Final = b"x-forwarded-for"
_CLOSE: Final = (b"connection", b"close")


class UvicornServer(uvicorn.Server):
    """uvicorn's server on one bound socket, without its signal handlers.

    `on_tick` is called ten times a second with the number of the tick; the server stops when it returns True.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: ConnectionLimits,
        fd_reserve: FdReserve,
        certificate: Certificate | None,
        on_tick: Callable[[int], bool],
    ) -> None:
        """`certificate`: None for a port without TLS."""
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,  # made by `_new_connection`, with more arguments than uvicorn would give
                ws=UpgradeProtocol,
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
            )
        )
        self.config.load()
        self.limits = limits
        self.fd_reserve = fd_reserve
        self.servers = []
        self._on_tick = on_tick
        self._tls: dict[str, Any] = {}
        if certificate is not None:
            self._tls = {"ssl": certificate.context, "ssl_handshake_timeout": limits.handshake_timeout_s}
        self._port: socket.socket | None = None
        self._stragglers: set[asyncio.Task[Any]] = set()

    async def run_until_stopped(self, port: socket.socket) -> None:
        """Listen on a bound socket until `on_tick` returns True, then end all connections.

        Raises SystemExit(STARTUP_FAILED) if the application cannot start.
        """
        self._port = port
        await self.serve(sockets=[port])

    def close_port(self, *, takes_backlog: bool = True) -> None:
        """Accept the connections in the backlog, which closing would reset, and close the port.

        `takes_backlog`: False if another process has the same socket, and serves what waits there.
        Closing it again has no effect. If several workers leave the port, the kernel still sends connections
        to those that have not left yet: the first one that closes its socket shifts the indexes by which the
        kernel is steered (takeover.py).
        """
        if self._port is None:
            return
        port, self._port = self._port, None
        for connection in drain_backlog(port, BACKLOG) if takes_backlog else ():
            self.connect_accepted(connection)
        for server in self.servers:
            server.close()

    def connect_accepted(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere: from the backlog, or by the parent process."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._new_connection, connection, **self._tls))
        self._stragglers.add(task)
        task.add_done_callback(self._straggler_connected)

    def end_keep_alive(self, *, close_idle: bool) -> None:
        """Answer with `Connection: close` from now on, so that a client's next request reaches another
        gateway.

        `close_idle`: also close the connections that have had an answer and wait for another request. RFC
        9112 §9.6: a client is prepared for that at any time.
        """
        if _CLOSE not in self.config.encoded_headers:
            self.config.encoded_headers.append(_CLOSE)
            self.server_state.default_headers.append(_CLOSE)  # in place: requests in progress have this list
        if close_idle:
            for connection in [one for one in self.server_state.connections if isinstance(one, HttpProtocol)]:
                connection.close_if_idle()

    def _straggler_connected(self, task: asyncio.Task[Any]) -> None:
        self._stragglers.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.info("a connection ended before it was open", error=str(task.exception()))

    def _new_connection(self) -> HttpProtocol:
        # Here and not in `connection_made`: asyncio calls this before it accepts the next connection.
        self.fd_reserve.release_if_needed()
        return HttpProtocol(self, asyncio.get_running_loop())

    # What uvicorn.Server calls

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the worker has its own."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replace uvicorn's startup, which gives the TLS handshake no limit and the protocol no limits
        object.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(STARTUP_FAILED)
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(self._new_connection, sock=port, backlog=BACKLOG, **self._tls)
            for port in sockets or ()
        ]
        if self._port is None:  # the parent process died meanwhile
            for server in self.servers:
                server.close()
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ask the worker whether to stop, then do uvicorn's own work of a tick."""
        self.should_exit = self._on_tick(counter)
        return await super().on_tick(counter)


class _HeadTooLarge(Exception):  # noqa: N818 - never leaves the parser
    """Raised in a callback of the parser to make it fail."""


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until it is handed over as a media socket or closed."""

    def __init__(self, server: UvicornServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state, loop)
        self._limits = server.limits
        self._fd_reserve = server.fd_reserve
        self._is_proxy = False
        self._counted_site = ""
        """The result of `ConnectionLimits.add_connection`; "" if this connection is not counted."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._unparsed_bytes = 0  # fed to the parser since it last completed a head, a body part or a message
        self._head_bytes = 0
        self._is_rejected = False
        self._is_upgrade = False  # of the request whose head came last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self._is_proxy = self._limits.proxies.trusts(address)
        # A proxy's connection carries requests of many clients; each is counted when it becomes a call.
        if not self._is_proxy:
            try:
                self._counted_site = self._limits.add_connection(address)
            except CallEnded as end:
                self._reject(error_response(end))
                return
        if self._fd_reserve.is_exhausted:
            self._reject(error_response(self._fd_reserve.refuse_call()))
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._limits.remove_connection(self._counted_site)
        self._counted_site = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_rejected:
            return
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self._is_rejected:
            self._reject_large_head()

    def close_if_idle(self) -> None:
        """Close a connection whose last request was answered, unless another one has begun."""
        is_idle = self.cycle is not None and self.cycle.response_complete and not self._unparsed_bytes
        if is_idle and self._head_timer is None and not self.transport.is_closing():
            self.transport.close()

    # Callbacks of the parser. One that raises makes the parser fail, and uvicorn call `send_400_response`.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        self._count_head_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head_bytes(len(name) + len(value) + 4)  # ": " and CRLF
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        self._stop_head_timer()
        # The parser has read `Connection`: all its lines, in any spelling.
        self._is_upgrade = self.parser.should_upgrade() and self._names_websocket()
        if self._is_proxy and self.client is not None:
            self.scope["client"] = self._client_address(), self.client[1]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._reject_large_head()
        elif not self._is_rejected:
            super().send_400_response(msg)

    # The hand-over of a media socket

    def _should_upgrade(self) -> bool:
        """Replace uvicorn's test, which reads the last line of `Connection` and of `Upgrade` alone.

        It is called several times for each request.
        """
        return self._is_upgrade

    def _names_websocket(self) -> bool:
        """Return True if one of the protocols in `Upgrade` is WebSocket (RFC 9110 §7.8)."""
        lines = [value.decode("latin-1") for name, value in self.headers if name == b"upgrade"]
        return "websocket" in list_elements(lines)

    def handle_websocket_upgrade(self) -> None:
        address = self._client_address()
        try:
            if self._fd_reserve.is_released:
                raise self._fd_reserve.refuse_call()
            if self._is_proxy:
                self._counted_site = self._limits.add_connection(address)
            self._limits.add_call()
        except CallEnded as end:
            self._reject(error_response(end))
            return
        self.connections.discard(self)
        upgrade = UpgradeProtocol(self.config, self.server_state, self.app_state, self.loop)
        upgrade.on_done = partial(_call_over, self._limits, self._counted_site)
        self._counted_site = ""  # the call is counted from here on, and no longer this object
        upgrade.connection_made(self.transport)
        upgrade.address = address
        self.transport.set_protocol(upgrade)
        lines = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            lines += (name, b": ", value, b"\r\n")
        upgrade.data_received(b"".join([*lines, b"\r\n"]))
        # The parser refers to this object. Without the cycle both are freed now, not by the garbage
        # collector, which app.py makes rare.
        del self.parser

    def _client_address(self) -> str:
        peer = self.client[0] if self.client else ""
        if not self._is_proxy:
            return peer
        forwarded = b",".join(value for name, value in self.headers if name == _FORWARDED_FOR)
        return self._limits.proxies.client_address(peer, forwarded.decode("latin-1"))

    # Rejections

    def _count_head_bytes(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _reject_large_head(self) -> None:
        self._limits.count_rejected("the head of a request is too large")
        self._reject(
            json_response(431, {"error": f"more than {MAX_HEAD_BYTES} bytes of head", "code": "431"})
        )

    def _reject(self, answer: bytes) -> None:
        """Send a whole HTTP answer and close the connection; everything that the client still sends is
        ignored.
        """
        self._is_rejected = True
        self._stop_head_timer()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _start_head_timer(self) -> None:
        if self._head_timer is None and not self._is_rejected:
            timeout_s = self._limits.handshake_timeout_s
            if self._fd_reserve.is_released:
                timeout_s = min(timeout_s, SHORTAGE_HEAD_TIMEOUT_S)
            self._head_timer = self.loop.call_later(timeout_s, self._reject_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _reject_slow_head(self) -> None:
        self._head_timer = None
        self._limits.count_rejected("the head of a request came too slowly")
        self._reject(json_response(408, {"error": "the head of the request came too slowly", "code": "408"}))


class UpgradeProtocol(asyncio.Protocol):
    """The protocol of one request to upgrade, from its head to its answer; what uvicorn takes as `ws=`.

    uvicorn creates one object for each such request, calls `connection_made`, feeds it the request's head,
    rebuilt from what it parsed, and makes it the transport's protocol. This object starts the `ServeCall`
    that the application has put into its lifespan state, and decides nothing. It stays in uvicorn's sets of
    connections and tasks until the call has ended, so that a stop waits for the call.
    """

    __slots__ = (
        "_connections",
        "_loop",
        "_serve_call",
        "_tasks",
        "_transport",
        "address",
        "on_done",
        "upgrade",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._connections: set[Any] = server_state.connections
        self._tasks = server_state.tasks
        self._serve_call: ServeCall = app_state[SERVE_CALL]
        self._transport: asyncio.Transport | None = None  # until the head has come
        self.upgrade: Upgrade | None = None
        """The request, once its head has come."""
        self.address = ""
        """The client's address, or "" if there is none; may be changed until the head comes."""
        self.on_done: Callable[[], None] | None = None
        """Called when the call has ended."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self.upgrade is not None:
            self.upgrade.data_received(data)
            return
        assert self._transport is not None
        # From here on the transport is the call's: a reference here would keep it for as long as the call.
        self.upgrade, self._transport = Upgrade(self._transport, data, self.address), None
        task = self._loop.create_task(self._serve_call(self.upgrade))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.upgrade is not None:
            self.upgrade.connection_lost()

    def shutdown(self) -> None:
        """Tell the call that uvicorn stops and wants its connections closed."""
        if self.upgrade is not None and self.upgrade.on_shutdown is not None:
            self.upgrade.on_shutdown()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(self)
        self._tasks.discard(task)
        if self.upgrade is not None:
            self.upgrade.abort()  # no effect if it was answered
        if self.on_done is not None:
            self.on_done()


def _call_over(limits: ConnectionLimits, site: str) -> None:
    """Count a call and its connection as ended."""
    limits.remove_connection(site)
    limits.remove_call()
