# SPDX-License-Identifier: BSD-2-Clause
"""A tunnel between a carrier's socket and the one that leads to its call: nothing is lost or piles up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from gateway.media.direct_transport import HIGH_WATER_BYTES
from gateway.nodes import tunnel as tunnel_module
from gateway.nodes.tunnel import Tunnel, watch_far_end
from gateway.simulator.waiting import WAIT_S, eventually

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Tunnelled:
    """A tunnel that runs, and the far ends of its sockets. `ends`: how often it has told that it ended."""

    carrier: Stream
    owner: Stream
    tunnel: Tunnel
    running: asyncio.Task[None]
    ends: list[None]

    async def over(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait([self.running])
        assert self.ends == [None]


async def far_end(ours: socket.socket, theirs: socket.socket) -> tuple[asyncio.Transport, Stream]:
    """The transport of our end, which is not read, and the far end as a stream."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    transport.pause_reading()
    return transport, await asyncio.open_connection(sock=theirs)


@contextlib.asynccontextmanager
async def opened(early: bytes = b"") -> AsyncIterator[Tunnelled]:
    pairs = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        for each in (ours, theirs):
            each.setblocking(False)
        pairs.append(await far_end(ours, theirs))
    (carrier_transport, carrier), (owner_transport, owner) = pairs
    ends: list[None] = []
    made = Tunnel(carrier_transport, owner_transport, early, on_end=lambda: ends.append(None))
    running = asyncio.create_task(made.run())
    yield Tunnelled(carrier, owner, made, running, ends)
    for _, writer in (carrier, owner):
        writer.transport.abort()
    async with asyncio.timeout(WAIT_S):
        await asyncio.wait([running])


async def read(stream: Stream, count: int) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await stream[0].readexactly(count)


async def rest(stream: Stream) -> bytes:
    """All that comes until the end."""
    async with asyncio.timeout(WAIT_S):
        return await stream[0].read()


def reset(stream: Stream) -> None:
    raw = stream[1].get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream[1].transport.abort()


async def test_all_bytes_pass_both_ways() -> None:
    async with opened(b"first ") as line:
        line.owner[1].write(b"then")
        assert await read(line.carrier, 10) == b"first then"
        line.carrier[1].write(b"a caller's words")
        assert await read(line.owner, 16) == b"a caller's words"
        assert line.tunnel.passed == (16, 10)


@pytest.mark.parametrize("way", ["to the owner", "to the carrier"])
async def test_a_side_that_does_not_read_stops_the_other(way: str) -> None:
    async with opened() as line:
        sender, receiver = (line.carrier, line.owner) if way == "to the owner" else (line.owner, line.carrier)
        receiver[1].transport.pause_reading()  # type: ignore[attr-defined]
        sent = os.urandom(16 * 1024 * 1024)  # more than the kernel keeps
        sender[1].write(sent)
        _, owner = line.tunnel._transports
        target = owner if way == "to the owner" else line.tunnel._transports[0]
        await eventually(lambda: target.get_write_buffer_size() > HIGH_WATER_BYTES, "it waits")
        assert target.get_write_buffer_size() < 2 * 1024 * 1024
        assert sender[1].transport.get_write_buffer_size() > 0, "the rest is where it was"
        receiver[1].transport.resume_reading()  # type: ignore[attr-defined]
        assert await read(receiver, len(sent)) == sent


async def test_a_carrier_that_has_ended_its_stream_still_receives() -> None:
    async with opened() as line:
        line.carrier[1].write(b"goodbye")
        line.carrier[1].write_eof()
        assert await rest(line.owner) == b"goodbye"
        line.owner[1].write(b"a last word")
        line.owner[1].close()
        assert await rest(line.carrier) == b"a last word"
        await line.over()


async def test_a_carrier_that_ends_its_stream_and_stays_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "LINGER_S", 0.05)
    async with opened() as line:
        line.carrier[1].write_eof()
        assert await rest(line.owner) == b""
        assert await rest(line.carrier) == b""
        line.owner[1].close()
        await line.over()


async def test_the_end_of_the_call_s_socket_ends_the_carrier_s_after_all_that_was_said() -> None:
    async with opened() as line:
        said = os.urandom(500_000)
        line.owner[1].write(said)
        line.owner[1].close()
        assert await rest(line.carrier) == said
        await line.over()


@pytest.mark.parametrize("lost", ["carrier", "owner"])
async def test_a_side_that_was_lost_ends_the_other(lost: str) -> None:
    async with opened() as line:
        reset(line.carrier if lost == "carrier" else line.owner)
        assert await rest(line.owner if lost == "carrier" else line.carrier) == b""
        await line.over()


async def test_a_carrier_that_was_lost_before_there_was_a_tunnel_ends_it() -> None:
    loop = asyncio.get_running_loop()
    carrier, owner = socket.socketpair(), socket.socketpair()
    for each in (*carrier, *owner):
        each.setblocking(False)
    transports = [
        (await loop.connect_accepted_socket(asyncio.Protocol, pair[0]))[0] for pair in (carrier, owner)
    ]
    transports[0].abort()
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        await Tunnel(transports[0], transports[1]).run()
        assert await loop.sock_recv(owner[1], 10) == b""
    carrier[1].close()
    owner[1].close()


async def test_a_tunnel_that_is_closed_or_cancelled_ends_both() -> None:
    for how in ("close", "cancel"):
        async with opened() as line:
            await asyncio.sleep(0)  # it runs
            line.tunnel.close() if how == "close" else line.running.cancel()
            assert (await rest(line.carrier), await rest(line.owner)) == (b"", b"")
            await line.over()


async def test_the_kernel_looks_after_the_far_end_of_a_connection_between_machines() -> None:
    async with opened() as line:
        transport = line.tunnel._transports[1]
        watch_far_end(transport)
        raw = transport.get_extra_info("socket")
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == tunnel_module.KEEPALIVE_IDLE_S
