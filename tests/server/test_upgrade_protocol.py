# SPDX-License-Identifier: BSD-2-Clause
"""How uvicorn hands a socket over to UpgradeProtocol, of which it promises nothing."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.media.accept import SERVE_CALL, Upgrade
from gateway.media.disconnect import Disconnect
from gateway.server.upgrade_protocol import UpgradeProtocol
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.caller import Caller, dial, open_socket, request, upgrade_headers

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RecordingProtocol(UpgradeProtocol):
    """Records in which order it is called, and with what."""

    created: list[RecordingProtocol]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calls: list[tuple[str, Any]] = [("created with", (args, sorted(kwargs)))]
        super().__init__(*args, **kwargs)
        self.created.append(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.calls.append(("connection_made", transport.get_protocol() is self))
        self.transport = transport
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.calls.append(("data_received", data))
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("connection_lost", None))
        super().connection_lost(exc)


class Gateway:
    """A real uvicorn server with the gateway's protocol class, and the calls that it has received."""

    def __init__(self, server: Server, port: int, created: list[RecordingProtocol]) -> None:
        self.server = server
        self.port = port
        self.created = created
        self.upgrades: asyncio.Queue[Upgrade] = asyncio.Queue()
        self.hang_up = asyncio.Event()

    async def serve(self, upgrade: Upgrade) -> None:
        self.upgrades.put_nowait(upgrade)
        await self.hang_up.wait()

    async def next_call(self) -> tuple[Upgrade, RecordingProtocol]:
        async with asyncio.timeout(WAIT_S):
            upgrade = await self.upgrades.get()
        return upgrade, next(protocol for protocol in self.created if protocol.upgrade is upgrade)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    created: list[RecordingProtocol] = []

    class Protocol(RecordingProtocol):
        pass

    Protocol.created = created

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {SERVE_CALL: gateway.serve}

    config = uvicorn.Config(
        Starlette(lifespan=lifespan),
        http="httptools",
        ws=Protocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    port = socket.create_server(("127.0.0.1", 0))
    gateway = Gateway(Server(config), port.getsockname()[1], created)
    running = asyncio.create_task(gateway.server.serve(sockets=[port]))
    await eventually(lambda: gateway.server.started, "uvicorn serves")
    yield gateway
    gateway.hang_up.set()
    gateway.server.should_exit = True
    async with asyncio.timeout(WAIT_S):
        await running


async def request_upgrade(gateway: Gateway, target: str = "/ws/twilio?x=1", pieces: int = 1) -> Caller:
    """Send an upgrade request in several packets, and do not wait for the answer."""
    reader, writer = await open_socket(gateway.port)
    caller = Caller(reader, writer, masks=True)
    raw = request(
        target, [*upgrade_headers("eu-central.localhost", KEY).items(), ("X-Twice", "1"), ("X-Twice", "2")]
    )
    size = -(-len(raw) // pieces)
    for start in range(0, len(raw), size):
        await caller.pour(raw[start : start + size])
    return caller


@pytest.mark.parametrize("pieces", [1, 2, 7])
async def test_uvicorn_feeds_one_object_the_whole_head_and_makes_it_the_protocol(
    gateway: Gateway, pieces: int
) -> None:
    caller = await request_upgrade(gateway, pieces=pieces)
    upgrade, protocol = await gateway.next_call()
    assert gateway.created == [protocol]
    (_, (args, keywords)), connected, (_, head) = protocol.calls
    assert args == ()
    assert keywords == ["app_state", "config", "server_state"]
    assert connected == ("connection_made", False)
    assert head.startswith(b"GET /ws/twilio?x=1 HTTP/1.1\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert protocol.transport.get_protocol() is protocol
    assert (upgrade.url.path, upgrade.url.query, upgrade.fault) == ("/ws/twilio", "x=1", "")
    assert upgrade.header("Host") == "eu-central.localhost"
    assert upgrade.header("x-twice") == "1, 2"
    assert upgrade.header("none") == ""
    assert upgrade.address == "127.0.0.1"
    await caller.leave()


async def test_uvicorn_waits_for_a_call_until_it_has_ended(gateway: Gateway) -> None:
    """uvicorn keeps what it waits for in two sets."""
    caller = await request_upgrade(gateway)
    _, protocol = await gateway.next_call()
    state = gateway.server.server_state
    assert isinstance(state.connections, set)
    assert isinstance(state.tasks, set)
    assert state.connections == {protocol}
    assert len(state.tasks) == 1
    gateway.hang_up.set()
    await eventually(lambda: not state.connections and not state.tasks, "the call is forgotten")
    assert await caller.ended() == b"", "a client without an answer is not left waiting"
    await caller.leave()


async def test_a_stop_is_reported_to_the_call_and_waits_for_it(gateway: Gateway) -> None:
    caller = await request_upgrade(gateway)
    upgrade, protocol = await gateway.next_call()
    reported = asyncio.Event()
    upgrade.on_shutdown = reported.set
    gateway.server.should_exit = True
    async with asyncio.timeout(WAIT_S):
        await reported.wait()
    assert gateway.server.server_state.connections == {protocol}
    gateway.hang_up.set()
    await caller.ended()
    await caller.leave()


async def test_the_socket_of_an_accepted_call_is_the_legs(gateway: Gateway) -> None:
    disconnects: list[Disconnect] = []
    dialing = asyncio.create_task(dial(gateway.port, "/ws/twilio"))
    upgrade, protocol = await gateway.next_call()
    leg = upgrade.accept(max_opening_bytes=1000, max_buffered_bytes=1000, on_disconnect=disconnects.append)
    assert not upgrade.is_pending
    caller = await dialing
    assert caller.status == 101
    assert protocol.transport.get_protocol() is leg
    caller.say("hello")
    async with asyncio.timeout(WAIT_S):
        assert await leg.receive() == "hello"
    assert gateway.server.server_state.connections == {protocol}, "a stop still waits for the call"
    leg.close(1000, "")
    assert await caller.closed() == (1000, "")
    await caller.leave()


async def test_bytes_between_the_request_and_its_answer_are_the_legs(gateway: Gateway) -> None:
    caller = await request_upgrade(gateway)
    upgrade, protocol = await gateway.next_call()
    raw = caller.say("too early")
    await eventually(lambda: protocol.calls[-1] == ("data_received", raw), "the bytes have come")
    leg = upgrade.accept(max_opening_bytes=1000, max_buffered_bytes=1000, on_disconnect=lambda _: None)
    assert await leg.receive() == "too early"
    assert leg.take_buffered() == raw
    leg.transport.abort()
    await caller.leave()


async def test_a_client_that_leaves_before_the_answer_is_reported(gateway: Gateway) -> None:
    caller = await request_upgrade(gateway)
    upgrade, protocol = await gateway.next_call()
    left = asyncio.Event()
    upgrade.on_disconnect = lambda _: left.set()
    caller.reset()
    async with asyncio.timeout(WAIT_S):
        await left.wait()
    assert not upgrade.is_pending
    assert protocol.calls[-1][0] == "connection_lost"
    await caller.leave()


def test_uvicorns_own_class_is_created_with_the_same_keywords() -> None:
    keywords = inspect.signature(WebSocketsSansIOProtocol.__init__).parameters
    assert {"config", "server_state", "app_state"} <= keywords.keys()
