# SPDX-License-Identifier: BSD-2-Clause
"""The tests' own servers leave no socket behind, whoever comes in while they stop."""

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
"""Starts a server, and gives what stops it."""


async def an_agent(port: AgentPort) -> Callable[[], Awaitable[None]]:
    return (await Agent(port).start()).stop


async def a_web_server(port: AgentPort) -> Callable[[], Awaitable[None]]:
    server = WebServer(web.Application())
    await server.start(port.listen())
    return server.stop


@pytest.mark.parametrize("turns", range(2 * TURNS))
@pytest.mark.parametrize("start", [an_agent, a_web_server])
def test_who_comes_in_while_it_stops(agent_port: Callable[[], AgentPort], start: Starts, turns: int) -> None:
    """In each turn of the loop between the kernel's word of a connection and its handler's first step."""
    port = agent_port()

    async def comes_in() -> None:
        stop = await start(port)
        with socket.socket() as client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", port.number))
            for _ in range(turns):
                await asyncio.sleep(0)
            await stop()

    asyncio.run(comes_in())
    gc.collect()  # a socket that nobody closed says so here
