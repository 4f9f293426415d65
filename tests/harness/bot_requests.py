# SPDX-License-Identifier: BSD-2-Clause
"""An agent's `POST /bot` for tests, answered by hand (docs/reference/agent-container.md): scripts for
`Agent`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import Agent, AgentCall, Answer


async def body_of(call: AgentCall) -> bytes:
    """The whole body of the request."""
    async with asyncio.timeout(WAIT_S):
        return await call._reader.readexactly(int(call.headers["content-length"]))


def answer_of(status: int, body: str = "{}", *headers: str) -> bytes:
    head = [
        f"HTTP/1.1 {status} Said",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        *headers,
    ]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


class BotCall:
    """A request for a bot, held open until the test says how it ends."""

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
        """The bot is done."""
        self.call.send(answer_of(status))

    async def broken_off(self) -> None:
        """Waits until the gateway breaks the request off."""
        assert await self.call.ended() == b""


async def holds(agent: Agent, call: AgentCall) -> None:
    """As an agent should: takes the request and runs."""
    call.body = await body_of(call)  # type: ignore[attr-defined]
    agent.calls.put_nowait(call)


def answers_with(raw: bytes, *, then: str = "") -> Answer:
    """Reads the request and answers with any bytes; `then` nothing more, or "close" or "reset"."""

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
    """Takes the head, and nothing of the body."""
    call._reader._transport.pause_reading()  # type: ignore[attr-defined]
    agent.other_calls.put_nowait(call)


async def bot_of(agent: Agent) -> BotCall:
    """The next request that an agent holds."""
    call = await agent.call()
    assert call.path == "/bot"
    return BotCall(call, call.body)  # type: ignore[attr-defined]
