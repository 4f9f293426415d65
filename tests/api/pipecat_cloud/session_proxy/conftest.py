# SPDX-License-Identifier: BSD-2-Clause
"""The Session API over real HTTP: a real store, a scripted instance, clients on plain sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway.agents.directory import AgentDirectory
from gateway.agents.http_client import open_client
from gateway.agents.instance_health import InstanceHealth
from gateway.api.framework.dispatch import routes
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import ApiMiddleware
from gateway.api.pipecat_cloud.session_proxy import SESSION_PROXY
from gateway.auth.api_keys import Keyring
from gateway.config import Settings
from gateway.media.accept import SERVE_CALL
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons
from gateway.model.session import TELEPHONY_OPTIONS, CallDetails, SessionResult, SlotLimits, Traffic
from gateway.server.upgrade_protocol import UpgradeProtocol
from gateway.simulator.waiting import eventually
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.agent import AgentPort
from tests.harness.socket_servers import SocketServer
from tests.harness.wiring import Wiring, wire

WAIT_S = 60.0
"""No answer takes so long: a test that waits longer hangs."""


@dataclass
class Heard:
    """One connection to the instance: the head of the request, as it came."""

    first: str
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytes = b""

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    def header(self, name: str) -> str | None:
        found = [value for known, value in self.headers if known == name.lower()]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    def say(self, *lines: str, body: bytes = b"") -> None:
        """Sends a head, and some bytes behind it."""
        self.writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1") + body)

    async def chunk(self) -> bytes:
        """The next chunk of the request's body; b"" where it ends."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return data

    async def whole_body(self) -> bytes:
        if self.header("transfer-encoding") != "chunked":
            return b""
        while chunk := await self.chunk():
            self.body += chunk
        return self.body

    async def gone(self) -> bool:
        """Whether the gateway leaves; what it still sends is void."""
        async with asyncio.timeout(WAIT_S):
            try:
                while await self.reader.read(1 << 16):
                    pass
            except ConnectionError:
                pass
        return True


Script = Callable[[Heard], Awaitable[None]]


async def echoes(heard: Heard) -> None:
    """Answers with what it was sent."""
    body = await heard.whole_body()
    length = f"Content-Length: {len(body)}"
    heard.say("HTTP/1.1 200 OK", length, body=b"" if heard.first.startswith("HEAD") else body)


def says(*lines: str, body: bytes = b"") -> Script:
    """Reads the request, and answers with this."""

    async def script(heard: Heard) -> None:
        await heard.whole_body()
        heard.say(*lines, body=body)

    return script


class Instance:
    """An agent's instance, by hand. `script` answers the next connections."""

    def __init__(self) -> None:
        self.port = AgentPort()
        self.script: Script = echoes
        self.heard: asyncio.Queue[Heard] = asyncio.Queue()
        self.connections = 0
        self._listener = SocketServer(self._serve)

    async def start(self) -> None:
        await self._listener.start(self.port.listen())

    async def pause(self) -> None:
        """Listens no more; its port stays its own."""
        await self._listener.pause()

    async def stop(self) -> None:
        await self._listener.stop()
        self.port.free()
        failed = self._listener.failed
        assert not [error for error in failed if isinstance(error, AssertionError)], failed

    async def next(self) -> Heard:
        async with asyncio.timeout(WAIT_S):
            return await self.heard.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            parted = (line.partition(": ") for line in head[1:])
            heard = Heard(head[0], [(name.lower(), value) for name, _, value in parted], reader, writer)
            self.heard.put_nowait(heard)
            await self.script(heard)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@dataclass
class Reply:
    """An answer as it came over the line. `whole`: its body came to its end."""

    status: int
    headers: list[tuple[str, str]]
    raw: bytes = b""
    whole: bool = True

    def header(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def refusal(self) -> tuple[int, str]:
        assert set(self.json) >= {"error", "code"}
        return self.status, self.json["code"]


class Client:
    """A connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> Reply:
        async with asyncio.timeout(WAIT_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        parted = (line.partition(": ") for line in lines[1:-2])
        return Reply(int(lines[0].split()[1]), [(name.lower(), value) for name, _, value in parted])

    async def pieces(self, reply: Reply) -> AsyncIterator[bytes]:
        """The body as it comes; `reply.whole` says in the end whether it did."""
        reply.whole = False
        async with asyncio.timeout(WAIT_S * 3):
            try:
                if (length := reply.header("content-length")) is not None:
                    left = int(length)
                    while left:
                        piece = await self.reader.read(min(left, 1 << 16))
                        if not piece:
                            return
                        left -= len(piece)
                        yield piece
                elif reply.header("transfer-encoding") == "chunked":
                    while size := int(await self.reader.readuntil(b"\n"), 16):
                        yield await self.reader.readexactly(size)
                        await self.reader.readexactly(2)
                    await self.reader.readexactly(2)
                reply.whole = True
            except (asyncio.IncompleteReadError, ConnectionError):
                return

    async def answer(self, *, bodiless: bool = False) -> Reply:
        reply = await self.head()
        while reply.status < 200:
            reply = await self.head()
        if not bodiless and reply.status not in (204, 304):
            async for piece in self.pieces(reply):
                reply.raw += piece
        return reply


@dataclass
class Door:
    """The gateway, as far as sessions are reached through it."""

    port: int
    store: SqliteStore
    instance: Instance
    settings: Settings
    wiring: Wiring
    store_file: Path
    clients: list[Client] = field(default_factory=list)
    idle_tasks: int = 0
    """How many tasks there are in the test's loop while nothing is asked."""

    async def session(
        self, state: SessionState = SessionState.RUNNING, *, agent: str = "support.acme", instance: str = ""
    ) -> str:
        """A session in that state, on the instance."""
        organization = agent.partition(".")[2]
        details = CallDetails(
            str(uuid.uuid4()), agent, organization, "us-west", "twilio", None, None, None, None
        )
        if state is SessionState.CREATED:
            await self.store.create_pending(details, TELEPHONY_OPTIONS, time.time(), time.time() + 300)
            return details.session_id
        places = SlotLimits(((instance or self.instance.port.url, 0),), per_instance=1000, max_instances=10)
        await self.store.admit(details, places, time.time())
        if state is not SessionState.STARTING:
            await self.store.mark_running(details.session_id, time.time())
        if state is SessionState.ENDED:
            await self.end(details.session_id)
        return details.session_id

    async def end(self, session: str) -> None:
        reason = Reasons.caller_hangup
        result = SessionResult(
            SessionState.ENDED, time.time(), reason.code, reason.party, "", reason.close_code, Traffic(), None
        )
        await self.store.end(session, result)

    @asynccontextmanager
    async def another_worker(self) -> AsyncIterator[Keyring]:
        """The API keys as another worker of the same store has them."""
        store = SqliteStore(self.store_file, WorkerId.of_this_process("another"))
        await store.open()
        try:
            yield Keyring(self.settings.organizations, store.key_values, time.time)
        finally:
            await store.close()

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def begin(
        self,
        method: str,
        target: str,
        *lines: str,
        key: str | None = "pk_acme",
        body: bytes = b"",
    ) -> Client:
        """Sends the head of a request, and some bytes behind it."""
        client = await self.client()
        if key is not None:
            lines = (f"Authorization: Bearer {key}", *lines)
        head = [f"{method} {target} HTTP/1.1", "Host: api.example.com", *lines, "", ""]
        client.writer.write("\r\n".join(head).encode("latin-1") + body)
        return client

    async def ask(self, method: str, target: str, *lines: str, **how: Any) -> Reply:
        """One request on a connection of its own, and its answer."""
        if how.get("body") and not any(line.lower().startswith("transfer-encoding") for line in lines):
            lines = (f"Content-Length: {len(how['body'])}", *lines)
        client = await self.begin(method, target, *lines, **how)
        return await client.answer(bodiless=method == "HEAD")

    async def nothing_is_left(self) -> None:
        """No request leaves a task of ours behind."""
        await eventually(lambda: len(asyncio.all_tasks()) <= self.idle_tasks, "its tasks end")

    def path(self, session: str, path: str = "/status", agent: str = "support") -> str:
        return f"/v1/public/{agent}/sessions/{session}{path}"


@pytest.fixture
async def instance() -> AsyncIterator[Instance]:
    found = Instance()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def limits() -> dict[str, float]:
    """Of the gateway; to be overridden."""
    return {}


@pytest.fixture
async def door(instance: Instance, limits: dict[str, float], tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway that serves nothing but the Session API."""
    organizations = [
        {"name": name, "public_keys": [f"pk_{name}"], "private_keys": [f"sk_{name}"]}
        for name in ("acme", "globex")
    ]
    agents = [
        {"name": name, "organization": organization, "instances": [instance.port.url]}
        for name, organization in (("support", "acme"), ("sales", "acme"), ("support", "globex"))
    ]
    many = {"requests_per_second": 10_000, "requests_burst": 10_000}
    settings = Settings(organizations=organizations, agents=agents, limits=many | limits)
    store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process("here"))
    await store.open()
    directory, health = AgentDirectory(settings), InstanceHealth(())
    tokens: Any = None
    wiring = wire(settings, store, directory, health, tokens)
    http = open_client(settings.limits.session_api_timeout)
    services = Services(*wiring, bots=None, http=http)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {SERVE_CALL: wiring.dispatcher.serve}

    app = Starlette(
        routes=[*routes(SESSION_PROXY, services)], middleware=[Middleware(ApiMiddleware)], lifespan=lifespan
    )
    port = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http="httptools",
        ws=UpgradeProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[port])
    found = Door(port.getsockname()[1], store, instance, settings, wiring, tmp_path / "patchbay.db")
    found.idle_tasks = len(asyncio.all_tasks())  # with this one, for which the test's comes
    yield found
    for client in found.clients:
        client.writer.transport.abort()
    await asyncio.wait_for(server.shutdown(sockets=[port]), WAIT_S)
    await http.close()
    await store.close()
