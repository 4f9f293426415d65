# SPDX-License-Identifier: BSD-2-Clause
"""The servers of the tests leave no socket open, also if a client connects while they stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from tests.harness.agent import Agent, AgentPort
from tests.harness.socket_servers import TURNS, WebServer

Starts = Callable[[AgentPort], Awaitable[Callable[[], Awaitable[None]]]]
"""Starts a server, and returns the function that stops it."""


async def an_agent(port: AgentPort) -> Callable[[], Awaitable[None]]:
    return (await Agent(port).start()).stop


async def a_web_server(port: AgentPort) -> Callable[[], Awaitable[None]]:
    server = WebServer(web.Application())
    await server.start(port.listen())
    return server.stop


@pytest.mark.parametrize("turns", range(2 * TURNS))
@pytest.mark.parametrize("start", [an_agent, a_web_server])
def test_a_client_that_connects_while_the_server_stops(
    agent_port: Callable[[], AgentPort], start: Starts, turns: int
) -> None:
    """In every iteration of the loop between the connection's arrival and the first step of its handler."""
    port = agent_port()

    async def connect_and_stop() -> None:
        stop = await start(port)
        with socket.socket() as client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port.number))
            for _ in range(turns):
                await asyncio.sleep(0)
            await stop()

    asyncio.run(connect_and_stop())
    gc.collect()  # a socket that was not closed warns here
