# SPDX-License-Identifier: BSD-2-Clause
"""Middleware for every HTTP answer of the process, the API's and all others.

It adds the request's id and the headers that let a web page read the answer, drops headers that would break
out of their line, turns exceptions into a 500, and reads the rest of a refused body so that the client sees
the answer.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.framework.cross_origin import CrossOrigin
from gateway.api.framework.errors import pcc_error
from gateway.model.json_text import dump
from gateway.model.reasons import Reasons, status_phrase

log = structlog.get_logger(__name__)

REQUEST_ID: Final = "X-Request-Id"
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_STATE_KEY: Final = "request_id"

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 16 * 1024 * 1024
"""Bytes of a refused body that are still read, and seconds for it.

A client that is still writing when the connection closes would lose the answer (RFC 9112 §9.6).
"""

STREAMED: Final = "streamed"
"""A key of the message that begins an answer, for the server: the body comes later, and the head at once."""

_BROKEN_HEADER: Final = re.compile(rb"[\r\n\0]")


def request_id_of(scope: Scope) -> str:
    """Return the id of the scope's request. Only below `ApiMiddleware`."""
    request_id: str = scope["state"][_STATE_KEY]
    return request_id


class ApiMiddleware:
    """The outermost middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        on_request: Callable[[], None] = lambda: None,
        cross_origin: CrossOrigin | None = None,
    ) -> None:
        """Wrap an application.

        `new_id` makes the id of a request without one, or with one that is unfit for a log line.
        `on_request` is called when a request arrives. `cross_origin`: which web pages may read the answers.
        """
        self._app = app
        self._cross_origin = cross_origin
        self._on_request = on_request
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._on_request()
        exchange = _Exchange(scope, receive, send, self._id(scope), self._cross_origin)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                log.debug("the client left")
            except Exception:  # the edge of the request's task: it ends this answer and no other
                log.exception("internal error")
                if exchange.started:
                    return  # part of an answer was sent: the server closes the connection
                answer = json_error(500, "500", Reasons.internal_error.sentence)
                await answer(scope, exchange.receive, exchange.send)

    def _id(self, scope: Scope) -> str:
        given: list[bytes] = [value for name, value in scope["headers"] if name == b"x-request-id"]
        if len(given) == 1 and _SANE_ID.fullmatch(text := given[0].decode("latin-1")):
            return text
        return self._new_id()


class _Exchange:
    """One request and its answer, between the server and the application."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, cross_origin: CrossOrigin | None
    ) -> None:
        scope.setdefault("state", {})[_STATE_KEY] = request_id
        self._scope = scope
        self._cross_origin = cross_origin
        self.request_id = request_id
        self.started = False
        self._receive = receive
        self._send = send
        self._body_is_open = _has_body(scope)
        self._has_length = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_is_open = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._complete_headers(message)
        elif self._body_is_open and self._has_length and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    def _complete_headers(self, message: Message) -> None:
        sound = []
        for name, value in message.get("headers", []):
            if _BROKEN_HEADER.search(name) or _BROKEN_HEADER.search(value):
                log.error("a header was left out: it would break out of its line")
            else:
                sound.append((name, value))
        message["headers"] = sound
        headers = MutableHeaders(raw=sound)
        headers[REQUEST_ID] = self.request_id
        if self._cross_origin is not None:
            self._cross_origin.complete(self._scope, headers)
        if self._body_is_open:
            headers["Connection"] = "close"
        self._has_length = "Content-Length" in headers

    async def _linger(self) -> None:
        """Read on for up to LINGER_S, so that the client reads the answer instead of a connection reset."""
        read = 0
        try:
            async with asyncio.timeout(LINGER_S):
                while self._body_is_open and read < LINGER_BYTES:
                    read += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def _has_body(scope: Scope) -> bool:
    """Return True if a body follows the request's head (RFC 9112 §6.3)."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ")):
            return True
    return False


async def http_exception(_: Request, error: Exception) -> Response:
    """Return Starlette's own errors (no such path, wrong method) as JSON. For `exception_handlers`."""
    assert isinstance(error, HTTPException)
    answer = json_error(error.status_code, str(error.status_code), status_phrase(error.status_code))
    answer.headers.update(error.headers or {})
    return answer


def json_error(status: int, code: str, detail: str) -> Response:
    """Return an error in the style PCC."""
    body = dump(pcc_error(status, code, detail).model_dump())
    return Response(body, status, media_type="application/json")
