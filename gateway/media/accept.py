# SPDX-License-Identifier: BSD-2-Clause
"""The server side of the opening handshake: a request to upgrade, and its one answer (RFC 6455 §4.2).

The HTTP server creates an `Upgrade` for each request (gateway/server/upgrade_protocol.py) and starts the
application's `ServeCall` with it, which accepts or refuses. An accepted socket belongs to a `Leg`.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from gateway.media.disconnect import CONNECTION_LOST, Disconnect
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Party, status_phrase
from gateway.websocket.handshake import UpgradeRequest, answer, read_request

SERVE_CALL = "serve_call"
"""The key of the application's lifespan state under which the HTTP server finds the `ServeCall`."""

MAX_EARLY_BYTES = 65536
"""Reading pauses beyond this. A client should send nothing before its 101 (RFC 6455 §4.1)."""

_NO_URL = urlsplit("/")


class Upgrade:
    """A request to become a WebSocket, and its answer.

    A call keeps this object to its end, so what only the handshake needed is dropped once it is accepted.
    """

    __slots__ = (
        "_early_data",
        "_transport",
        "address",
        "fault",
        "is_answered",
        "is_at_fault",
        "on_disconnect",
        "on_preempted",
        "on_shutdown",
        "on_verified",
        "request",
        "url",
    )

    def __init__(self, transport: asyncio.Transport, head: bytes, address: str) -> None:
        """`head`: the whole head of the request. `address`: the client's, or "" if there is none."""
        self._transport: asyncio.Transport | None = transport
        self._early_data: list[bytes] = []
        self.address = address
        self.request: UpgradeRequest | None = read_request(head)
        self.fault = self.request.fault
        """The fault of the request, in words for its sender; empty if it can be accepted."""
        self.url = _NO_URL
        """The request target, split."""
        try:
            self.url = split_target(self.request.target)
        except ValueError as error:
            self.fault = f"the request target is no URL: {error}"
        self.is_answered = False
        self.is_at_fault = True
        """Whether it is the client's fault if the call comes to nothing before it is verified."""
        self.on_verified: Callable[[], None] | None = None
        """Called by `verified`; set by the HTTP server. May raise CallEnded."""
        self.on_disconnect: Callable[[Disconnect], None] | None = None
        """Called when the client leaves before the answer; set by the code that serves the call."""
        self.on_preempted: Callable[[], None] | None = None
        """Ends the call in favour of another. Set by the code that serves it, while nothing has shown that
        it is one; None: it goes on.
        """
        self.on_shutdown: Callable[[], None] | None = None
        """Called when the server stops and waits no longer; set by the code that serves the call."""

    @property
    def is_pending(self) -> bool:
        """Whether the client is connected and has had no answer."""
        return not self.is_answered and self._transport is not None and not self._transport.is_closing()

    def header(self, name: str) -> str:
        """Return a request header; several of one name joined with commas, "" for a missing one."""
        assert self.request is not None
        return self.request.header(name)

    def verified(self) -> None:
        """Report to the HTTP server that the call has authenticated, where that is required, and that its
        agent exists. No effect when called again.

        Raises CallEnded(overloaded) if there are too many calls.
        """
        if self.on_verified is not None:
            on_verified, self.on_verified = self.on_verified, None
            on_verified()

    def accept(
        self,
        *,
        max_opening_bytes: int,
        max_buffered_bytes: int,
        on_disconnect: Callable[[Disconnect], None],
        subprotocol: str | None = None,
    ) -> Leg:
        """Answer 101 to a request without a `fault`, and return the leg; see Leg for the arguments.

        `subprotocol`: one of those that the request offers.
        """
        assert self.request is not None
        assert self.request.accept is not None
        assert self._transport is not None
        self.is_answered = True
        self._transport.write(answer(self.request.accept, subprotocol))
        leg = Leg(
            self._transport,
            client=False,
            max_opening_bytes=max_opening_bytes,
            max_buffered_bytes=max_buffered_bytes,
            on_disconnect=on_disconnect,
        )
        self._transport.resume_reading()
        if self._early_data:
            leg.data_received(b"".join(self._early_data))
        self._early_data.clear()
        self.request = None
        self._transport = None
        return leg

    def refuse(self, end: CallEnded) -> None:
        """Answer with the HTTP status of the reason, with its code and detail as JSON, and close.

        No effect if the request was answered already, or the client has left; but the reason is noted.
        """
        self.is_at_fault = end.reason.party is not Party.GATEWAY
        if self._transport is None or not self.is_pending:
            return
        self.is_answered = True
        self._transport.write(error_response(end))
        self._transport.close()

    def abort(self) -> None:
        """Close the socket of a request that was not answered. No effect otherwise."""
        if self._transport is not None and not self.is_answered:
            self._transport.abort()

    # What the HTTP server calls

    def data_received(self, data: bytes) -> None:
        """Keep bytes that come between the request and its answer; they are the leg's."""
        self._early_data.append(data)
        if self._transport is not None and sum(map(len, self._early_data)) > MAX_EARLY_BYTES:
            self._transport.pause_reading()

    def connection_lost(self) -> None:
        """Report that the client has left before it had an answer."""
        if self.on_disconnect is not None and not self.is_answered:
            self.on_disconnect(CONNECTION_LOST)


ServeCall = Callable[[Upgrade], Coroutine[Any, Any, None]]
"""Serves one call from its upgrade to its end. Must answer every upgrade and raise nothing."""


def split_target(target: str) -> SplitResult:
    """Split a request target (RFC 9112 §3.2). Raises ValueError.

    Where it begins with a slash it is a path, also with two slashes: `//ws/v1` is no host `ws`. A proxy that
    merges slashes has passed it on as a path below `/ws/`.
    """
    if not target.startswith("/"):
        return urlsplit(target)
    path, _, query = target.partition("#")[0].partition("?")
    return SplitResult("", "", path, query, "")


def error_response(end: CallEnded) -> bytes:
    """Return the HTTP response that refuses a call: public reason and detail of its end."""
    reason = end.public_reason
    assert reason.status is not None, f"{reason.code} is no answer to an upgrade"
    content = {"error": end.public_detail, "info": end.public_detail, "code": reason.code}
    return json_response(reason.status, content, reason.retry_after)


def json_response(status: int, content: Mapping[str, str], retry_after: int | None = None) -> bytes:
    """Return a whole HTTP response with a JSON body, after which the connection closes.

    `retry_after`: seconds, for the header of that name; None leaves it out.
    """
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
