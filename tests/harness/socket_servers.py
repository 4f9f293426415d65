# SPDX-License-Identifier: BSD-2-Clause
"""Servers that close every connection, also those that are accepted while they stop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""A handler of a connection. It may leave it open: the server closes it when it stops."""

TURNS = 5
"""Of asyncio's loop, from accepting a connection to its handler's first step."""


async def stop_accepting(listening: Iterable[socket.socket]) -> None:
    """Stop accepting, and wait until each connection has reached its handler. Call it before a close.

    `asyncio.Server` forgets a connection that it accepts in the turn in which it is closed, and a handler
    that is cancelled before its first step never closes its own. Either appears as an unclosed socket in a
    later test.
    """
    for each in listening:
        asyncio.get_running_loop().remove_reader(each.fileno())
    await _turns()


def abort_connection(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once and drop what was not sent; no effect if its socket is closed.

    asyncio's own `abort()` raises AttributeError on a transport that was closed while its buffer held data,
    and has sent that data since.
    """
    if _is_open(writer):
        writer.transport.abort()


def _is_open(writer: asyncio.StreamWriter) -> bool:
    raw = writer.get_extra_info("socket")  # a TLS connection that is closed has none
    return raw is not None and raw.fileno() != -1


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


class WebServer:
    """aiohttp's server on one socket. `how`: arguments of its AppRunner."""

    def __init__(self, app: web.Application, **how: bool) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, **how)
        self._listening: socket.socket | None = None

    async def start(self, sock: socket.socket) -> None:
        """Listen on a bound socket."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()
        self._listening = sock

    async def stop(self) -> None:
        """Stop listening, and close all connections. May be called again."""
        if self._listening is not None:
            await stop_accepting([self._listening])
            self._listening = None
        await self._runner.cleanup()
        await _turns()


class SocketServer:
    """A TCP server on one socket."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.failed: list[BaseException] = []
        """The exceptions of handlers."""
        self._serving: set[asyncio.Task[None]] = set()
        self._open: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(
        self,
        sock: socket.socket,
        *,
        limit: int = 1 << 16,
        backlog: int = 1024,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Listen on a bound socket. `limit`: bytes that are read ahead."""
        self._server = await asyncio.start_server(
            self._connected, sock=sock, limit=limit, backlog=backlog, ssl=tls
        )

    async def pause(self) -> None:
        """Stop listening; keep the connections."""
        if self._server is None:
            return
        await stop_accepting(self._server.sockets)
        self._server.close()
        self._server = None

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        await self.pause()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for writer in self._open:
            abort_connection(writer)
        await _turns()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Keep the writer: from Python 3.13 on, one that is collected while it is open closes with a warning.
        self._open = [one for one in self._open if _is_open(one)]
        self._open.append(writer)
        task = asyncio.get_running_loop().create_task(self._handle(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._served)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.append(error)
