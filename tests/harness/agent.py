# SPDX-License-Identifier: BSD-2-Clause
"""An agent's instance under the control of a test, byte by byte (docs/reference/agent-container.md).

Use gateway/simulator/fake_agent.py for an agent that simply talks.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

from gateway.simulator.waiting import WAIT_S
from tests.harness.caller import accept_key
from tests.harness.socket_servers import SocketServer
from tests.harness.websocket_peer import WebSocketPeer


class AgentPort:
    """A reserved port. While no agent listens on it, connections to it are refused.

    `number`: a port that something else reserves; None reserves a new one. `host`: where agents listen on it.
    `tls`: the certificate that agents on it have, for localhost; None for plain connections.
    """

    def __init__(
        self, number: int | None = None, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._host = host
        self.tls = tls
        self._reserved: socket.socket | None = None
        if number is None:
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved.bind(("127.0.0.1", 0))
            number = int(self._reserved.getsockname()[1])
        self.number: int = number

    @property
    def url(self) -> str:
        """The base URL of an instance on this port."""
        return f"http://127.0.0.1:{self.number}" if self.tls is None else f"https://localhost:{self.number}"

    def listen(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a socket bound to the port. `receive_buffer`: of its connections, in bytes."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
        listening.bind((self._host, self.number))
        return listening

    def free(self) -> None:
        """Give the port back, if this has reserved it."""
        if self._reserved is not None:
            self._reserved.close()


class AgentCall(WebSocketPeer):
    """The agent's end of one connection of the gateway."""

    path = ""
    headers: dict[str, str]

    @property
    def session(self) -> str:
        """The session's id, from the gateway's header."""
        return self.headers["x-daily-session-id"]

    @property
    def query(self) -> dict[str, list[str]]:
        """The query of the requested URL."""
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    async def opening(self, raw: list[bytes]) -> None:
        """Receive the opening, and assert that it is what the caller sent, byte for byte."""
        expected = b"".join(raw)
        assert await self.hear_bytes(len(expected)) == expected
        for _ in raw:
            await self.next()


Answer = Callable[["Agent", AgentCall], Awaitable[None]]
"""How an agent answers the gateway's request."""


def upgrade_response(call: AgentCall) -> bytes:
    """Return the response that accepts an upgrade."""
    key = accept_key(call.headers["sec-websocket-key"])
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {key}\r\n\r\n"
    ).encode()


async def accepts(agent: Agent, call: AgentCall) -> None:
    """Accept the call."""
    call.send(upgrade_response(call))
    agent.calls.put_nowait(call)


def answers(raw: bytes, *, then: str = "") -> Answer:
    """Return an answer of any bytes, after which the agent is silent, or does `then`: "close" or "reset"."""

    async def answer(agent: Agent, call: AgentCall) -> None:
        call.send(raw)
        if then == "close":
            call.half_close()
        elif then == "reset":
            call.reset()
        agent.other_calls.put_nowait(call)

    return answer


def waits_for(event: asyncio.Event) -> Answer:
    """Return an answer that accepts the call once `event` is set."""

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
    """One instance. `calls`: those that it accepted. `other_calls`: those that it answered otherwise."""

    def __init__(self, port: AgentPort, answer: Answer = accepts, *, ready: int | None = 200) -> None:
        """`ready`: the status of `/readyz`; None for no answer."""
        self.port = port
        self.answer = answer
        self.ready = ready
        self.calls: asyncio.Queue[AgentCall] = asyncio.Queue()
        self.other_calls: asyncio.Queue[AgentCall] = asyncio.Queue()
        self.upgrades = 0
        self.health = 0
        """How often it has answered `/readyz`."""
        self._listener = SocketServer(self._serve)

    async def start(self, *, receive_buffer: int | None = None, read_ahead: int = 1 << 16) -> Agent:
        """Listen. `receive_buffer`, `read_ahead`: bytes that the kernel and this end buffer unread."""
        await self._listener.start(self.port.listen(receive_buffer), limit=read_ahead, tls=self.port.tls)
        return self

    async def call(self) -> AgentCall:
        """Wait for the next accepted call."""
        async with asyncio.timeout(WAIT_S):
            return await self.calls.get()

    async def next_other_call(self) -> AgentCall:
        """Wait for the next call that is not accepted, or not yet."""
        async with asyncio.timeout(WAIT_S):
            return await self.other_calls.get()

    async def stop_listening(self) -> None:
        """Let connections be refused from now on, as when the process has ended; keep those that are open."""
        await self._listener.pause()

    async def stop(self) -> None:
        """Close the instance and its connections."""
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
            self.health += 1
            if self.ready is None:
                return
            call.send(
                f"HTTP/1.1 {self.ready} Health\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            writer.close()
        else:
            self.upgrades += 1
            await self.answer(self, call)
