# SPDX-License-Identifier: BSD-2-Clause
"""A socket that is passed to the worker of its call while its far end sends: no byte is lost."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from gateway.calls.remote_call import RemoteCall, StreamHandovers
from gateway.config import Limits
from gateway.media.disconnect import Disconnect
from gateway.media.leg import Leg
from gateway.media.socket_passing import PassResult, send_socket
from gateway.nodes.tunnel import Tunnel
from gateway.server.tls import load_context
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.certificates import issue_certificate, trust_anything
from tests.harness.frames import BINARY, frame

Run = Callable[[Coroutine[Any, Any, None]], None]


class Call:
    """A call of this worker that waits for a stream, and attaches it if it is `willing`."""

    def __init__(self, *, willing: bool) -> None:
        self.willing = willing
        self.leg: Leg | None = None
        self.on_disconnect: Callable[[Disconnect], None] = lambda _: None

    def can_attach(self, agent: str, start: object) -> bool:
        return self.willing

    def attach_stream(self, leg: Leg, start: object) -> bool:
        self.leg = leg
        leg.set_on_disconnect(self.on_disconnect)
        return True


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a connection, and the gateway's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, ours:
        yield theirs, ours


async def pass_on(call: Call, ours: socket.socket) -> tuple[PassResult, bytes]:
    """Pass the socket to the call's worker; return the result, and what the worker gave back."""
    name, returned = uuid.uuid4().hex, b""

    def take_back(data: bytes) -> None:
        nonlocal returned
        returned += data

    services = SimpleNamespace(settings=SimpleNamespace(limits=Limits()), nodes=None)
    active = SimpleNamespace(get=lambda _: call)
    handovers = StreamHandovers(cast(Any, services), cast(Any, active), name)
    handovers.start()
    header = {"session": "s", "carrier": "generic", "agent": "support.acme", "opening": 0}
    result = await send_socket(name, ours.fileno(), json.dumps(header).encode() + b"\n", take_back)
    await handovers.stop()
    return result, returned


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_the_client_sends_meanwhile_reaches_the_call(
    run: Run, connection: tuple[socket.socket, socket.socket]
) -> None:
    theirs, ours = connection
    sent = [frame(BINARY, text, key=os.urandom(4)) for text in (b"on the way", b"and more")]

    async def hand_over() -> None:
        call = Call(willing=True)
        theirs.sendall(sent[0])
        assert await pass_on(call, ours) == (PassResult.TAKEN, b"")
        ours.close()
        leg = call.leg
        assert leg is not None
        theirs.sendall(sent[1])
        await eventually(lambda: leg.buffered_data() == b"".join(sent), "both messages are there")
        leg.discard()

    run(hand_over())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_socket_that_is_not_taken_comes_back_with_all_that_was_read(
    run: Run, connection: tuple[socket.socket, socket.socket]
) -> None:
    theirs, ours = connection
    sent = frame(BINARY, b"on the way", key=os.urandom(4))

    async def hand_over() -> None:
        theirs.sendall(sent)
        result, returned = await pass_on(Call(willing=False), ours)
        assert result is PassResult.NOT_TAKEN
        ours.setblocking(False)
        left = b"" if returned else await asyncio.get_running_loop().sock_recv(ours, 100)
        assert returned + left == sent

    run(hand_over())


def test_a_client_whose_end_was_read_meanwhile_is_not_attached(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    """uvloop reads the end before there is a leg, and nobody would tell the call. The sender sees it, too."""
    theirs, ours = connection

    async def hand_over() -> None:
        theirs.close()
        call = Call(willing=True)
        assert await pass_on(call, ours) == (PassResult.NOT_TAKEN, b"")
        assert call.leg is None

    uvloop.run(hand_over())


def test_a_client_whose_end_was_not_read_yet_is_attached_and_missed(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    theirs, ours = connection

    async def hand_over() -> None:
        theirs.close()
        call, gone = Call(willing=True), asyncio.Event()
        call.on_disconnect = lambda _: gone.set()
        assert await pass_on(call, ours) == (PassResult.TAKEN, b"")
        async with asyncio.timeout(WAIT_S):
            await gone.wait()

    asyncio.run(hand_over())


# A socket whose TLS is ours, which cannot be passed


class Answered(asyncio.Protocol):
    """The gateway's end of a connection, until a leg is made of it."""

    def __init__(self) -> None:
        self.transport: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport.set_result(transport)


@pytest.mark.parametrize("willing", [True, False])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_socket_with_tls_of_ours_reaches_its_call_through_a_tunnel(
    run: Run, willing: bool, tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)

    async def hand_over() -> None:
        loop, worker = asyncio.get_running_loop(), uuid.uuid4().hex
        call, gone = Call(willing=willing), asyncio.Event()
        call.on_disconnect = lambda _: gone.set()
        services = SimpleNamespace(settings=SimpleNamespace(limits=Limits()), nodes=None)
        active = SimpleNamespace(get=lambda _: call)
        handovers = StreamHandovers(cast(Any, services), cast(Any, active), worker)
        handovers.start()
        answered = Answered()
        server = await loop.create_server(
            lambda: answered, "127.0.0.1", 0, ssl=load_context(str(certificate), str(key))
        )
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust_anything())
        ours = Leg(
            await answered.transport,
            client=False,
            max_opening_bytes=65536,
            max_buffered_bytes=65536,
            on_disconnect=lambda _: None,
        )
        ours.buffer_messages(65536)
        sent = [frame(BINARY, text, key=os.urandom(4)) for text in (b"before", b"after")]
        writer.write(sent[0])
        await eventually(lambda: ours.buffered_data() == sent[0], "it is here")
        agent = SimpleNamespace(service_host="support.acme")
        attached = await RemoteCall(worker, "s").attach_stream(ours, "generic", cast(Any, agent))
        writer.write(sent[1])
        if willing:
            assert isinstance(attached, Tunnel)
            running = asyncio.create_task(attached.run())
            leg = call.leg
            assert leg is not None
            await eventually(lambda: leg.buffered_data() == b"".join(sent), "both messages are there")
            leg.transport.write(b"heard")
            assert await reader.readexactly(5) == b"heard"
            writer.close()
            async with asyncio.timeout(WAIT_S):
                await gone.wait()
                leg.discard()
                await running
        else:
            assert attached is False
            await eventually(lambda: ours.buffered_data() == b"".join(sent), "it is read on here")
            ours.discard()
            writer.transport.abort()
        server.close()
        await handovers.stop()

    run(hand_over())


async def test_a_call_of_a_worker_that_is_nowhere_leaves_the_socket_where_it_is(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    theirs, ours = connection
    ours.setblocking(False)
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    leg = Leg(
        transport,
        client=False,
        max_opening_bytes=65536,
        max_buffered_bytes=65536,
        on_disconnect=lambda _: None,
    )
    agent = SimpleNamespace(service_host="support.acme")
    assert not await RemoteCall(uuid.uuid4().hex, "s").attach_stream(leg, "generic", cast(Any, agent))
    sent = frame(BINARY, b"still here", key=os.urandom(4))
    theirs.sendall(sent)
    await eventually(lambda: leg.buffered_data() == sent, "it is read on here")
    leg.discard()
