# SPDX-License-Identifier: BSD-2-Clause
"""Workers that serve the session resource over one store, agents with `POST /bot`, and Daily."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.api.framework.dispatch import routes
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import ApiMiddleware
from gateway.api.sessions.sessions import SESSIONS
from gateway.auth.media_tokens import MediaTokens, load_secret
from gateway.calls.bot_client import bot_http_client
from gateway.calls.bot_session import BotServices, BotSessions
from gateway.calls.store_watcher import StoreWatcher
from gateway.config import Settings
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Party, Reasons
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits, Traffic
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.agent import AgentPort
from tests.harness.clock import Clock
from tests.harness.daily_server import API_KEY, DailyServer
from tests.harness.socket_servers import WebServer
from tests.harness.wiring import Wiring, wire

PATIENCE_S = 60.0
"""Nothing takes so long: a test that waits longer hangs."""


async def eventually(happened: Callable[[], Any]) -> Any:
    """Waits until it has happened, and gives what it gave."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := happened()):
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.002)
    return found


@dataclass
class Started:
    """A `POST /bot` as the agent got it."""

    headers: dict[str, str]
    body: Any
    ends: asyncio.Event
    gone: asyncio.Event

    @property
    def session(self) -> str:
        return self.headers["x-daily-session-id"]


class BotAgent:
    """An instance that holds `POST /bot` open until it is told to end (docs/reference/agent-container.md)."""

    def __init__(self, port: AgentPort) -> None:
        self.url = port.url
        self.status = 200
        self.started: list[Started] = []
        self._queue: asyncio.Queue[Started] = asyncio.Queue()
        self._port = port
        app = web.Application(client_max_size=2_000_000)
        app.router.add_post("/bot", self._bot)
        self._server = WebServer(app, handler_cancellation=True)

    async def listen(self) -> None:
        await self._server.start(self._port.listen())

    async def stop(self) -> None:
        for started in self.started:
            started.ends.set()
        await self._server.stop()

    async def next(self) -> Started:
        async with asyncio.timeout(PATIENCE_S):
            return await self._queue.get()

    async def _bot(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        started = Started(headers, await request.json(), asyncio.Event(), asyncio.Event())
        self.started.append(started)
        self._queue.put_nowait(started)
        try:
            if self.status == 200:
                await started.ends.wait()
        finally:
            started.gone.set()
        return web.json_response({}, status=self.status)


class Reply:
    """An answer."""

    def __init__(self, status: int, headers: Any, json: Any) -> None:
        self.status = status
        self.headers = headers
        self.json = json

    def refuses(self, status: int, code: str, kind: str, param: str | None = None) -> bool:
        """Whether it is this refusal, in the envelope."""
        assert self.status == status, self.json
        error = self.json["error"]
        assert set(error) == {"type", "code", "message", "param", "request_id"}
        assert error["request_id"] == self.headers["X-Request-Id"]
        assert (error["code"], error["type"], error["param"]) == (code, kind, param), error
        return True


@dataclass
class Worker:
    """One worker process's worth of the gateway, in this loop."""

    base: str
    store: SqliteStore
    bots: BotSessions
    wiring: Wiring
    tokens: MediaTokens
    client: aiohttp.ClientSession

    async def __call__(
        self, method: str, path: str, value: Any = None, *, key: str | None = "sk_acme", **headers: str
    ) -> Reply:
        """One request; header names may be written with underscores."""
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        data = None
        if value is not None:
            given["Content-Type"] = "application/json"
            data = io.BytesIO(json.dumps(value).encode())
        async with self.client.request(method, self.base + path, data=data, headers=given) as answer:
            return Reply(answer.status, answer.headers, await answer.json())

    async def starts(self, **fields: Any) -> dict[str, Any]:
        """Starts a session, which must succeed."""
        wanted = {"agent": "support", "transport": {"type": "bot"}} | fields
        reply = await self("POST", "/v1/sessions", wanted)
        assert reply.status == 201, reply.json
        found: dict[str, Any] = reply.json
        return found

    async def shows(self, session_id: str) -> dict[str, Any]:
        reply = await self("GET", f"/v1/sessions/{session_id}")
        assert reply.status == 200, reply.json
        found: dict[str, Any] = reply.json
        return found

    async def carries(self, now: float, agent: str = "support.acme", **more: Any) -> str:
        """A carrier's call that runs here; its session's id."""
        session_id = str(uuid.uuid4())
        details = CallDetails(
            session_id, agent, agent.partition(".")[2], "us-west", "twilio", "CA1", "MZ1", "+1555", "+1556"
        )
        places = SlotLimits((("http://127.0.0.1:8080", 0),), per_instance=1000, max_instances=1)
        await self.store.admit(details, places, now, SessionOptions(**more))
        await self.store.mark_running(session_id, now)
        return session_id

    async def ends(
        self, session_id: str, at: float, state: SessionState = SessionState.ENDED, **more: Any
    ) -> None:
        """It is over; told to nobody but the store."""
        failed = state is SessionState.FAILED
        result = {
            "state": state,
            "ended_at": at,
            "reason": "agent_lost" if failed else "caller_hangup",
            "side": Party.AGENT if failed else Party.CALLER,
            "detail": "the agent's socket was reset" if failed else "",
            "close_code": 1011 if failed else 1000,
            "traffic": Traffic(frames_in=3000, bytes_in=480_000, frames_out=1500, bytes_out=240_000),
            "first_agent_sound_at": at - 1.0,
        }
        await self.store.end(session_id, SessionResult(**result | more))

    async def begins_to_end(self, session_id: str, at: float) -> None:
        """Its caller has hung up, and its agent is not gone yet."""
        result = SessionResult(
            SessionState.ENDED, at, "caller_hangup", Party.CALLER, "", 1000, Traffic(), None
        )
        await self.store.begin_end(session_id, result)


@pytest.fixture
def clock() -> Clock:
    return Clock(1_769_851_800.25)  # 2026-01-31T09:30:00.250Z


@pytest.fixture
async def bot_agent() -> AsyncIterator[BotAgent]:
    port = AgentPort()
    agent = BotAgent(port)
    await agent.listen()
    yield agent
    await agent.stop()
    port.free()


@pytest.fixture
async def daily_server() -> AsyncIterator[DailyServer]:
    server = DailyServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def settings(bot_agent: BotAgent, daily_server: DailyServer) -> Settings:
    daily = {"api_key": API_KEY, "api_url": daily_server.api_url}
    instances = [bot_agent.url]
    return Settings.model_validate(
        {
            "server": {"public_url": "https://voice.example.com"},
            "organizations": [
                {"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"], "daily": daily},
                {"name": "globex", "private_keys": ["sk_globex"]},
            ],
            "agents": [
                {"name": "support", "organization": "acme", "instances": instances, "websocket_auth": "token"}
                | {"sessions_per_instance": 2, "max_session_duration": 900, "stop_timeout": 0},
                {"name": "sales", "organization": "acme", "instances": instances, "region": "us-east"},
                {"name": "support", "organization": "globex", "instances": instances},
            ],
            "limits": {"requests_per_second": 100_000, "requests_burst": 100_000, "agent_connect_timeout": 5},
        }
    )


@pytest.fixture
async def hire(settings: Settings, clock: Clock, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Puts workers to work, over one store."""
    closers: list[Callable[[], Awaitable[Any]]] = []

    async def begin() -> Worker:
        store = SqliteStore(tmp_path / "patchbay.db", WorkerId.of_this_process(uuid.uuid4().hex))
        await store.open()
        closers.append(store.close)
        directory = AgentDirectory(settings)
        health = InstanceHealth(instance for agent in directory.agents for instance in agent.instances)
        await health.start()
        closers.append(health.stop)
        tokens = MediaTokens(await load_secret(store, clock), store, clock)
        wiring = wire(settings, store, directory, health, tokens, now=clock)
        http, client = (
            bot_http_client(),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)),
        )
        closers.extend([http.close, client.close])
        bots = BotSessions(
            BotServices(store, health, wiring.calls.capacity, http, clock, connect_timeout_s=1.0)
        )
        closers.append(lambda: bots.end_all(CallEnded(Reasons.draining)))

        async def refresh() -> None:
            pass

        watch = StoreWatcher(store, bots.stop, refresh)
        watch.start()
        closers.append(watch.stop)
        services = Services(*wiring, bots, http)
        app = Starlette(routes=[*routes(SESSIONS, services)], middleware=[Middleware(ApiMiddleware)])
        port = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[port])
        closers.append(lambda: server.shutdown(sockets=[port]))
        base = f"http://127.0.0.1:{port.getsockname()[1]}"
        return Worker(base, store, bots, wiring, tokens, client)

    yield begin
    for close in reversed(closers):
        await asyncio.wait_for(close(), PATIENCE_S)


@pytest.fixture
async def worker(hire: Callable[..., Any]) -> Worker:
    """The one worker of most tests."""
    found: Worker = await hire()
    return found


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[Any]]:
    """Waits until something has happened."""
    return eventually
