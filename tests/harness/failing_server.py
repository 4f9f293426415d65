# SPDX-License-Identifier: BSD-2-Clause
"""The base of all fake HTTP servers, and every way in which they can fail.

Each has a port of its own, records requests, answers as the real server would, and fails on request:
`server.next("dial", stalls)`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, Self, TypeVar

from aiohttp import web

from tests.harness.agent import AgentPort
from tests.harness.socket_servers import WebServer


class Operation(Protocol):
    """A recorded request. `operation`: as in `FailingServer.next`."""

    @property
    def operation(self) -> str: ...


Seen = TypeVar("Seen", bound=Operation)
Behaviour = Callable[
    ["FailingServer[Any]", web.Request, Callable[[], web.Response]], Awaitable[web.StreamResponse]
]
"""How one request is answered. The last argument carries the request out and returns the right answer."""


class FailingServer(Generic[Seen]):
    """A server on a port of its own, or on a reserved one."""

    def __init__(self, port: AgentPort | None = None) -> None:
        self._own = AgentPort() if port is None else None
        self._port = port or self._own
        self._next: dict[str, deque[Behaviour]] = defaultdict(deque)
        self._server: WebServer | None = None
        self.seen: list[Seen] = []
        self.stopping = asyncio.Event()

    @property
    def root(self) -> str:
        """The base URL."""
        assert self._port is not None
        return self._port.url

    def add_routes(self, app: web.Application) -> None:
        """Add the server's routes."""
        raise NotImplementedError

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        """Return an error response in the server's own form."""
        raise NotImplementedError

    def next(self, operation: str, *behaviours: Behaviour) -> None:
        """Answer the next requests of this kind with these behaviours, one each."""
        self._next[operation] += behaviours

    def requests_of(self, operation: str) -> list[Seen]:
        """Return the recorded requests of one kind."""
        return [seen for seen in self.seen if seen.operation == operation]

    async def start(self) -> Self:
        """Listen."""
        assert self._port is not None
        app = web.Application()
        self.add_routes(app)
        self._server = WebServer(app)
        await self._server.start(self._port.listen())
        return self

    async def stop(self) -> None:
        """Close the server and its connections."""
        self.stopping.set()
        if self._server is not None:
            await self._server.stop()
        if self._own is not None:
            self._own.free()

    async def respond(
        self, operation: str, request: web.Request, act: Callable[[], web.Response]
    ) -> web.StreamResponse:
        """Answer with the next behaviour of the test's, or with `act`."""
        waiting = self._next[operation]
        return await waiting.popleft()(self, request, act) if waiting else act()


# How one request may be answered instead


def fails(status: int, code: int | str | None = None, text: str = "", **headers: str) -> Behaviour:
    """Return a behaviour that answers with an error of the server's. Headers: names with underscores."""

    async def answer(server: FailingServer[Any], request: web.Request, act: Any) -> web.Response:
        return server.error(status, code, text, **_named(headers))

    return answer


def says(body: Any, *, status: int = 200, makes: bool = False, **headers: str) -> Behaviour:
    """Return a behaviour that answers with JSON, or text as HTML. `makes`: and carries the request out."""

    async def answer(
        server: FailingServer[Any], request: web.Request, act: Callable[[], Any]
    ) -> web.Response:
        if makes:
            act()
        named = _named(headers)
        if isinstance(body, str):
            return web.Response(text=body, status=status, content_type="text/html", headers=named)
        return web.json_response(body, status=status, headers=named)

    return answer


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def stalls(server: FailingServer[Any], request: web.Request, act: Callable[[], Any]) -> web.Response:
    """Never answer."""
    await server.stopping.wait()
    return web.Response(status=503)


async def acts_then_stalls(
    server: FailingServer[Any], request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Carry the request out, and never answer."""
    act()
    return await stalls(server, request, act)


async def resets(server: FailingServer[Any], request: web.Request, act: Callable[[], Any]) -> web.Response:
    """Reset the connection."""
    assert request.transport is not None
    raw = request.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response(status=503)


async def acts_then_resets(
    server: FailingServer[Any], request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Carry the request out, and reset the connection."""
    act()
    return await resets(server, request, act)


async def trickles(
    server: FailingServer[Any], request: web.Request, act: Callable[[], Any]
) -> web.StreamResponse:
    """Send a body without an end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while not server.stopping.is_set():
        await response.write(b" " * 65536)
    return response
