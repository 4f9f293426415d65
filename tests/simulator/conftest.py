# SPDX-License-Identifier: BSD-2-Clause
"""A short call, the fake agent, and a far side that records what a carrier sends and runs a test's script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from gateway.simulator.agent_call import AgentBehaviour
from gateway.simulator.call_plan import CallPlan
from gateway.simulator.fake_agent import FakeAgent
from gateway.simulator.wav import Recording, read_speech


@pytest.fixture
def word() -> Recording:
    """0.2 s of speech, none of its frames silent."""
    speech = read_speech("caller")
    return Recording(speech.pcm[16 * 200 : 16 * 400], 8000)


@pytest.fixture
def plan(word: Recording) -> Callable[..., CallPlan]:
    """Make the plan of a short call whose caller still waits for an agent on a busy machine."""

    def make(url: str, carrier: str, **different: Any) -> CallPlan:
        hurry: dict[str, Any] = {"answer_wait": 0.1, "pause": 0.2, "quiet": 1.0, "reply_limit": 5.0}
        return CallPlan(url, carrier, word.pcm, word.sample_rate, **hurry | different)

    return make


@pytest.fixture
def agent(word: Recording) -> Callable[..., AbstractAsyncContextManager[str]]:
    """Run the fake agent on a port of its own; give its HOST:PORT."""

    @asynccontextmanager
    async def run(
        *, greets: bool = True, delay: float = 0.1, sessions: int = 4, bot: float | None = None
    ) -> AsyncIterator[str]:
        behaviour = AgentBehaviour(greeting=word if greets else None, delay=delay, bot_duration=bot)
        async with FakeAgent(behaviour, slots=sessions).listening() as url:
            yield url.removeprefix("http://")

    return run


@dataclass
class FarSide:
    """A media server. `messages`: all that the carrier sent. `path`: that it requested."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    path: str = ""
    close_code: int | None = None
    url: str = ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return all messages of one event."""
        return [message for message in self.messages if message["event"] == name]


Script = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]


@pytest.fixture
def far_side() -> Callable[..., AbstractAsyncContextManager[FarSide]]:
    """Run a media server that records messages. The script, if any, runs for each."""

    @asynccontextmanager
    async def listen(script: Script | None = None) -> AsyncIterator[FarSide]:
        side = FarSide()

        async def handle(connection: ServerConnection) -> None:
            assert connection.request is not None
            side.path = connection.request.path
            async for message in connection:
                side.messages.append(content := json.loads(message))
                if script is not None:
                    await script(connection, content)
            side.close_code = connection.close_code

        async with serve(handle, "127.0.0.1", 0, compression=None) as server:
            side.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield side

    return listen
