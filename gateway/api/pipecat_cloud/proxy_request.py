# SPDX-License-Identifier: BSD-2-Clause
"""One HTTP request that is forwarded to an instance, and its answer; both are streamed.

Back-pressure holds both ways: the client's body is read as fast as the instance accepts it, and the
instance's answer as fast as the client does. The exchange ends early if the client leaves, if no byte moves
for too long, if the instance closes, if the session is over, or if the client's key is revoked. Before the
answer's head has been sent this becomes an error answer; after it the connection is closed, so that the
client does not take a truncated answer for a complete one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from yarl import URL

from gateway.api.framework.errors import ApiError, too_slow
from gateway.api.framework.middleware import STREAMED
from gateway.api.framework.operation import Style
from gateway.calls.session_access import SessionAccess
from gateway.calls.session_url import HOP_BY_HOP, OF_THE_ORIGIN, Header, end_to_end, is_header
from gateway.calls.termination import Termination
from gateway.model.connection_errors import cause_without_address
from gateway.model.os_limits import is_out_of_resources
from gateway.model.reasons import CallEnded, Reasons
from gateway.observability.log import log_at
from gateway.store.interface import StoreFailed

log = structlog.get_logger(__name__)

READ_BUFFER_BYTES: Final = 32768
"""aiohttp stops reading an answer when twice this many bytes are unread."""

MIN_PART_BYTES: Final = 512
"""Bytes of a client's body that count as progress: a byte a second does not."""

MAX_HEADER_BYTES: Final = 65536
"""The longest line of an answer's head."""

WATCH_AFTER_S: Final = 0.25
"""How old an exchange is before it is ended with its session or key."""

_WITHOUT_BODY: Final = (204, 304)
_ADDED_BY_AIOHTTP: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class ProxyRequest:
    """One forwarded request, from its authentication to the end of its answer."""

    def __init__(self, request: Request, stall_s: float) -> None:
        """Begin to read from the client. `stall_s`: seconds without a byte in either direction that end it.

        Raises ApiError if the request has a body and asks for an upgrade. Call `close` in the end.
        """
        self._request = request
        self._stall_s = stall_s
        self._termination = Termination()
        self._loop = asyncio.get_running_loop()
        self._body_is_open = _has_body(request)
        self._has_body = self._body_is_open
        self._pending: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue(maxsize=1)
        self._answer: aiohttp.ClientResponse | None = None
        self._last_byte_at = self._loop.time()
        self._part_bytes = 0  # of the client's body, since the last progress
        self._timer = self._loop.call_later(stall_s, self._check)
        self._watch_timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listening = self._loop.create_task(self._listen())

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Interrupt the block, which precedes the answer's head, when the exchange ends early.

        Raises ClientDisconnect if the client left, ApiError (408) if it stalled, CallEnded for the instance.
        """
        try:
            async with self._termination.cancel_scope():
                yield
        except CallEnded as end:
            if end.reason is Reasons.caller_hangup:
                raise ClientDisconnect from None
            if end.reason is Reasons.carrier_stalled:
                raise too_slow(self._stall_s, Style.PCC) from None
            raise

    async def send(
        self,
        client: aiohttp.ClientSession,
        url: URL,
        headers: list[tuple[str, str]],
        *,
        connect_s: float | None = None,
    ) -> Response:
        """Send the request, once, and return the answer when its head has arrived. Raises CallEnded.

        `connect_s`: seconds that the connection may take; None for as many as the exchange may stall.
        """
        self._note_progress()
        try:
            answer = self._answer = await client.request(
                self._request.method,
                url,
                headers=headers,
                skip_auto_headers=_ADDED_BY_AIOHTTP,
                data=self._body() if self._has_body else None,
                allow_redirects=False,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
                middlewares=_MIDDLEWARES,
            )
        except aiohttp.ClientConnectorError as error:
            detail = f"cannot be connected: {cause_without_address(error.os_error)}"
            if is_out_of_resources(error.os_error):
                raise CallEnded(Reasons.overloaded, f"the agent {detail}") from None
            raise _unreachable(url, detail) from None
        except aiohttp.ConnectionTimeoutError:
            raise _unreachable(url, "cannot be connected: no answer in time") from None
        except aiohttp.ClientResponseError as error:
            raise _unreachable(url, f"did not answer as an HTTP server: {error.message}") from None
        except (aiohttp.ClientError, ConnectionError):
            raise _unreachable(url, "closed the connection without an answer") from None
        return _StreamedAnswer(self, answer.status, _headers_of(answer, url))

    async def send_answer(self, head: dict[str, object], send: Send) -> None:
        """Send the answer's head, then its body as it arrives.

        A failure of either end is logged, not raised.
        """
        assert self._answer is not None
        try:
            async with self._termination.cancel_scope():
                await send(head)
                while chunk := await self._answer.content.readany():
                    self._note_progress()
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    self._note_progress()
                await self._stop_listening()  # the server reads the rest of the request itself
                await send({"type": "http.response.body", "body": b""})
        except CallEnded as end:
            _log_broken_off(end)
        except (aiohttp.ClientError, ConnectionError):
            _log_broken_off(CallEnded(Reasons.agent_lost, "the instance broke it off"))
        finally:
            await self.close()
        # The server closes the connection after an unfinished answer, which the client notices.

    def end_with(self, access: SessionAccess) -> None:
        """End the exchange when the client's access ends. Most are over before that is looked at."""
        self._watch_timer = self._loop.call_later(WATCH_AFTER_S, self._watch, access)

    def _watch(self, access: SessionAccess) -> None:
        self._watching = self._loop.create_task(self._watch_access(access))

    async def _watch_access(self, access: SessionAccess) -> None:
        over_end = CallEnded(Reasons.not_found, "the session is over")
        try:
            async with access.watched(self._termination.set, over_end):
                await self._loop.create_future()  # until `close` cancels it
        except StoreFailed as error:
            self._termination.set(CallEnded(Reasons.store_failed, str(error)))

    async def close(self) -> None:
        """Stop reading from the client and close the connection to the instance.

        May be called more than once.
        """
        self._timer.cancel()
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._answer is not None:
            self._answer.close()
        await self._stop_listening()

    # The client's body

    async def _listen(self) -> None:
        """Read from the client until it disconnects: the chunks of its body first.

        Nothing else reads from it.
        """
        while True:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                self._termination.set(CallEnded(Reasons.caller_hangup))
                return
            if self._body_is_open:
                chunk, more = message.get("body", b""), bool(message.get("more_body", False))
                self._note_part(len(chunk), is_last=not more)
                await self._pending.put((chunk, more))
                self._body_is_open = more

    async def _body(self) -> AsyncIterator[bytes]:
        if self._pending.empty():
            yield b""  # aiohttp sends the head with the first chunk, which may take long
        more = True
        while more:
            chunk, more = await self._pending.get()
            self._note_part(len(chunk), is_last=not more)
            if chunk:
                yield chunk

    async def _stop_listening(self) -> None:
        if not self._listening.done():
            self._listening.cancel()
            await asyncio.wait([self._listening])

    # Stalls

    def _note_progress(self) -> None:
        self._last_byte_at = self._loop.time()

    def _note_part(self, size: int, *, is_last: bool) -> None:
        """Count bytes of the client's body that have come, or gone to the instance."""
        self._part_bytes += size
        if is_last or self._part_bytes >= MIN_PART_BYTES:
            self._part_bytes = 0
            self._note_progress()

    def _check(self) -> None:
        left_s = self._last_byte_at + self._stall_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check)
        elif self._body_is_open and self._pending.empty() and self._answer is None:
            self._termination.set(CallEnded(Reasons.carrier_stalled, "the client does not send its request"))
        else:
            detail = f"nothing came from the instance, or went to it, for {self._stall_s:g} s"
            self._termination.set(CallEnded(Reasons.agent_stalled, detail))


class _StreamedAnswer(Response):
    """The instance's answer, whose body is still to come."""

    def __init__(self, proxy_request: ProxyRequest, status: int, headers: list[Header]) -> None:
        self._proxy_request = proxy_request
        self.status_code = status
        self.raw_headers = headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: dict[str, object] = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
            STREAMED: True,
        }
        await self._proxy_request.send_answer(head, send)


class _ConnectionLost(aiohttp.ClientError):
    """The connection was lost before the answer."""


async def _without_retry(
    request: aiohttp.ClientRequest,
    handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a request whose method it considers idempotent: the agent may not."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost from error


_MIDDLEWARES: Final = (_without_retry,)


def _headers_of(answer: aiohttp.ClientResponse, url: URL) -> list[Header]:
    """Return the headers of the answer that go to the client.

    Raises CallEnded if one of them is malformed.
    """
    if not 200 <= answer.status <= 599:
        raise _unreachable(url, f"answered with the status {answer.status}")
    # The server behind us writes a Date of its own (RFC 9110 §6.6.1 wants one).
    dropped = HOP_BY_HOP | OF_THE_ORIGIN | {b"date"}
    if answer.status in _WITHOUT_BODY or "Transfer-Encoding" in answer.headers:
        dropped |= {b"content-length"}  # RFC 9110 §8.6, RFC 9112 §6.3
    headers = end_to_end(answer.raw_headers, dropped)
    if not all(map(is_header, headers)):
        raise _unreachable(url, "answered with a header that is none")
    return headers


def _has_body(request: Request) -> bool:
    """Return True if a body follows the request's head (RFC 9112 §6.3).

    Raises ApiError if it would be lost.
    """
    headers = request.headers
    if "Transfer-Encoding" not in headers and not headers.get("Content-Length", "").strip("0 "):
        return False
    if "Upgrade" in headers:  # the server reads no body behind one
        raise ApiError(400, "400", "A request with a body cannot ask for an upgrade as well")
    return True


def _log_broken_off(end: CallEnded) -> None:
    severity = end.reason.severity(ran=True)
    log_at(log, severity, "answer broken off", reason=end.reason.code, words=end.detail)


def _unreachable(url: URL, detail: str) -> CallEnded:
    return CallEnded(
        Reasons.agent_unreachable, f"{url.authority} {detail}", public_detail=f"the agent {detail}"
    )
