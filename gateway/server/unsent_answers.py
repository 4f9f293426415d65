# SPDX-License-Identifier: BSD-2-Clause
"""Answers that a client has asked for and does not take: how much memory they hold, and for how long.

uvicorn gives a whole answer to the transport, waits for its client without a limit, and closes a connection
only when all of it was taken. Here a large answer is written in pieces, so that the transport never holds
much of it; the client must take what is written at `MIN_BYTES_PER_S` at least; and one address may have only
so many bytes waiting (docs/decisions/0035-unsent-answers.md). No I/O of its own but writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.framework.middleware import STREAMED
from gateway.auth.rate_limits import site_of
from gateway.model.reasons import Reasons

PIECE_BYTES: Final = 65_536
"""An answer with more bytes is written in pieces of so many."""

MIN_BYTES_PER_S: Final = 1000
"""A client that takes less in the long run is disconnected: an answer of 3 MB may take 50 minutes."""

TOO_MUCH: Final = b'{"error":"too many answers wait for this address to read them","code":"429"}'


class UnsentBytes:
    """The bytes of large answers that a worker holds for its clients, by address."""

    def __init__(self, max_per_site: int) -> None:
        self._max_per_site = max_per_site
        self._by_site: Counter[str] = Counter()

    def add(self, site: str, size: int) -> bool:
        """Count `size` bytes for an address. Return False, with no effect, if they would be too many."""
        if self._by_site[site] + size > self._max_per_site:
            return False
        self._by_site[site] += size
        return True

    def of(self, site: str) -> int:
        """Return the bytes that are counted for an address."""
        return self._by_site[site]

    def remove(self, site: str, size: int) -> None:
        """Count bytes as taken."""
        self._by_site[site] -= size
        if self._by_site[site] <= 0:
            del self._by_site[site]


class AnswerWriter:
    """Writes the answers of one connection, one at a time, and disconnects a client that does not take them.

    `watch` is to be called whenever the transport may have bytes that the client has not taken.
    """

    def __init__(self, unsent: UnsentBytes, timeout_s: float, on_unread: Callable[[], None]) -> None:
        """`timeout_s`: seconds after which the client's pace is looked at, again and again.

        `on_unread` is called, at most once, if it is too slow: it ends the connection.
        """
        self._unsent = unsent
        self._timeout_s = timeout_s
        self._on_unread = on_unread
        self._transport: asyncio.WriteTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._written = 0  # bytes of bodies; heads are short

    def open(self, transport: asyncio.WriteTransport) -> None:
        """Begin to write to `transport`."""
        self._transport = transport

    def close(self) -> None:
        """Stop watching: the connection is over, or is somebody else's."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run an application for one request, and write its answer."""
        client = scope.get("client")
        answer = _Answer(self, self._unsent, site_of(client[0]) if client else "", send)
        try:
            await app(scope, receive, answer.send)
        finally:
            answer.release()
            self.watch()

    def count_written(self, size: int) -> None:
        """Take note that `size` bytes of a body were written."""
        self._written += size

    def give_up(self) -> None:
        """End the connection."""
        self.close()
        self._on_unread()

    def watch(self) -> None:
        """Give the client time for what it has not taken yet, if there is anything."""
        if self._timer is None and self._transport is not None:
            unsent = self._transport.get_write_buffer_size()
            if unsent:
                self._wait(self._written - unsent)

    def _wait(self, taken: int) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timeout_s, self._check, taken)

    def _check(self, taken_before: int) -> None:
        self._timer = None
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if not unsent:
            return
        taken = self._written - unsent
        if taken - taken_before < MIN_BYTES_PER_S * self._timeout_s:
            self.give_up()
        else:
            self._wait(taken)


class _Answer:
    """One answer on its way from the application to the server."""

    __slots__ = ("_head", "_held", "_is_refused", "_send", "_site", "_unsent", "_writer")

    def __init__(self, writer: AnswerWriter, unsent: UnsentBytes, site: str, send: Send) -> None:
        self._writer = writer
        self._unsent = unsent
        self._site = site
        self._send = send
        self._head: Message | None = None  # of a large answer, until its first bytes come
        self._held = 0
        self._is_refused = False

    async def send(self, message: Message) -> None:
        """Send a message of the application's. Large bodies go in pieces, or are refused."""
        if self._is_refused:
            return
        body = message.get("body", b"")
        if message["type"] == "http.response.start" and not message.get(STREAMED) and _is_large(message):
            self._head = message  # it may become another one
        elif len(body) > PIECE_BYTES:
            await self._send_large(message, body)
        else:
            await self._send_head()
            await self._send(message)
            self._writer.count_written(len(body))

    def release(self) -> None:
        """Count what is left as taken: the application is done, or its client has left."""
        if self._held:
            self._unsent.remove(self._site, self._held)
            self._held = 0

    async def _send_head(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)

    async def _send_large(self, message: Message, body: bytes) -> None:
        if not self._unsent.add(self._site, len(body)):
            await self._refuse()
            return
        self._held = len(body)
        await self._send_head()
        for at in range(0, len(body), PIECE_BYTES):
            piece = bytes(body[at : at + PIECE_BYTES])
            more = at + PIECE_BYTES < len(body) or message.get("more_body", False)
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})
            self._writer.count_written(len(piece))
        self.release()

    async def _refuse(self) -> None:
        """Answer 429 in place of a large answer, or end one that has begun: its client notices."""
        self._is_refused = True
        if self._head is None:
            self._writer.give_up()
            return
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(TOO_MUCH)).encode()),
            (b"retry-after", str(Reasons.rate_limited.retry_after).encode()),
            (b"connection", b"close"),
        ]
        ids = [each for each in self._head["headers"] if each[0].lower() == b"x-request-id"]
        await self._send({"type": "http.response.start", "status": 429, "headers": headers + ids})
        await self._send({"type": "http.response.body", "body": TOO_MUCH})


def _is_large(head: Message) -> bool:
    """Return True if a head announces a body that is written in pieces."""
    values: list[Any] = [
        value for name, value in head.get("headers", ()) if name.lower() == b"content-length"
    ]
    return any(value.isdigit() and int(value) > PIECE_BYTES for value in values)
