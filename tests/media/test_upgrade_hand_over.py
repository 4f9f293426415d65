# SPDX-License-Identifier: BSD-2-Clause
"""Watches what uvicorn does not promise and gateway/media/accept.py needs: how it hands a socket over."""

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
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.caller import Caller, dial, open_socket, request, upgrade_headers

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Watched(Upgrade):
    """Says in which order it is called, and with what."""

    made: list[Watched]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.said: list[tuple[str, Any]] = [("made with", (args, sorted(kwargs)))]
        super().__init__(*args, **kwargs)
        self.made.append(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.said.append(("connection_made", transport.get_protocol() is self))
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.said.append(("data_received", data))
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.said.append(("connection_lost", None))
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self.said.append(("shutdown", None))
        super().shutdown()


class House:
    """A real uvicorn server with our protocol class, and the calls that came."""

    def __init__(self, server: Server, port: int, made: list[Watched]) -> None:
        self.server = server
        self.port = port
        self.made = made
        self.calls: asyncio.Queue[Upgrade] = asyncio.Queue()
        self.hang_up = asyncio.Event()

    async def serve(self, upgrade: Upgrade) -> None:
        self.calls.put_nowait(upgrade)
        await self.hang_up.wait()

    async def call(self) -> Watched:
        async with asyncio.timeout(WAIT_S):
            call = await self.calls.get()
        assert isinstance(call, Watched)
        return call


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made: list[Watched] = []

    class Ours(Watched):
        pass

    Ours.made = made

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {SERVE_CALL: house.serve}

    config = uvicorn.Config(
        Starlette(lifespan=lifespan),
        http="httptools",
        ws=Ours,
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    house = House(Server(config), listening.getsockname()[1], made)
    running = asyncio.create_task(house.server.serve(sockets=[listening]))
    await eventually(lambda: house.server.started, "uvicorn serves")
    yield house
    house.hang_up.set()
    house.server.should_exit = True
    async with asyncio.timeout(WAIT_S):
        await running


async def ask(house: House, target: str = "/ws/twilio?x=1", pieces: int = 1) -> Caller:
    """Sends an upgrade request, in several packets, and does not wait for the answer."""
    reader, writer = await open_socket(house.port)
    caller = Caller(reader, writer, masks=True)
    raw = request(
        target, [*upgrade_headers("eu-central.localhost", KEY).items(), ("X-Twice", "1"), ("X-Twice", "2")]
    )
    size = -(-len(raw) // pieces)
    for at in range(0, len(raw), size):
        await caller.pour(raw[at : at + size])
    return caller


@pytest.mark.parametrize("pieces", [1, 2, 7])
async def test_the_hand_over(house: House, pieces: int) -> None:
    """One object, made with these keywords; told of the connection; fed one whole head; then in charge."""
    caller = await ask(house, pieces=pieces)
    call = await house.call()
    assert house.made == [call]
    (_, (args, keywords)), connected, (_, head) = call.said
    assert args == ()
    assert keywords == ["app_state", "config", "server_state"]
    assert connected == ("connection_made", False)
    assert head.startswith(b"GET /ws/twilio?x=1 HTTP/1.1\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert call.transport.get_protocol() is call
    assert (call.url.path, call.url.query, call.fault) == ("/ws/twilio", "x=1", "")
    assert call.header("Host") == "eu-central.localhost"
    assert call.header("x-twice") == "1, 2"
    assert call.header("none") == ""
    await caller.leave()


async def test_the_books(house: House) -> None:
    """uvicorn keeps what it waits for in two sets; an upgrade is in both until its call has ended."""
    caller = await ask(house)
    call = await house.call()
    state = house.server.server_state
    assert isinstance(state.connections, set)
    assert isinstance(state.tasks, set)
    assert state.connections == {call}
    assert len(state.tasks) == 1
    house.hang_up.set()
    await eventually(lambda: not state.connections and not state.tasks, "the books are empty")
    assert await caller.ended() == b"", "who is not answered is not left waiting"
    await caller.leave()


async def test_a_stop_is_told_to_the_call_and_waits_for_it(house: House) -> None:
    caller = await ask(house)
    call = await house.call()
    told = asyncio.Event()
    call.on_shutdown = told.set
    house.server.should_exit = True
    async with asyncio.timeout(WAIT_S):
        await told.wait()
    assert house.server.server_state.connections == {call}
    house.hang_up.set()
    await caller.ended()
    await caller.leave()


async def test_an_accepted_call_is_the_legs(house: House) -> None:
    gone: list[Disconnect] = []
    dialling = asyncio.create_task(dial(house.port, "/ws/twilio"))
    call = await house.call()
    transport = call.transport
    leg = call.accept(max_opening_bytes=1000, max_buffered_bytes=1000, on_disconnect=gone.append)
    caller = await dialling
    assert caller.status == 101
    assert transport.get_protocol() is leg
    caller.say("hello")
    async with asyncio.timeout(WAIT_S):
        assert await leg.receive() == "hello"
    assert house.server.server_state.connections == {call}, "a stop still waits for the call"
    leg.close(1000, "")
    assert await caller.closed() == (1000, "")
    await caller.leave()


async def test_bytes_between_the_request_and_its_answer_come_to_us(house: House) -> None:
    dialling_caller = await ask(house)
    call = await house.call()
    raw = dialling_caller.say("too early")
    await eventually(lambda: call.said[-1] == ("data_received", raw), "it comes")
    leg = call.accept(max_opening_bytes=1000, max_buffered_bytes=1000, on_disconnect=lambda _: None)
    assert await leg.receive() == "too early"
    assert leg.take_buffered() == raw
    leg.transport.abort()
    await dialling_caller.leave()


async def test_who_leaves_before_the_answer_is_reported(house: House) -> None:
    caller = await ask(house)
    call = await house.call()
    gone = asyncio.Event()
    call.on_disconnect = lambda _: gone.set()
    caller.reset()
    async with asyncio.timeout(WAIT_S):
        await gone.wait()
    assert call.said[-1][0] == "connection_lost"
    await caller.leave()


def test_the_range_of_uvicorn_that_this_was_seen_in() -> None:
    """The keywords of the class that uvicorn itself would use are those that it gives ours."""
    keywords = inspect.signature(WebSocketsSansIOProtocol.__init__).parameters
    assert {"config", "server_state", "app_state"} <= keywords.keys()
