# SPDX-License-Identifier: BSD-2-Clause
"""The one file that knows uvicorn: its server, and its HTTP protocol with the limits that it lacks.

`UvicornServer` leaves signals and the time to stop to its caller (worker.py) and adds TLS limits, connection
limits and a way to leave the port. `HttpProtocol` is one connection: it bounds the time and the size of a
request's head and the time of its answer (unsent_answers.py), which neither uvicorn nor its parser does,
determines the client's address, and rejects what exceeds a limit (connection_limits.py) or cannot be served
for want of descriptors (fd_reserve.py) before any work is done. `UpgradeProtocol` hands a media socket over
to gateway/media/accept.py.

uvicorn promises none of the internals that are used here. So its range is pinned in pyproject.toml, and
tests/server/ fails if a new version changes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.media.accept import error_response, json_response
from gateway.model.reasons import CallEnded
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.exit_status import STARTUP_FAILED
from gateway.server.fd_reserve import SHORTAGE_HEAD_TIMEOUT_S, FdReserve
from gateway.server.joined_answer import JoinedAnswer
from gateway.server.port import drain_backlog
from gateway.server.request_head import FaultyHead, HeadTooLarge, TooManyRequests, head_fault, names_websocket
from gateway.server.request_turns import RequestTurns
from gateway.server.tls import Certificate
from gateway.server.tls_handshakes import TlsHandshakes
from gateway.server.unsent_answers import AnswerWriter
from gateway.server.upgrade_protocol import UpgradeProtocol

log = structlog.get_logger(__name__)

_ERRORS: Final = logging.getLogger("uvicorn.error.connections")
"""The log of connections: faults of ours, and no warning for each request that is no HTTP."""
_ERRORS.setLevel(logging.ERROR)

BACKLOG: Final = 2048

TICKS_PER_SECOND: Final = 10
"""How often uvicorn calls `on_tick`."""

CLOSE_TIMEOUT_S: Final = 5
"""How long calls and requests may take to end once the server stops, in whole seconds."""

MAX_HEAD_BYTES: Final = 65536
"""Limit of a request's head: request line and all headers, trailers too. It also bounds chunk extensions."""

MAX_HEADERS: Final = 200
"""Header lines of a request, trailers included. Browsers and proxies send a few dozen."""

MAX_PIPELINED: Final = 16
"""Requests that may wait on one connection for the answer to an earlier one (RFC 9112 §9.3.2)."""

MAX_PIPELINES: Final = 1000
"""Connections that may wait for their turn at the next of their pipelined requests."""

READ_BYTES: Final = 32768
"""Bytes that one connection's parser is fed in one iteration of the event loop: the smallest chunks, headers
or requests in them take no longer than calls can wait.
"""

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
        self._handshakes = None if certificate is None else TlsHandshakes(limits, certificate.context)
        self._port: socket.socket | None = None
        self._stragglers: set[asyncio.Task[Any]] = set()
        self.pipelined = RequestTurns()

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
        task = loop.create_task(loop.connect_accepted_socket(self._new_connection, connection))
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

    def _new_connection(self) -> asyncio.Protocol:
        # Here and not in `connection_made`: asyncio calls this before it accepts the next connection.
        self.fd_reserve.release_if_needed()
        protocol = HttpProtocol(self, asyncio.get_running_loop())
        return protocol if self._handshakes is None else self._handshakes.accept(protocol)

    # What uvicorn.Server calls

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the worker has its own."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replace uvicorn's startup, which gives handshakes no limits, and the protocol no limits object."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(STARTUP_FAILED)
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(self._new_connection, sock=port, backlog=BACKLOG)
            for port in sockets or ()
        ]
        if self._port is None:  # the parent process died meanwhile
            for server in self.servers:
                server.close()
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ask the worker whether to stop, then do uvicorn's own work of a tick."""
        if self._handshakes is not None and self.fd_reserve.is_released:
            self._handshakes.close_old()
        self.should_exit = self._on_tick(counter)
        return await super().on_tick(counter)


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until it is handed over as a media socket or closed."""

    def __init__(self, server: UvicornServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state, loop)
        self.logger = _ERRORS
        self._limits = server.limits
        self._fd_reserve = server.fd_reserve
        self._pipelined = server.pipelined
        self._is_pipelined = False  # while a request is started that came before the answer to another one
        self._is_proxy = False
        self._counted_site = ""
        """The result of `ConnectionLimits.add_connection`; "" if this connection is not counted."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._unparsed_bytes = 0  # fed to the parser since it last completed a head, a body part or a message
        self._head_bytes = 0
        self._header_lines = 0
        self._reads_body = False  # what is parsed belongs to the request whose head came last
        self._fault = ""  # of the head that came last, in words for the client
        self._unread = bytearray()  # received and not yet fed to the parser
        self._answers: AnswerWriter | None = None  # from the first answer on
        self._answering: RequestResponseCycle | None = None  # the request that is being answered
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
        self._unread.clear()
        if self._answers is not None:
            self._answers.close()
            self._answers = None
        self._limits.remove_connection(self._counted_site)
        self._counted_site = ""
        if self._answering is not None and self._answering is not self.cycle:
            # uvicorn tells the last request alone, and the others would write to a transport that is closed.
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_rejected:
            return
        if not self._unread and len(data) <= READ_BYTES:
            self._feed(data)
            return
        if not self._unread:
            self.loop.call_soon(self._read_on)
        self._unread += data
        self.transport.pause_reading()

    def _read_on(self) -> None:
        """Feed the next piece of what was received to the parser; the event loop goes on before more."""
        piece = bytes(self._unread[:READ_BYTES])
        del self._unread[:READ_BYTES]
        if not piece or self._is_rejected or self.transport.is_closing():
            self._unread.clear()
            return
        self._feed(piece)
        if self._is_upgrade:  # the socket is the call's, and what follows the head is void before its answer
            self._unread.clear()
            self.transport.resume_reading()
        elif self._unread:
            self.loop.call_soon(self._read_on)
        elif not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._is_rejected:
            return
        if self._unparsed_bytes > MAX_HEAD_BYTES:
            self._reject_large_head()
        elif self.cycle is not None and self.cycle.response_complete:
            # The bytes have ended uvicorn's time-out of an idle connection, and may be no request's.
            self._start_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answers()

    def close_if_idle(self) -> None:
        """Close a connection whose last request was answered, unless another one has begun."""
        is_idle = self.cycle is not None and self.cycle.response_complete and not self._unparsed_bytes
        if is_idle and self._head_timer is None and not self.transport.is_closing():
            self.transport.close()

    # Callbacks of the parser. One that raises makes the parser fail, and uvicorn call `send_400_response`.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._header_lines = 0
        self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        self._count_head_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_lines += 1
        self._count_head_bytes(len(name) + len(value) + 4)  # ": " and CRLF
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        self._stop_head_timer()
        # The parser has read `Connection`: all its lines, in any spelling.
        self._is_upgrade = self.parser.should_upgrade() and names_websocket(self.headers)
        self._fault = head_fault(self.parser.get_http_version(), self.headers, is_upgrade=self._is_upgrade)
        if self._fault:
            self._is_upgrade = False
            raise FaultyHead
        if self._is_proxy and self.client is not None:
            self.scope["client"] = self._client_address(), self.client[1]
        if len(self.pipeline) >= MAX_PIPELINED:
            raise TooManyRequests
        self._reads_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        self._reads_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete and not self._reads_body:
            # An answer would come before those that are owed, and be taken for one of them.
            is_full = len(self.pipeline) >= MAX_PIPELINED
            self._limits.count_rejected(
                "too many requests at once on one connection" if is_full else "a request is no HTTP"
            )
            self._is_rejected = True
            self.transport.close()
        elif self._head_bytes > MAX_HEAD_BYTES or self._header_lines > MAX_HEADERS:
            self._reject_large_head()
        elif not self._is_rejected:
            self._limits.count_rejected("a request is no HTTP")
            if self._fault:
                self._reject(json_response(400, {"error": self._fault, "code": "400"}))
            else:
                super().send_400_response(msg)
        self._watch_answers()

    # Answers

    def on_response_complete(self) -> None:
        self._is_pipelined = bool(self.pipeline)
        super().on_response_complete()  # it starts the next request, if that has come
        self._is_pipelined = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        cycle.transport = JoinedAnswer(self.transport, self.loop)  # type: ignore[assignment]
        serve = partial(self._answer_writer().serve, app)
        if not self._is_pipelined:
            super()._start_asgi_task(cycle, serve)
        elif self._pipelined.waiting < MAX_PIPELINES:
            super()._start_asgi_task(cycle, partial(self._pipelined.serve, serve))
        else:
            self._limits.count_rejected("too many requests wait for an answer to an earlier one")
            self._is_rejected = True
            self.pipeline.clear()
            self.transport.close()

    def _answer_writer(self) -> AnswerWriter:
        if self._answers is None:
            limits = self._limits
            self._answers = AnswerWriter(limits.unsent, limits.answer_timeout_s, self._end_unread)
            self._answers.open(self.transport)
        return self._answers

    def _watch_answers(self) -> None:
        """Give the client time for what it has not read yet, if there is anything."""
        self._answer_writer().watch()

    def _end_unread(self) -> None:
        """Drop the connection of a client that does not read its answers, and what it has not read."""
        self._limits.count_rejected("answers are not read")
        self._is_rejected = True
        self.transport.abort()

    # The hand-over of a media socket

    def _should_upgrade(self) -> bool:
        """Replace uvicorn's test, which reads the last line of `Connection` and of `Upgrade` alone.

        It is called several times for each request.
        """
        return self._is_upgrade

    def handle_websocket_upgrade(self) -> None:
        address = self._client_address()
        try:
            if self._fd_reserve.is_released:
                raise self._fd_reserve.refuse_call()
            if self._is_proxy:
                self._counted_site = self._limits.add_connection(address)
            count = self._limits.add_call(address, self._counted_site)
        except CallEnded as end:
            self._reject(error_response(end))
            return
        self.connections.discard(self)
        if self._answers is not None:
            self._answers.close()
            self._answers = None
        upgrade = UpgradeProtocol(self.config, self.server_state, self.app_state, self.loop)
        upgrade.count = count
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
        if self._head_bytes > MAX_HEAD_BYTES or self._header_lines > MAX_HEADERS:
            raise HeadTooLarge

    def _reject_large_head(self) -> None:
        self._limits.count_rejected("the head of a request is too large")
        words = f"more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers of head"
        self._reject(json_response(431, {"error": words, "code": "431"}))

    def _reject(self, answer: bytes) -> None:
        """Send a whole HTTP answer and close the connection; everything that the client still sends is
        ignored.
        """
        self._is_rejected = True
        self._stop_head_timer()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
            self._watch_answers()

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
