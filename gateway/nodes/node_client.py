# SPDX-License-Identifier: BSD-2-Clause
"""Requests to another node: each has one answer, or none within a bounded time.

A connection belongs to the worker that its first request was for (node_connection.py), and serves other
requests to that worker as long as it is not idle for too long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, urlsplit

import h11

from gateway.dns.resolver import resolver_of
from gateway.media.outgoing_leg import tls_context
from gateway.nodes.node_signature import SIGNATURE, NodeSigner, RequestLine

CONNECT_S: Final = 1.0
"""How long a connection to a node may take, its handshake included."""

TRIES: Final = 2
"""Connections that are opened for one request, if the first is closed without a byte of an answer."""

IDLE_S: Final = 20.0
"""A connection that was idle for so long is used no more; less than the other end waits."""

MAX_IDLE: Final = 4
"""Connections to one worker that stay open, and no more."""

MAX_HEAD_BYTES: Final = 16_384
MAX_ANSWER_BYTES: Final = 65_536

UPGRADE: Final = "patchbay-stream"
"""The protocol of a connection that has become a carrier's socket."""

READ_BYTES: Final = 65_536


class NodeUnreachable(Exception):  # noqa: N818 - read as a sentence
    """A node has given no answer that counts. `str()` says why. `was_sent`: the request may have arrived."""

    def __init__(self, cause: str, *, was_sent: bool) -> None:
        super().__init__(cause)
        self.was_sent = was_sent


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The answer of a node that knows the secret."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """A connection that stands for a carrier's socket at its other end. `early`: what has come on it."""

    transport: asyncio.Transport
    early: bytes


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """A request to one worker. `path`: names it. `url`: of its node. `max_answer_bytes`: of the answer."""

    worker: str
    url: str
    path: str
    body: bytes
    max_answer_bytes: int = MAX_ANSWER_BYTES


class NodeClient:
    """The connections of one worker to all others. It belongs to one event loop."""

    def __init__(self, signer: NodeSigner) -> None:
        self._signer = signer
        self._idle: dict[str, list[_Connection]] = {}  # by worker

    async def ask(self, request: NodeRequest, timeout_s: float) -> NodeAnswer:
        """Send a request, and return its answer. Raises NodeUnreachable, within `timeout_s`."""
        answer, connection = await self._send(request, {}, timeout_s)
        if connection.is_reusable:
            self._keep(request.worker, connection)
        else:
            connection.close()
        return answer

    async def open_stream(self, request: NodeRequest, timeout_s: float) -> OpenedStream | NodeAnswer:
        """Send a request whose connection is to become a stream. Return that, or the answer that refuses it.

        The transport of a stream is not read before `resume_reading`. Raises NodeUnreachable.
        """
        headers = {"Connection": "Upgrade", "Upgrade": UPGRADE}
        answer, connection = await self._send(request, headers, timeout_s)
        if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
            connection.close()
            return answer
        return OpenedStream(connection.transport, connection.early)

    def close(self) -> None:
        """Close all connections that serve no request."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _send(
        self, request: NodeRequest, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[NodeAnswer, _Connection]:
        try:
            async with asyncio.timeout(timeout_s):
                while (idle := self._take(request.worker)) is not None:
                    try:
                        return await self._exchange(idle, request, headers), idle
                    except _ClosedMeanwhileError:
                        continue  # the other end has closed it, as it may, before it had the request
                for _ in range(TRIES):
                    connection = await _connect(request.url)
                    try:
                        return await self._exchange(connection, request, headers), connection
                    except _ClosedMeanwhileError:
                        continue  # a worker of that node ends, and others listen at the same address
            raise NodeUnreachable("it closes the connection", was_sent=True)
        except TimeoutError:
            raise NodeUnreachable(f"no answer within {timeout_s:g} s", was_sent=True) from None

    async def _exchange(
        self, connection: _Connection, request: NodeRequest, headers: Mapping[str, str]
    ) -> NodeAnswer:
        signed = self._signer.sign(RequestLine("POST", request.path), request.body)
        host = urlsplit(request.url).netloc
        try:
            connection.send(request, {"Host": host, **headers, **signed})
            answer = await connection.answered
            genuine = self._signer.is_answer(signed, answer.status, answer.body, connection.signature)
            if not genuine:
                words = f"its answer, {answer.status}, is not signed by a node"
                if answer.status == HTTPStatus.UNAUTHORIZED:
                    words = "it refuses our signature: another node_secret, or another time"
                raise NodeUnreachable(words, was_sent=answer.status != HTTPStatus.UNAUTHORIZED)
        except BaseException:
            connection.close()
            raise
        return answer

    def _take(self, worker: str) -> _Connection | None:
        """Return a connection to a worker that was not idle for long, or None."""
        unused = self._idle.get(worker, [])
        while unused:
            connection = unused.pop()
            if not unused:
                del self._idle[worker]
            if connection.is_open and time.monotonic() - connection.idle_since < IDLE_S:
                connection.begin()
                return connection
            connection.close()
        return None

    def _keep(self, worker: str, connection: _Connection) -> None:
        self._drop_old()
        unused = self._idle.setdefault(worker, [])
        if len(unused) >= MAX_IDLE:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        unused.append(connection)

    def _drop_old(self) -> None:
        """Close the connections to workers that nothing was sent to for long: they may be gone."""
        limit = time.monotonic() - IDLE_S
        for worker, unused in list(self._idle.items()):
            while unused and (unused[0].idle_since < limit or not unused[0].is_open):
                unused.pop(0).close()
            if not unused:
                del self._idle[worker]


class _ClosedMeanwhileError(Exception):
    """The far end has closed the connection without a byte of an answer."""


async def _connect(url: str) -> _Connection:
    """Connect to a node. Raises NodeUnreachable."""
    parts = urlsplit(url)
    failure = "it cannot be reached"
    try:
        async with asyncio.timeout(CONNECT_S):
            addresses = await resolver_of(asyncio.get_running_loop()).resolve(parts.hostname or "")
            for address in addresses:
                try:
                    return await _connect_to(address, parts)
                except OSError as error:
                    failure = (error.strerror or str(error) or type(error).__name__).lower()
    except TimeoutError:
        failure = f"no connection within {CONNECT_S:g} s"
    except OSError as error:
        failure = (error.strerror or str(error)).lower()
    raise NodeUnreachable(failure, was_sent=False)


async def _connect_to(address: str, parts: SplitResult) -> _Connection:
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        _Connection,
        address,
        port,
        ssl=tls_context() if is_tls else None,
        server_hostname=parts.hostname if is_tls else None,
    )
    return connection


class _Connection(asyncio.Protocol):
    """One connection to a worker, and the request that it serves."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.idle_since = 0.0
        self.signature = ""
        """Of the answer, as it came."""
        self.early = b""
        """The bytes behind the answer to a request to upgrade."""
        self.answered: asyncio.Future[NodeAnswer]
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._status = 0
        self._max_answer_bytes = MAX_ANSWER_BYTES
        self._body = b""
        self._has_answer = False  # a byte of it
        self.begin()

    def begin(self) -> None:
        """Get ready for another request."""
        self.answered = asyncio.get_running_loop().create_future()
        self._status, self._body, self.signature, self._has_answer = 0, b"", "", False

    @property
    def is_open(self) -> bool:
        """Whether it may serve another request."""
        return not self.transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the answer was read to its end, and another request may follow."""
        return self.is_open and self._http.our_state is h11.IDLE and self._http.their_state is h11.IDLE

    def close(self) -> None:
        """Close it. What was sent and not answered may have been received."""
        self.transport.abort()
        self.answered.cancel()

    def send(self, request: NodeRequest, headers: Mapping[str, str]) -> None:
        """Send a request."""
        self._max_answer_bytes = request.max_answer_bytes
        lines = [*headers.items(), ("Content-Length", str(len(request.body)))]
        head = h11.Request(method="POST", target=request.path, headers=lines)
        parts = (self._http.send(head), self._http.send(h11.Data(request.body)))
        end = self._http.send(h11.EndOfMessage())
        self.transport.write(b"".join(part or b"" for part in (*parts, end)))

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._has_answer = True
        try:
            self._http.receive_data(data)
            self._read()
        except h11.RemoteProtocolError as error:
            self._fail(NodeUnreachable(f"its answer is no HTTP: {error}", was_sent=True))
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._has_answer:
            self._fail(NodeUnreachable("its answer broke off", was_sent=True))
        else:
            self._fail(_ClosedMeanwhileError())

    def _read(self) -> None:
        while not self.answered.done():
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Response | h11.InformationalResponse):
                self._status = event.status_code
                self.signature = dict(event.headers).get(SIGNATURE.encode(), b"").decode("latin-1")
                if event.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                    self.transport.pause_reading()  # until the stream has a reader
                    self.early = self._http.trailing_data[0]
                    self.answered.set_result(NodeAnswer(event.status_code, b""))
                    return
            elif isinstance(event, h11.Data):
                self._body += bytes(event.data)
                if len(self._body) > self._max_answer_bytes:
                    self._fail(NodeUnreachable("its answer is too large", was_sent=True))
                    self.transport.abort()
            elif isinstance(event, h11.EndOfMessage):
                if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                self.answered.set_result(NodeAnswer(self._status, self._body))
            else:  # the other end has closed it between two requests
                return

    def _fail(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()  # nobody may wait for it any more
