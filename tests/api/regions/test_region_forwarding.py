# SPDX-License-Identifier: BSD-2-Clause
"""API requests for agents of another region: passed on once, as they came, and answered from there."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.middleware import Middleware
from yarl import URL

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.api.framework.dispatch import routes
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import ApiMiddleware
from gateway.api.pipecat_cloud import region_forwarding
from gateway.api.pipecat_cloud.region_forwarding import REGIONS, RegionForwarding
from gateway.api.routes import OPERATIONS
from gateway.auth.media_tokens import MediaTokens, load_secret
from gateway.config import Settings
from gateway.simulator.waiting import WAIT_S
from gateway.store.interface import SessionFilter
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.agent import AgentPort
from tests.harness.wiring import wire

PUBLIC = {"Authorization": "Bearer pk_acme"}
PRIVATE = {"Authorization": "Bearer sk_acme"}
START = "/v1/public/night/start"
SESSION_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
SESSION = f"/v1/public/night/sessions/{SESSION_ID}/notes"
WEBSOCKET = {"transport": "websocket"}


@dataclass
class OtherGateway:
    """The gateway of the other region, by hand. `answers`: serves the next requests."""

    answers: Callable[[web.Request], Awaitable[web.StreamResponse]]
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.requests.append(request)
        self.arrived.set()
        return await self.answers(request)


@dataclass
class Gateway:
    """One region's gateway: its API over real HTTP, and its store."""

    url: str
    services: Services
    client: aiohttp.ClientSession

    def __call__(self, method: str, path: str, **options: Any) -> Any:
        """Send a request."""
        return self.client.request(method, URL(f"{self.url}{path}", encoded=True), **options)

    async def sessions(self) -> int:
        """Count the sessions in its store."""
        return (await self.services.calls.store.sessions(SessionFilter(), limit=0))[1]


@pytest.fixture
async def other() -> AsyncIterator[OtherGateway]:
    """Run the other region's gateway, which answers with what it got."""

    async def echoes(request: web.Request) -> web.StreamResponse:
        gateway.bodies.append(await request.read())
        return web.json_response({"of": "eu-central"}, status=201, headers={"X-Theirs": "yes"})

    gateway = OtherGateway(echoes)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", gateway.serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield gateway
    await runner.cleanup()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    """Start the gateway of a region. `urls`: of the gateways of regions."""
    async with AsyncExitStack() as ends:
        client = await ends.enter_async_context(aiohttp.ClientSession())

        async def start(region: str, urls: dict[str, str], **limits: Any) -> Gateway:
            settings = Settings.model_validate(
                {
                    "server": {"region": region, "public_url": f"https://{region}.voice.test"},
                    "regions": [
                        {"code": code, "display_name": code, "url": urls.get(code)}
                        for code in ("us-west", "eu-central", "ap-south")
                    ],
                    "organizations": [
                        {"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"]},
                        {"name": "globex", "public_keys": ["pk_globex"]},
                    ],
                    "agents": [
                        {"name": "day", "organization": "acme", "region": "us-west"},
                        {"name": "night", "organization": "acme", "region": "eu-central"},
                    ],
                    "limits": limits,
                }
            )
            store = SqliteStore(tmp_path / f"{region}.db", WorkerId.of_this_process(uuid.uuid4().hex))
            await store.open()
            ends.push_async_callback(store.close)
            tokens = MediaTokens(await load_secret(store, lambda: 1000.0), store, lambda: 1000.0)
            wiring = wire(settings, store, AgentDirectory(settings), InstanceHealth(()), tokens)
            services = Services(*wiring, bots=None, http=client)  # type: ignore[arg-type]
            app = Starlette(
                routes=routes(OPERATIONS, services, elsewhere=RegionForwarding(services)),
                middleware=[Middleware(ApiMiddleware)],
            )
            port = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            port.bind(("127.0.0.1", 0))
            config = uvicorn.Config(
                app, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
            )
            config.load()
            server = uvicorn.Server(config)
            server.lifespan = config.lifespan_class(config)
            await server.startup(sockets=[port])
            ends.push_async_callback(server.shutdown, sockets=[port])
            return Gateway(f"http://127.0.0.1:{port.getsockname()[1]}", services, client)

        yield start


@pytest.fixture
async def west(serve: Callable[..., Any], other: OtherGateway) -> Gateway:
    """Start the gateway of us-west, which knows that of eu-central."""
    gateway: Gateway = await serve("us-west", {"eu-central": other.url})
    return gateway


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("POST", START, PUBLIC, b'{"transport": "websocket"}'),
        ("GET", f"{SESSION}?page=1&x=%2F", PUBLIC, b""),
        ("PATCH", SESSION, PUBLIC, b"changes"),
        ("POST", "/v1/public/night/dialout", PUBLIC, b"{}"),
        ("POST", "/v1/public/webhooks/acme/night/dialin", {"X-Pinless-Signature": "a"}, b'{"x": 1}'),
        ("GET", "/v1/public/webhooks/acme/night/whatsapp?hub.mode=subscribe", {}, b""),
        ("POST", "/v1/public/webhooks/acme/night/whatsapp", {"X-Hub-Signature-256": "a"}, b"{}"),
        ("GET", "/v1/agents/night", PRIVATE, b""),
        ("GET", "/v1/organizations/acme/services/night", PRIVATE, b""),
        ("GET", "/v1/agents/night/sessions?limit=5", PRIVATE, b""),
        ("DELETE", f"/v1/agents/night/sessions/{SESSION_ID}", PRIVATE, b""),
        ("POST", "/v1/sessions", PRIVATE, b'{"agent": "night", "transport": {"type": "websocket"}}'),
        ("POST", "/v1/agents", PRIVATE, b'{"serviceName": "new", "region": "eu-central"}'),
        ("PUT", "/v1/organizations/acme/services", PRIVATE, b'{"serviceName": "night", "media": "bytes"}'),
        ("POST", "/v1/sessions", PRIVATE, b'{"agent": "night.acme", "transport": {"type": "websocket"}}'),
    ],
)
async def test_a_request_for_an_agent_of_another_region_goes_there_as_it_came(
    west: Gateway, other: OtherGateway, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    sent = {
        **headers,
        "X-Request-Id": "mine",
        "Content-Type": "application/json",
        "X-Forwarded-For": "9.9.9.9",
    }
    async with west(method, path, headers=sent, data=body) as answer:
        assert (answer.status, await answer.json()) == (201, {"of": "eu-central"})
        assert answer.headers["X-Theirs"] == "yes"
        assert answer.headers.getall("X-Request-Id") == ["mine"]
    (request,) = other.requests
    assert (request.method, request.raw_path) == (method, path)
    assert other.bodies == [body]
    for name, value in headers.items():
        assert request.headers.getall(name) == [value]
    assert request.headers.getall("X-Request-Id") == ["mine"]
    assert request.headers.getall(REGIONS) == ["us-west"]
    assert request.headers.getall("X-Forwarded-For") == ["127.0.0.1"]
    assert request.headers.getall("Host") == [other.url.removeprefix("http://")]
    assert not await west.sessions()


async def test_a_session_that_is_started_through_another_region_runs_in_the_agents_own(
    serve: Callable[..., Any],
) -> None:
    east = await serve("eu-central", {})
    west = await serve("us-west", {"eu-central": east.url})
    async with west("POST", START, headers=PUBLIC, json=WEBSOCKET) as answer:
        started = await answer.json()
    assert started["wsUrl"] == "wss://eu-central.voice.test/ws/generic/night.acme"
    assert (await west.sessions(), await east.sessions()) == (0, 1)


async def test_requests_for_agents_of_this_region_stay_here(west: Gateway, other: OtherGateway) -> None:
    async with west("POST", "/v1/public/day/start", headers=PUBLIC, json=WEBSOCKET) as answer:
        assert (await answer.json())["wsUrl"] == "wss://us-west.voice.test/ws/generic/day.acme"
    assert not other.requests


@pytest.mark.parametrize("path", ["/v1/agents", "/v1/sessions", "/v1/regions", "/v1/usage"])
async def test_requests_that_name_no_agent_stay_here(west: Gateway, other: OtherGateway, path: str) -> None:
    async with west("GET", path, headers=PRIVATE) as answer:
        assert answer.status == 200
    assert not other.requests


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (START, {}, 401),
        (START, {"Authorization": "Bearer pk_unknown"}, 401),
        (START, {"Authorization": "Bearer pk_globex"}, 404),
        ("/v1/public/nobody/start", PUBLIC, 404),
        ("/v1/agents/night/deployments/x/activate", PUBLIC, 401),
    ],
)
async def test_who_may_not_is_refused_here(
    west: Gateway, other: OtherGateway, path: str, headers: dict[str, str], status: int
) -> None:
    async with west("POST", path, headers=headers, json=WEBSOCKET) as answer:
        assert answer.status == status
    assert not other.requests


async def test_the_other_gateways_own_answer_comes_back(west: Gateway, other: OtherGateway) -> None:
    async def full(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": "PCC-AGENT-AT-CAPACITY"}, status=429, headers={"Retry-After": "5"})

    other.answers = full
    async with west("POST", START, headers=PUBLIC, json=WEBSOCKET) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
        assert await answer.json() == {"error": "PCC-AGENT-AT-CAPACITY"}


async def test_both_bodies_are_streamed(west: Gateway, other: OtherGateway) -> None:
    heard = asyncio.Event()

    async def talks(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        async for chunk in request.content.iter_any():
            await answer.write(chunk)
        await answer.write_eof()
        return answer

    async def words() -> AsyncIterator[bytes]:
        yield b"first"
        await heard.wait()
        yield b" last"

    other.answers = talks
    async with asyncio.timeout(WAIT_S), west("POST", SESSION, headers=PUBLIC, data=words()) as answer:
        assert await answer.content.readexactly(5) == b"first"
        heard.set()
        assert await answer.read() == b" last"


@pytest.mark.parametrize("passed", ["us-west", "eu-central, us-west", "us-west,us-east"])
async def test_a_request_that_comes_back_ends(west: Gateway, other: OtherGateway, passed: str) -> None:
    async with west("POST", START, headers=PUBLIC | {REGIONS: passed}, json=WEBSOCKET) as answer:
        assert answer.status == 508
        assert "has been in the region us-west before" in (await answer.json())["error"]
    assert not other.requests


async def test_two_gateways_that_name_each_other_end_it_after_one_round(serve: Callable[..., Any]) -> None:
    port = AgentPort()
    west = await serve("us-west", {"eu-central": "http://127.0.0.1:9"})
    south = await serve("ap-south", {"eu-central": west.url})
    port.free()
    west.services.calls.agents._elsewhere["eu-central"] = south.url
    async with asyncio.timeout(WAIT_S), west("GET", "/v1/agents/night", headers=PRIVATE) as answer:
        assert answer.status == 508


async def test_a_request_that_has_come_a_long_way_says_so(west: Gateway, other: OtherGateway) -> None:
    async with west("GET", "/v1/agents/night", headers=PRIVATE | {REGIONS: "ap-south"}) as answer:
        assert answer.status == 201
    assert other.requests[0].headers[REGIONS] == "ap-south,us-west"


async def test_a_gateway_that_is_away_is_a_clear_answer(serve: Callable[..., Any]) -> None:
    port = AgentPort()
    west = await serve("us-west", {"eu-central": port.url})
    async with west("POST", START, headers=PUBLIC, json=WEBSOCKET) as answer:
        assert answer.status == 502
        error = await answer.json()
    port.free()
    assert error["code"] == "agent_unreachable"
    assert error["error"].startswith("the gateway of the region eu-central cannot be connected")
    assert port.url.removeprefix("http://") not in error["error"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_is_lost_is_tried_no_second_time(
    west: Gateway, other: OtherGateway, method: str
) -> None:
    async def hangs_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    other.answers = hangs_up
    async with west(method, SESSION, headers=PUBLIC) as answer:
        assert answer.status == 502
        assert "eu-central closed the connection without an answer" in (await answer.json())["error"]
    assert len(other.requests) == 1


async def test_a_gateway_that_is_silent_is_waited_for_within_limits(
    serve: Callable[..., Any], other: OtherGateway
) -> None:
    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    other.answers = hangs
    west = await serve("us-west", {"eu-central": other.url}, session_api_timeout=0.2)
    async with asyncio.timeout(WAIT_S), west("POST", START, headers=PUBLIC, json=WEBSOCKET) as answer:
        assert answer.status == 504
    assert len(other.requests) == 1


async def test_a_gateway_that_takes_no_connection_is_waited_for_within_limits(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_forwarding, "CONNECT_S", 0.2)
    with socket.socket() as full:  # its queue of connections is full
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            others = [socket.socket() for _ in range(4)]
            for each in others:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            west = await serve("us-west", {"eu-central": f"http://127.0.0.1:{full.getsockname()[1]}"})
            async with asyncio.timeout(WAIT_S), west("POST", START, headers=PUBLIC, json=WEBSOCKET) as answer:
                assert answer.status == 502
                assert "no answer in time" in (await answer.json())["error"]
            for each in others:
                each.close()


async def test_a_client_that_leaves_ends_the_request_there(west: Gateway, other: OtherGateway) -> None:
    left = asyncio.Event()

    async def waits(_: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    other.answers = waits
    request = asyncio.ensure_future(west("GET", "/v1/agents/night", headers=PRIVATE).__aenter__())
    async with asyncio.timeout(WAIT_S):
        await other.arrived.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await left.wait()


async def test_one_line_says_where_a_request_went(west: Gateway) -> None:
    with structlog.testing.capture_logs() as lines:
        async with west("GET", "/v1/agents/night", headers=PRIVATE) as answer:
            assert answer.status == 201
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["status"], line["passed_on_to"]) == (201, "eu-central")


async def test_a_carriers_request_for_a_document_is_not_passed_on(west: Gateway, other: OtherGateway) -> None:
    """It is signed for the URL that it came to."""
    body = {"CallSid": "CA1", "From": "+15550001111", "To": "+15559876543", "Direction": "inbound"}
    async with west("POST", "/xml/twilio?agent=night&org=acme", data=body) as answer:
        assert answer.status in (200, 403, 404)
        assert b"<Stream" not in await answer.read()
    assert not other.requests
    assert json.dumps(await west.sessions()) == "0"
