# SPDX-License-Identifier: BSD-2-Clause
"""A small API over real HTTP with scripted operations, raw clients for it, and a worker."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.agents import instance_health
from gateway.api.framework.dispatch import routes
from gateway.api.framework.docs_page import reading_operations
from gateway.api.framework.errors import ApiError
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import ApiMiddleware, http_exception
from gateway.api.framework.operation import UNAUTHORIZED_START, Access, Answer, Context, Operation, Style
from gateway.auth.api_keys import Keyring
from gateway.auth.limited_keys import LimitedKeys
from gateway.calls import bot_session, session_events
from gateway.carriers.daily import rest
from gateway.config import Settings
from gateway.model.reasons import REASONS, CallEnded
from gateway.store.interface import StoredValue, StoreFailed
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import holds
from tests.harness.clock import Clock
from tests.harness.document_fixtures import carrier, carrier_servers, line  # noqa: F401 - fixtures
from tests.harness.start_api import Worker, running_worker, tables

ANSWER_S = 60.0
"""No answer takes so long: a test that waits longer hangs."""

ORGANIZATIONS = [
    {
        "name": "acme",
        "public_keys": ["pk_acme"],
        "private_keys": ["sk_acme", "pcc_pat_acme"],
    },
    {"name": "globex", "public_keys": ["pk_globex"], "private_keys": ["sk_globex"]},
]


class DocumentsInMemory:
    """`Documents` (gateway/store/interface.py) of one process. `broken`: why it does not answer."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], StoredValue] = {}
        self.broken = ""

    def _check(self) -> None:
        if self.broken:
            raise StoreFailed(self.broken)

    async def put(
        self, kind: str, key: str, value: str, *, now: float, expires_at: float | None = None
    ) -> None:
        self._check()
        self.rows[kind, key] = StoredValue(kind, key, value, now, expires_at)

    async def get(self, kind: str, key: str, now: float) -> StoredValue | None:
        self._check()
        return self.rows.get((kind, key))

    async def list(self, kind: str, now: float, prefix: str = "") -> tuple[StoredValue, ...]:
        self._check()
        return tuple(row for row in self.rows.values() if row.kind == kind)


class Start(BaseModel):
    """What a start takes."""

    createDailyRoom: bool = Field(default=False, description="Whether a room is made.")  # noqa: N815
    body: Any = Field(default=None, description="Any JSON, for the agent.", examples=[{"name": "Ada"}])


class Transport(BaseModel):
    """How the sound travels."""

    type: str = Field(pattern="^[a-z]+$", examples=["daily"])
    rate_hz: int = Field(default=8000, ge=8000, le=48000)


class Thing(BaseModel):
    """What the session resource takes."""

    agent: str = Field(examples=["support"])
    transport: Transport | None = None
    seconds: float = Field(default=1.0, gt=0)


class Page(BaseModel):
    """Which of many are wanted."""

    limit: int = Field(default=10, ge=1, le=100, description="How many at most.")
    tag: list[str] = Field(default=[], description="Only those with `tag`.")
    region: str | None = None


class Listed(BaseModel):
    """One page."""

    organization: str
    limit: int
    tag: list[str]


class Made(BaseModel):
    """One thing."""

    id: str
    status: str
    usage: dict[str, float] | None


async def start(context: Context) -> Answer:
    given = context.body_as(Start)
    return Answer(
        200,
        {
            "agent": context.path["agent"],
            "organization": context.caller.organization,
            "body": given.body,
            "bytes": len(context.raw_body),
        },
    )


async def page(context: Context) -> Answer:
    wanted = context.query_as(Page)
    return Answer(200, Listed(organization=context.caller.organization, limit=wanted.limit, tag=wanted.tag))


async def make(context: Context) -> Answer:
    return Answer(201, Made(id="7", status="created", usage=None), {"Location": "/v1/things/7"})


async def show(context: Context) -> Answer:
    """Does what its id says."""
    what = context.path["thing_id"]
    if what in REASONS:
        raise CallEnded(REASONS[what])
    match what:
        case "gone":
            raise ApiError(404, "not_found", "There is no such thing", param="thing_id")
        case "conflict":
            raise ApiError(409, "not_active", "It has ended")
        case "bug":
            raise RuntimeError("s3cret words of a stack")
        case "store":
            raise StoreFailed("the file is gone")
        case "nan":
            return Answer(200, {"seconds": float("nan")})
        case "surrogate":
            return Answer(200, {"text": "\ud800"})
        case "nothing":
            return Answer(204)
    return Answer(200, Made(id=what, status="running", usage={"seconds": 1.5}))


async def special(context: Context) -> Answer:
    return Answer(200, {"special": True, "key": context.caller.key_id, "request_id": context.request_id})


async def hook(context: Context) -> Answer:
    return Answer(200, {"bytes": len(context.raw_body), "organization": context.path["org"]})


async def pass_on(context: Context) -> Response:
    """Reads for itself, and says what it had."""
    read = 0
    async for chunk in context.request.stream():
        read += len(chunk)
    headers = {"X-Method": context.request.method, "X-Path": context.path["rest"], "X-Bytes": str(read)}
    return Response(headers=headers)


async def split(context: Context) -> Response:
    """An answer with a header that would break out of its line."""
    response = JSONResponse({})
    response.raw_headers.append((b"x-bad", b"1\r\nSet-Cookie: a=b"))
    response.raw_headers.append((b"x-good", b"1"))
    response.raw_headers.append((b"x-request-id", b"the-agents-own"))
    return response


def table() -> list[Operation]:
    """The small API."""
    pcc, envelope = Style.PCC, Style.ENVELOPE
    hooked = {"access": Access.NONE, "style": pcc, "tag": "Webhooks"}
    session_api = [
        Operation(
            method,
            "/v1/public/{agent}/sessions/{session_id}/{rest:path}",
            pass_on,
            Access.PUBLIC,
            pcc,
            "Reach the agent",
            "Session API",
            any_answer=True,
        )
        for method in ("GET", "POST", "OPTIONS", "DELETE")
    ]
    return [
        Operation("GET", "/v1/things/{thing_id}", show, Access.PRIVATE, envelope, "One thing", "Things",
                  answers={200: Made, 409: None}, path_notes={"thing_id": "Which one."}),
        Operation("GET", "/v1/things/special", special, Access.PRIVATE, envelope, "The special one", "Things",
                  answers={200: Made}),
        Operation("POST", "/v1/things", make, Access.PRIVATE, envelope, "Make a thing", "Things", body=Thing,
                  query=Page, answers={201: Made}, request_headers={"Idempotency-Key": "Makes it once."}),
        Operation("GET", "/v1/toys", page, Access.PRIVATE, pcc, "List", "Toys", query=Page,
                  answers={200: Listed}),
        Operation("GET", "/v1/toys/{thing_id}", show, Access.PUBLIC, pcc, "One toy", "Toys",
                  answers={200: Made, 204: None, 502: None}),
        Operation("POST", "/v1/public/{agent}/start", start, Access.PUBLIC, pcc, "Start", "Start", body=Start,
                  answers={200: None}, unauthorized=UNAUTHORIZED_START, max_body_bytes=10_000,
                  description="Starts a session.\n\nA `body` goes on to the agent."),
        *session_api,
        Operation("POST", "/v1/hooks/{org}", hook, summary="A hook", reads_raw=True, max_body_bytes=1000,
                  answers={200: None}, **hooked),
        Operation("GET", "/v1/split", split, summary="Bad headers", in_schema=False, **hooked),
    ]  # fmt: skip


@dataclass
class Reply:
    """An answer as it came over the line."""

    status: int
    headers: list[tuple[str, str]]
    raw: bytes

    def header(self, name: str) -> str | None:
        found = [value for known, value in self.headers if known == name.lower()]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    @property
    def json(self) -> Any:
        assert self.header("Content-Type") == "application/json"
        return json.loads(self.raw)


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply:
    """Reads one answer."""
    async with asyncio.timeout(ANSWER_S):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:-2])]
        given = dict(headers)
        raw = b""
        if head_only or status == 204:
            pass
        elif "content-length" in given:
            raw = await reader.readexactly(int(given["content-length"]))
        elif given.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                raw += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        return Reply(status, headers, raw)


@dataclass
class Api:
    """The API at work, and its clients."""

    port: int
    clock: Clock
    documents: DocumentsInMemory
    api_keys: Keyring
    open: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.open.append(writer)
        return reader, writer

    async def says(self, *pieces: bytes) -> tuple[Reply, asyncio.StreamReader, asyncio.StreamWriter]:
        """Sends bytes as they are, on a connection of its own; the answer, and the connection."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
        return await read_reply(reader), reader, writer

    async def __call__(
        self,
        method: str,
        target: str,
        *,
        key: str | None = "sk_acme",
        body: bytes | None = None,
        value: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request on a connection of its own. `value`: the body, as JSON."""
        given = {"Host": "api.example.com", **(headers or {})}
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        if value is not None:
            body = json.dumps(value).encode()
        if body is not None:
            given = {"Content-Type": "application/json", "Content-Length": str(len(body)), **given}
        head = "".join(f"{name}: {text}\r\n" for name, text in given.items())
        reader, writer = await self.connect()
        writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b""))
        reply = await read_reply(reader, head_only=method == "HEAD")
        writer.close()
        return reply


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gateway does not wait for longer than a moment: a busy machine is no failure here."""
    monkeypatch.setattr(instance_health, "PROBE_TIMEOUT_S", ANSWER_S)
    monkeypatch.setattr(bot_session, "START_WRITE_S", ANSWER_S)
    monkeypatch.setattr(session_events, "END_WRITE_TIMEOUT_S", ANSWER_S)
    monkeypatch.setattr(rest, "UNDO_TIMEOUT_S", ANSWER_S)


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def documents() -> DocumentsInMemory:
    return DocumentsInMemory()


@pytest.fixture
def operations() -> list[Operation]:
    return table()


@pytest.fixture
async def serve(
    clock: Clock, documents: DocumentsInMemory, operations: list[Operation]
) -> AsyncIterator[Callable[..., Any]]:
    """Serves the small API with the limits given, on a port of its own."""
    running: list[tuple[uvicorn.Server, socket.socket, Api]] = []

    async def begin(*, body_timeout_s: float = ANSWER_S, **limits: float) -> Api:
        settings = Settings(organizations=ORGANIZATIONS, limits=limits)
        api_keys = Keyring(settings.organizations, documents, clock)
        services = Services(
            calls=SimpleNamespace(
                settings=settings,
                api_keys=api_keys,
                limited_keys=LimitedKeys(api_keys, settings.limits, clock),
                now=clock,
            ),
            **dict.fromkeys(("active", "outbound", "dispatcher", "bots", "http")),
        )

        async def broken(_: Request) -> Response:
            raise RuntimeError("s3cret words of a stack")

        async def half(_: Request) -> Response:
            async def sound() -> AsyncIterator[bytes]:
                yield b"half"
                raise RuntimeError("s3cret words of a stack")

            return StreamingResponse(sound())

        async def health(_: Request) -> Response:
            return JSONResponse({"status": "alive"})

        whole = [*operations, *reading_operations(operations, url="https://voice.example.com")]
        app = Starlette(
            routes=[
                Route("/livez", health),
                Route("/broken", broken),
                Route("/half", half),
                *routes(whole, services, body_timeout_s=body_timeout_s),
            ],
            middleware=[Middleware(ApiMiddleware)],
            exception_handlers={HTTPException: http_exception},
        )
        port = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[port])
        api = Api(port.getsockname()[1], clock, documents, api_keys)
        running.append((server, port, api))
        return api

    yield begin
    for server, port, api in running:
        for listening in server.servers:
            listening.close()
        port.close()
        for writer in api.open:
            writer.close()
        async with asyncio.timeout(ANSWER_S):
            await asyncio.gather(*server.server_state.tasks)
            while server.server_state.connections:
                await asyncio.sleep(0)


@pytest.fixture
async def api(serve: Callable[..., Any]) -> Api:
    """The small API with room for many requests."""
    found: Api = await serve(requests_per_second=1000, requests_burst=1000)
    return found


@pytest.fixture
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    """Where support.acme is."""
    return agent_port()


@pytest.fixture
async def agent(agent_at: Callable[..., Any], port: AgentPort) -> Agent:
    """support.acme, at work; it keeps each session until it is stopped."""
    found: Agent = await agent_at(port, holds)
    return found


@pytest.fixture
def settings(port: AgentPort) -> dict[str, Any]:
    """What a gateway is started with that has the agent there; to be overridden."""
    return tables(port.url)


@pytest.fixture
async def worker(tmp_path: Path, settings: dict[str, Any]) -> AsyncIterator[Worker]:
    """A worker of a gateway with these settings, in this process."""
    async with running_worker(tmp_path / "patchbay.db", settings) as one:
        yield one
