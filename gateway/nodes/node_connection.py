# SPDX-License-Identifier: BSD-2-Clause
"""A connection from another node, and the requests that come on it.

Requests name a worker of this node in their path. The kernel gives the connection to any worker that listens
at the node's address, and to the gateway's successor too while one replaces another. So a worker whose
connection begins with a request for another hands the connection on, with all that was read of it; from then
on it belongs to that worker.

    the head → its signature → is it for this worker? → the body → the one answer, signed
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import h11
import structlog

from gateway.nodes.node_client import UPGRADE
from gateway.nodes.node_signature import SIGNATURE, NodeVerifier, RequestLine, SignatureRefused
from gateway.nodes.tunnel import far_end_has_left, watch_far_end

log = structlog.get_logger(__name__)

MAX_HEAD_BYTES: Final = 16_384

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""A stream's opening, and what its carrier has sent since; the sender's own limits are far below."""

REQUEST_S: Final = 10.0
"""How long a request may take to arrive, from the first byte to the last."""

IDLE_S: Final = 60.0
"""How long a connection waits for its next request."""

_PATH: Final = re.compile("/nodes/1/([0-9a-f]{32})/(command|question|stop|output|stream)")

_STREAM: Final = "stream"


class StreamNotTaken(Exception):  # noqa: N818 - the answer "no", not a fault
    """The call cannot go on with this stream. `str()` says why."""


class NodeHandlers(Protocol):
    """The part of a worker that does what other nodes request."""

    async def answer(self, kind: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a request of this kind: "command", "question", "stop" or "output".

        Raises KeyError, TypeError or ValueError for one that cannot be understood.
        """

    async def take_stream(
        self, transport: asyncio.Transport, message: bytes, accept: Callable[[], None]
    ) -> None:
        """Make the transport, which is not read now, the carrier's socket of a call.

        `message`: as one that passes a socket within the machine. Call `accept` once the call has it, before
        anything is read or written. Raises StreamNotTaken before that.
        """


PassOn = Callable[[asyncio.Transport, str, bytes, bool], Awaitable[bool]]
"""Gives a connection to the worker with this id, with all that was read of it, and whether it is
to be a stream. Returns False if it cannot.
"""


@dataclass(frozen=True, slots=True)
class NodeServices:
    """The services of every connection. `worker`: this worker's id. `on_begin`, `on_end`: for each one."""

    worker: str
    verifier: NodeVerifier
    handlers: NodeHandlers
    pass_on: PassOn
    on_begin: Callable[[NodeConnection], None]
    on_end: Callable[[NodeConnection], None]


class NodeConnection(asyncio.Protocol):
    """One connection, until it ends, is handed on, or becomes a stream."""

    def __init__(self, services: NodeServices, read: bytes = b"") -> None:
        """`read`: what another worker has read of it before it handed it on."""
        self._services = services
        self._read_elsewhere = read
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._raw: bytearray | None = bytearray()  # all that has come, until a request is for us
        self._transport: asyncio.Transport | None = None
        self._headers: dict[str, str] = {}
        self._method = ""
        self._kind = ""
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_verified = False  # the head of the present request

    def close(self) -> None:
        """End the connection, whatever it does."""
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        watch_far_end(transport)
        self._services.on_begin(self)
        self._wait(REQUEST_S)
        if self._read_elsewhere:
            self.data_received(self._read_elsewhere)
            self._read_elsewhere = b""

    def data_received(self, data: bytes) -> None:
        if self._raw is not None:
            self._raw += data
        self._http.receive_data(data)
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._task is not None:
            self._task.cancel()

    # A request

    def _read(self) -> None:
        try:
            while self._task is None and self._transport is not None:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.Request):
                    self._read_head(event)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > MAX_BODY_BYTES:
                        self._refuse(413, "the body is too large")
                elif isinstance(event, h11.EndOfMessage):
                    self._read_body()
                else:  # the other node has closed it
                    self._transport.close()
                    return
        except h11.RemoteProtocolError as error:
            self._is_verified = False
            self._refuse(error.error_status_hint, "this is no request of a node")

    def _read_head(self, request: h11.Request) -> None:
        self._body.clear()
        self._wait(REQUEST_S)
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        self._method = request.method.decode("latin-1")
        line = RequestLine(self._method, request.target.decode("latin-1"))
        try:
            self._services.verifier.check_head(line, self._headers)
        except SignatureRefused as refused:
            self._report(refused)
            self._refuse(401, f"the request is refused: {refused}")
            return
        self._is_verified = True
        found = _PATH.fullmatch(line.path)
        if line.method != "POST" or found is None:
            self._refuse(404, "there is nothing here")
            return
        worker, self._kind = found.groups()
        length = self._headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self._refuse(413, "the body is too large, or its length is not told")
        elif worker == self._services.worker:
            self._raw = None
        elif self._raw is not None:
            self._begin(self._hand_on(worker, bytes(self._raw)))
        else:
            self._refuse(421, "this connection is another worker's")

    def _read_body(self) -> None:
        body = bytes(self._body)
        try:
            self._services.verifier.use(self._headers, body)
        except SignatureRefused as refused:
            self._report(refused)
            self._refuse(401, f"the request is refused: {refused}")
            return
        self._stop_timer()
        if self._kind == _STREAM:
            self._begin(self._take_stream(body))
        else:
            self._begin(self._answer(body))

    def _begin(self, work: Any) -> None:
        """Do what the request is for; nothing more is read meanwhile."""
        assert self._transport is not None
        self._transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(work)

    async def _answer(self, body: bytes) -> None:
        try:
            request = json.loads(body)
            if not isinstance(request, dict):
                raise TypeError("a request is an object")
            answer = dict(await self._services.handlers.answer(self._kind, request))
        except (KeyError, TypeError, ValueError):
            self._refuse(422, "the request is not understood")
        except Exception:  # the edge of one request: it ends this connection and no other
            log.exception("internal error")
            self._refuse(500, "the request failed")
        else:
            self._send(200, answer)
            self._go_on()

    def _go_on(self) -> None:
        """Wait for the next request."""
        self._task = None
        if self._transport is None or self._transport.is_closing():
            return
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._transport.close()
            return
        self._http.start_next_cycle()
        self._wait(IDLE_S)
        self._transport.resume_reading()
        self._read()

    # A connection that is no more this object's

    async def _hand_on(self, worker: str, raw: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._stop_timer()
        try:
            is_taken = await self._services.pass_on(transport, worker, raw, self._kind == _STREAM)
        except Exception:  # the edge of one connection
            log.exception("internal error")
            transport.abort()
            return
        if is_taken:
            self._leave()
        else:
            self._refuse(404, "there is no such worker here")

    async def _take_stream(self, message: bytes) -> None:
        transport = self._transport
        assert transport is not None
        if self._headers.get("upgrade", "").lower() != UPGRADE:
            self._refuse(426, "a stream needs an upgrade")
            return
        if far_end_has_left(transport):
            transport.abort()
            self._leave()
            return

        def accept() -> None:
            signature = self._services.verifier.sign_answer(self._headers, 101, b"")
            lines = [("Connection", "Upgrade"), ("Upgrade", UPGRADE), (SIGNATURE, signature)]
            answer = h11.InformationalResponse(status_code=101, headers=lines)
            transport.write(self._http.send(answer) or b"")
            self._leave()

        try:
            await self._services.handlers.take_stream(transport, message, accept)
        except StreamNotTaken as refused:
            transport.set_protocol(self)
            self._refuse(409, str(refused))
        except Exception:  # the edge of one stream
            log.exception("internal error")
            transport.abort()
            self._leave()

    def _leave(self) -> None:
        """Have nothing to do with the connection any more."""
        self._stop_timer()
        if self._transport is not None:
            self._transport = None
            self._services.on_end(self)

    # Answers

    def _send(self, status: int, answer: Mapping[str, Any], *, close: bool = False) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        body = json.dumps(answer).encode()
        lines = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if self._is_verified:
            lines.append((SIGNATURE, self._services.verifier.sign_answer(self._headers, status, body)))
        if close:
            lines.append(("Connection", "close"))
        events: list[h11.Event] = [h11.Response(status_code=status, headers=lines)]
        if self._method != "HEAD":  # whose answers have none (RFC 9110 §9.3.2)
            events.append(h11.Data(body))
        sent = [self._http.send(event) for event in (*events, h11.EndOfMessage())]
        self._transport.write(b"".join(part or b"" for part in sent))

    def _refuse(self, status: int, words: str) -> None:
        """Answer, and close the connection."""
        if self._transport is None:
            return
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(status, {"error": words}, close=True)
        self._stop_timer()
        self._transport.close()
        self._leave()

    def _report(self, refused: SignatureRefused) -> None:
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        log.warning("a request to this node is refused", address=address, words=str(refused))

    # Time

    def _wait(self, seconds: float) -> None:
        """Close the connection unless the next step is done by then."""
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._transport is not None:
            self._transport.abort()
