# SPDX-License-Identifier: BSD-2-Clause
"""A caller with little to say, the demonstration agent, and a far side that does as a test tells it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.server import ServerConnection, serve

from gateway.simulator.agent_call import Manners
from gateway.simulator.call_plan import CallPlan
from gateway.simulator.fake_agent import FakeAgent
from gateway.simulator.wav import Recording, read_speech

PATIENCE_S = 20.0
"""Nothing here takes so long: a test that waits longer hangs."""


@pytest.fixture
def word() -> Recording:
    """0.2 s of speech, none of its frames silent."""
    speech = read_speech("caller")
    return Recording(speech.pcm[16 * 200 : 16 * 400], 8000)


@pytest.fixture
def plan(word: Recording) -> Callable[..., CallPlan]:
    """A short call of an impatient caller, who yet waits for an agent that a busy machine keeps waiting."""

    def make(url: str, carrier: str, **different: Any) -> CallPlan:
        hurry: dict[str, Any] = {"answer_wait": 0.1, "pause": 0.2, "quiet": 1.0, "reply_limit": 5.0}
        return CallPlan(url, carrier, word.pcm, word.sample_rate, **hurry | different)

    return make


@pytest.fixture
def agent(word: Recording) -> Callable[..., AbstractAsyncContextManager[str]]:
    """The demonstration agent on a port of its own; gives the base URL of its sockets."""

    @asynccontextmanager
    async def run(*, greets: bool = True, delay: float = 0.1, sessions: int = 4) -> AsyncIterator[str]:
        app = FakeAgent(Manners(word if greets else None, delay), sessions).app
        config = uvicorn.Config(
            app, ws="websockets-sansio", ws_ping_interval=None, log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as port:
            serving = asyncio.create_task(server.serve(sockets=[port]))
            yield f"127.0.0.1:{port.getsockname()[1]}"
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE_S)

    return run


@dataclass
class FarSide:
    """What a carrier was connected to: everything it said, and where it asked for it."""

    said: list[dict[str, Any]] = field(default_factory=list)
    path: str = ""
    close_code: int | None = None
    url: str = ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """All messages of one event."""
        return [message for message in self.said if message["event"] == name]


Script = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


@pytest.fixture
def far_side() -> Callable[..., AbstractAsyncContextManager[FarSide]]:
    """A gateway that writes down what it is told; the script, if any, runs for every message."""

    @asynccontextmanager
    async def listen(script: Script | None = None) -> AsyncIterator[FarSide]:
        side = FarSide()

        async def handle(connection: ServerConnection) -> None:
            assert connection.request is not None
            side.path = connection.request.path
            async for message in connection:
                side.said.append(told := json.loads(message))
                if script is not None:
                    await script(connection, told)
            side.close_code = connection.close_code

        async with serve(handle, "127.0.0.1", 0, compression=None) as server:
            side.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield side

    return listen
