# SPDX-License-Identifier: BSD-2-Clause
"""Agents for tests: an instance on a port of its own that answers as a test wants
(docs/reference/agent-container.md).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

from gateway.simulator.waiting import WAIT_S
from tests.harness.caller import accept_key
from tests.harness.socket_servers import SocketServer
from tests.harness.websocket_peer import WebSocketPeer


class AgentPort:
    """A port that is kept while no agent listens on it: connections to it are refused meanwhile."""

    def __init__(self) -> None:
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._kept.bind(("127.0.0.1", 0))
        self.number: int = self._kept.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.number}"

    def listen(self, receive_buffer: int | None = None) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections have it from here
        listening.bind(("127.0.0.1", self.number))
        return listening

    def free(self) -> None:
        self._kept.close()


class AgentCall(WebSocketPeer):
    """A call as an agent has it."""

    path = ""
    headers: dict[str, str]

    @property
    def session(self) -> str:
        """The session's id, as the gateway told it."""
        return self.headers["x-daily-session-id"]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    async def opening(self, raw: list[bytes]) -> None:
        """Hears the opening and asserts that it is as the caller sent it, byte for byte."""
        expected = b"".join(raw)
        assert await self.hear_bytes(len(expected)) == expected
        for _ in raw:
            await self.next()


Answer = Callable[["Agent", AgentCall], Awaitable[None]]
"""How an agent answers an upgrade."""


def upgrade_response(call: AgentCall) -> bytes:
    """The answer to an upgrade that is taken."""
    key = accept_key(call.headers["sec-websocket-key"])
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {key}\r\n\r\n"
    ).encode()


async def accepts(agent: Agent, call: AgentCall) -> None:
    """As an agent should."""
    call.send(upgrade_response(call))
    agent.calls.put_nowait(call)


def answers(raw: bytes, *, then: str = "") -> Answer:
    """With any bytes; `then` the agent says nothing more, or does "close" or "reset"."""

    async def answer(agent: Agent, call: AgentCall) -> None:
        call.send(raw)
        if then == "close":
            call.half_close()
        elif then == "reset":
            call.reset()
        agent.other_calls.put_nowait(call)

    return answer


def waits_for(event: asyncio.Event) -> Answer:
    """Accepts as an agent should, once it may."""

    async def answer(agent: Agent, call: AgentCall) -> None:
        agent.other_calls.put_nowait(call)
        async with asyncio.timeout(WAIT_S):
            await event.wait()
        await accepts(agent, call)

    return answer


hangs = answers(b"")
resets = answers(b"", then="reset")
half_closes = answers(b"", then="close")


class Agent:
    """One instance. `calls` holds the calls that it took, `other_calls` those that it answered otherwise."""

    def __init__(self, port: AgentPort, answer: Answer = accepts, *, ready: int = 200) -> None:
        self.port = port
        self.answer = answer
        self.ready = ready
        self.calls: asyncio.Queue[AgentCall] = asyncio.Queue()
        self.other_calls: asyncio.Queue[AgentCall] = asyncio.Queue()
        self.upgrades = 0
        self.health = 0
        """How often it has said whether it is ready."""
        self._listener = SocketServer(self._serve)

    async def start(self, *, receive_buffer: int | None = None, read_ahead: int = 1 << 16) -> Agent:
        """Listens. `receive_buffer`, `read_ahead`: bytes that the kernel and this end take unread."""
        await self._listener.start(self.port.listen(receive_buffer), limit=read_ahead)
        return self

    async def call(self) -> AgentCall:
        """The next call that comes."""
        async with asyncio.timeout(WAIT_S):
            return await self.calls.get()

    async def next_other_call(self) -> AgentCall:
        """The next call that is not taken, or not taken yet."""
        async with asyncio.timeout(WAIT_S):
            return await self.other_calls.get()

    async def stop(self) -> None:
        await self._listener.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = AgentCall(reader, writer, masks=False)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, OSError):
            return
        first, *lines = head.split("\r\n")[:-2]
        call.path = first.split(" ")[1]
        parted = (line.partition(":") for line in lines)
        call.headers = {name.lower(): value.strip() for name, _, value in parted}
        if call.path == "/readyz":
            call.send(
                f"HTTP/1.1 {self.ready} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            writer.close()
            self.health += 1
        else:
            self.upgrades += 1
            await self.answer(self, call)
