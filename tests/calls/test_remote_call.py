# SPDX-License-Identifier: BSD-2-Clause
"""A socket that is passed to the worker of its call while its far end sends: no byte is lost."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from gateway.calls.remote_call import StreamHandovers
from gateway.config import Limits
from gateway.media.disconnect import Disconnect
from gateway.media.leg import Leg
from gateway.media.socket_passing import PassResult, send_socket
from gateway.simulator.waiting import WAIT_S, eventually
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
