# SPDX-License-Identifier: BSD-2-Clause
"""`POST /bot` at an `Agent`, answered by the test (docs/reference/agent-container.md)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import Agent, AgentCall, Answer


async def body_of(call: AgentCall) -> bytes:
    """Read the whole body of the request."""
    async with asyncio.timeout(WAIT_S):
        return await call._reader.readexactly(int(call.headers["content-length"]))


def answer_of(status: int, body: str = "{}", *headers: str) -> bytes:
    """Return an HTTP response with a JSON body."""
    head = [
        f"HTTP/1.1 {status} Answer",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        *headers,
    ]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


class BotCall:
    """A request for a bot, held open until the test ends it."""

    def __init__(self, call: AgentCall, body: bytes) -> None:
        self.call = call
        self.path = call.path
        self.headers = call.headers
        self.session = call.session
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def end(self, status: int = 200) -> None:
        """Answer the request: the bot has ended."""
        self.call.send(answer_of(status))

    async def broken_off(self) -> None:
        """Wait until the gateway closes the connection without an answer."""
        assert await self.call.ended() == b""


async def holds(agent: Agent, call: AgentCall) -> None:
    """Read the request and leave it open, as an agent does while its bot runs."""
    call.body = await body_of(call)  # type: ignore[attr-defined]
    agent.calls.put_nowait(call)


def answers_with(raw: bytes, *, then: str = "") -> Answer:
    """Return an answer of any bytes to a read request, after which the agent is silent, or does `then`."""

    async def answer(agent: Agent, call: AgentCall) -> None:
        call.body = await body_of(call)  # type: ignore[attr-defined]
        call.send(raw)
        if then == "close":
            call.half_close()
        elif then == "reset":
            call.reset()
        agent.other_calls.put_nowait(call)

    return answer


async def never_reads(agent: Agent, call: AgentCall) -> None:
    """Read the head of the request, and nothing of its body."""
    call._reader._transport.pause_reading()  # type: ignore[attr-defined]
    agent.other_calls.put_nowait(call)


async def bot_of(agent: Agent) -> BotCall:
    """Wait for the next request that the agent holds open."""
    call = await agent.call()
    assert call.path == "/bot"
    return BotCall(call, call.body)  # type: ignore[attr-defined]
