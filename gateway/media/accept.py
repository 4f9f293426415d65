# SPDX-License-Identifier: BSD-2-Clause
"""The upgrade: where uvicorn hands a socket over to the media plane.

uvicorn takes a class as `ws=`. On an Upgrade request it makes one object of it, calls `connection_made`,
feeds it the request's head, rebuilt from what it parsed, and makes it the transport's protocol. None of
that is promised, so the range of uvicorn is pinned and a test watches the hand-over.

The object decides nothing: it parses the request, starts whatever `serve_call` the application put into
its lifespan state, and lets that accept or refuse. An accepted socket is a `Leg` and nothing of
uvicorn's any more, but it stays in uvicorn's books until the call has ended, so that a stop waits for it.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.media.disconnect import CONNECTION_LOST, Disconnect
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, status_phrase
from gateway.websocket.handshake import UpgradeRequest, answer, read_request

SERVE_CALL = "serve_call"
"""The key of the lifespan state that holds the application's `ServeCall`."""

MAX_EARLY_BYTES = 65536
"""What a client may send before it has its 101, which it should not (RFC 6455 §4.1)."""


_NO_URL = urlsplit("/")


class Upgrade(asyncio.Protocol):
    """A request to become a WebSocket, not answered yet."""

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
        self._early: list[bytes] = []
        self._asked = False
        self.request: UpgradeRequest | None = None
        self.url = _NO_URL
        """The request target, split."""
        self.fault = ""
        """What is wrong with the request itself, in words; empty where it asks for a WebSocket."""
        self.answered = False
        self.on_disconnect: Callable[[Disconnect], None] | None = None
        """Set by whoever serves the call: the client has left before it had its answer."""
        self.on_shutdown: Callable[[], None] | None = None
        """Set by whoever serves the call: the server stops now and waits for nobody."""
        self.address = ""
        """The client's address, "" where there is none."""
        self.on_done: Callable[[], None] | None = None
        """Set by whoever made this: the call is over."""

    @property
    def waits(self) -> bool:
        """Whether the client is still there and has had no answer."""
        return not self.answered and not self.transport.is_closing()

    def header(self, name: str) -> str:
        """A request header; several of one name are joined with commas, a missing one is empty."""
        assert self.request is not None
        return self.request.header(name)

    def accept(
        self,
        *,
        max_opening_bytes: int,
        max_buffered_bytes: int,
        on_disconnect: Callable[[Disconnect], None],
        subprotocol: str | None = None,
    ) -> Leg:
        """Answers 101 to a request without `fault`; with `subprotocol`, one of those that it named."""
        assert self.request is not None
        assert self.request.accept is not None
        self._send(answer(self.request.accept, subprotocol))
        leg = Leg(
            self.transport,
            client=False,
            max_opening_bytes=max_opening_bytes,
            max_buffered_bytes=max_buffered_bytes,
            on_disconnect=on_disconnect,
        )
        self.transport.resume_reading()
        if self._early:
            leg.data_received(b"".join(self._early))
        # The call keeps this object to its end: what only the handshake needed is let go.
        self._early.clear()
        self.request = None
        del self.transport
        return leg

    def refuse(self, end: CallEnded) -> None:
        """Answers with the HTTP status of the ending, its code and its words as JSON; closes."""
        if not self.waits:
            return
        self._send(refusal_response(end))
        self.transport.close()

    # What uvicorn and the transport say

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._asked:
            self._early.append(data)
            if sum(map(len, self._early)) > MAX_EARLY_BYTES:
                self.transport.pause_reading()
            return
        self._asked = True
        self.request = asked = read_request(data)
        self.fault = asked.fault
        try:
            self.url = urlsplit(asked.target)
        except ValueError as error:
            self.fault = f"the request target is no URL: {error}"
        task = self._loop.create_task(self._serve_call(self))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.on_disconnect is not None and not self.answered:
            self.on_disconnect(CONNECTION_LOST)

    def shutdown(self) -> None:
        """uvicorn stops and wants its connections closed."""
        if self.on_shutdown is not None:
            self.on_shutdown()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(self)
        self._tasks.discard(task)
        if not self.answered:
            self.transport.abort()
        if self.on_done is not None:
            self.on_done()

    def _send(self, data: bytes) -> None:
        self.answered = True
        self.transport.write(data)


ServeCall = Callable[[Upgrade], Coroutine[Any, Any, None]]
"""Tells the story of one call, from its upgrade to its end; answers every upgrade, raises nothing."""


def refusal_response(end: CallEnded) -> bytes:
    """The whole HTTP answer that refuses: status, code and words of the ending; the connection closes."""
    reason = end.reason
    assert reason.status is not None, f"{reason.code} is no answer to an upgrade"
    return json_response(reason.status, {"error": end.detail, "code": reason.code}, reason.retry_after)


def json_response(status: int, content: Mapping[str, str], retry_after: int | None = None) -> bytes:
    """A whole HTTP answer with JSON in it, after which the connection closes. `retry_after`: seconds."""
    body = json.dumps(content).encode()
    retry = f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
    head = (
        f"HTTP/1.1 {status} {status_phrase(status)}\r\n"
        f"Date: {email.utils.formatdate(usegmt=True)}\r\n"
        "Connection: close\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Content-Type: application/json\r\n{retry}\r\n"
    )
    return head.encode() + body
