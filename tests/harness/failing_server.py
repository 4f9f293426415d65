# SPDX-License-Identifier: BSD-2-Clause
"""What the HTTP servers for tests have in common, and every way in which they fail.

Each is on a port of its own, keeps what was asked, answers as the one it stands for would, and fails on
request: `server.next("dial", stalls)`.
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
    """One request as it came. `operation`: as in `FailingServer.next`."""

    @property
    def operation(self) -> str: ...


Seen = TypeVar("Seen", bound=Operation)
Behaviour = Callable[
    ["FailingServer[Any]", web.Request, Callable[[], web.Response]], Awaitable[web.StreamResponse]
]
"""How one request is answered; the last argument does what was asked, and gives the right answer."""


class FailingServer(Generic[Seen]):
    """A server on a port of its own, or on one that is kept for it."""

    def __init__(self, port: AgentPort | None = None) -> None:
        self._own = AgentPort() if port is None else None
        self._port = port or self._own
        self._next: dict[str, deque[Behaviour]] = defaultdict(deque)
        self._server: WebServer | None = None
        self.seen: list[Seen] = []
        self.stopping = asyncio.Event()

    @property
    def root(self) -> str:
        assert self._port is not None
        return self._port.url

    def add_routes(self, app: web.Application) -> None:
        """What it serves."""
        raise NotImplementedError

    def error(
        self, status: int, code: int | str | None = None, text: str = "", **headers: str
    ) -> web.Response:
        """An error in its own shape."""
        raise NotImplementedError

    def next(self, operation: str, *behaviours: Behaviour) -> None:
        """The next requests of this kind are answered so, one each; after them as they should."""
        self._next[operation] += behaviours

    def requests_of(self, operation: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.operation == operation]

    async def start(self) -> Self:
        assert self._port is not None
        app = web.Application()
        self.add_routes(app)
        self._server = WebServer(app)
        await self._server.start(self._port.listen())
        return self

    async def stop(self) -> None:
        self.stopping.set()
        if self._server is not None:
            await self._server.stop()
        if self._own is not None:
            self._own.free()

    async def respond(
        self, operation: str, request: web.Request, act: Callable[[], web.Response]
    ) -> web.StreamResponse:
        """As the test wants, or as `act` does."""
        waiting = self._next[operation]
        return await waiting.popleft()(self, request, act) if waiting else act()


# How one request may be answered instead


def fails(status: int, code: int | str | None = None, text: str = "", **headers: str) -> Behaviour:
    """With an error in the server's shape; header names may be written with underscores."""

    async def answer(server: FailingServer[Any], request: web.Request, act: Any) -> web.Response:
        return server.error(status, code, text, **_named(headers))

    return answer


def says(body: Any, *, status: int = 200, makes: bool = False, **headers: str) -> Behaviour:
    """With any JSON, or with text as HTML; `makes`: having done what was asked."""

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
    """Not at all."""
    await server.stopping.wait()
    return web.Response(status=503)


async def acts_then_stalls(
    server: FailingServer[Any], request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Does what was asked, and says nothing of it."""
    act()
    return await stalls(server, request, act)


async def resets(server: FailingServer[Any], request: web.Request, act: Callable[[], Any]) -> web.Response:
    """With a TCP reset."""
    assert request.transport is not None
    raw = request.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response(status=503)


async def acts_then_resets(
    server: FailingServer[Any], request: web.Request, act: Callable[[], Any]
) -> web.Response:
    """Does what was asked, and resets the connection."""
    act()
    return await resets(server, request, act)


async def trickles(
    server: FailingServer[Any], request: web.Request, act: Callable[[], Any]
) -> web.StreamResponse:
    """Answers without an end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while not server.stopping.is_set():
        await response.write(b" " * 65536)
    return response
