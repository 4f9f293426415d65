# SPDX-License-Identifier: BSD-2-Clause
"""A leg without a relay: what it answers, returns and buffers. Over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.media.disconnect import CONNECTION_ENDED, CONNECTION_LOST, Disconnect
from gateway.media.leg import Leg
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, close_frame, frame
from tests.harness.websocket_peer import WebSocketPeer

OPENING_BYTES = 1000
EARLY_BYTES = 2000


class Connection:
    """A leg and the far end of its socket."""

    def __init__(
        self, leg: Leg, far: WebSocketPeer, disconnects: list[Disconnect], key: bytes | None
    ) -> None:
        self.leg = leg
        self.far = far
        self.disconnects = disconnects
        self.key = key

    def frame(self, opcode: int, payload: bytes = b"", **odd: Any) -> bytes:
        return frame(opcode, payload, key=self.key, **odd)

    async def until(self, happened: Callable[[], object]) -> None:
        await eventually(happened, "it happens")

    async def send_and_wait(self, raw: bytes) -> None:
        """Send `raw`, and wait until the leg has processed it: it answers a ping that follows."""
        await self.far.pour(raw + self.frame(PING, b"done?"))
        while True:
            received = await self.far.next()
            assert received is not None
            if (received.opcode, received.payload) == (PONG, b"done?"):
                return


@pytest.fixture(params=["carrier", "agent"])
async def connection(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A carrier's leg, whose far end masks, or an agent's, whose far end does not."""
    client = request.param == "agent"
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    disconnects: list[Disconnect] = []
    leg = Leg(
        transport,
        client=client,
        max_opening_bytes=OPENING_BYTES,
        max_buffered_bytes=EARLY_BYTES,
        on_disconnect=disconnects.append,
    )
    reader, writer = await asyncio.open_connection(sock=theirs)
    far = WebSocketPeer(reader, writer, masks=not client)
    yield Connection(leg, far, disconnects, None if client else KEY)
    await far.leave()
    transport.abort()
    await asyncio.sleep(0)


async def test_messages_are_returned_in_order(connection: Connection) -> None:
    await connection.send_and_wait(
        connection.frame(TEXT, "Grüße".encode())
        + connection.frame(BINARY, b"\xff\x00")
        + connection.frame(TEXT)
    )
    assert [await connection.leg.receive() for _ in range(3)] == ["Grüße", b"\xff\x00", ""]


async def test_a_reader_is_woken(connection: Connection) -> None:
    reading = asyncio.create_task(connection.leg.receive())
    await asyncio.sleep(0)
    connection.far.send(connection.frame(TEXT, b"late"))
    async with asyncio.timeout(WAIT_S):
        assert await reading == "late"


async def test_a_reader_that_gave_up_misses_nothing(connection: Connection) -> None:
    reading = asyncio.create_task(connection.leg.receive())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await connection.send_and_wait(connection.frame(TEXT, b"late"))
    assert await connection.leg.receive() == "late"


async def test_fragments_are_one_message_and_are_buffered_as_fragments(connection: Connection) -> None:
    parts = [
        connection.frame(TEXT, b"Gr\xc3", fin=False),  # cut inside a letter
        connection.frame(CONTINUATION, b"\xbc\xc3\x9f", fin=False),
        connection.frame(CONTINUATION, b"e"),
    ]
    await connection.send_and_wait(
        parts[0] + connection.frame(PING, b"1") + parts[1] + connection.frame(PONG, b"2") + parts[2]
    )
    assert await connection.leg.receive() == "Grüße"
    assert connection.leg.take_buffered() == b"".join(parts)


async def test_binary_fragments_are_bytes(connection: Connection) -> None:
    await connection.send_and_wait(
        connection.frame(BINARY, b"a", fin=False) + connection.frame(CONTINUATION, b"b")
    )
    assert await connection.leg.receive() == b"ab"


async def test_a_message_may_come_byte_by_byte(connection: Connection) -> None:
    raw = connection.frame(TEXT, b"slowly, over a bad line")
    for at in range(len(raw)):
        await connection.far.pour(raw[at : at + 1])
    assert await connection.leg.receive() == "slowly, over a bad line"
    assert connection.leg.take_buffered() == raw


async def test_pings_are_answered_and_not_buffered(connection: Connection) -> None:
    connection.far.send(
        connection.frame(PING, b"who is there")
        + connection.frame(PONG, b"unasked")
        + connection.frame(TEXT, b"me")
    )
    pong = await connection.far.hear()
    assert (pong.opcode, pong.payload, pong.masked) == (PONG, b"who is there", connection.leg.client)
    assert await connection.leg.receive() == "me"
    assert connection.leg.take_buffered() == connection.frame(TEXT, b"me")


async def test_data_frames_are_buffered_byte_for_byte(connection: Connection) -> None:
    first = connection.frame(TEXT, b"opening")
    early = [
        connection.frame(TEXT, b"x" * 130, wide=8),
        connection.frame(BINARY, b""),
        connection.frame(BINARY, b"\0" * 10),
    ]
    await connection.send_and_wait(first)
    await connection.leg.receive()
    connection.leg.buffer_messages(5000)
    await connection.send_and_wait(b"".join(early))
    assert connection.leg.take_buffered() == first + b"".join(early)
    assert connection.disconnects == []


async def test_larger_messages_than_an_opening_are_buffered(connection: Connection) -> None:
    connection.leg.buffer_messages(5000)
    large = connection.frame(TEXT, b"x" * (OPENING_BYTES + 500))
    await connection.send_and_wait(large)
    assert connection.leg.take_buffered() == large


async def test_reading_pauses_once_too_much_is_buffered(connection: Connection) -> None:
    connection.leg.buffer_messages(5000)
    for _ in range(5):
        await connection.far.pour(connection.frame(TEXT, b"x" * 500))
    await connection.until(lambda: not connection.leg.transport.is_reading())
    assert connection.disconnects == [], "it waits; it is no violation_code"
    late = connection.frame(PING, b"anybody?")
    connection.far.send(late)
    connection.leg.transport.resume_reading()  # as a relay does
    pong = await connection.far.hear()
    assert pong.payload == b"anybody?"


async def test_half_a_frame_counts_as_buffered(connection: Connection) -> None:
    connection.leg.buffer_messages(1 << 20)
    connection.far.send(connection.frame(TEXT, b"x" * 100_000)[: EARLY_BYTES + 100])
    await connection.until(lambda: not connection.leg.transport.is_reading())


async def test_an_opening_that_is_too_large_is_a_violation(connection: Connection) -> None:
    connection.far.send(connection.frame(TEXT, b"x" * 600) + connection.frame(TEXT, b"x" * 600))
    await connection.until(lambda: connection.disconnects)
    assert [(disconnect.violation_code, disconnect.code) for disconnect in connection.disconnects] == [
        (1009, 1006)
    ]


@pytest.mark.parametrize(
    ("raw", "violation_code"),
    [
        ((0x3, b""), 1002),
        ((CONTINUATION, b""), 1002),
        ((CLOSE, b"\x03"), 1002),
        ((CLOSE, b"\x03\xed"), 1002),
        ((CLOSE, b"\x03\xe8\xff"), 1007),
        ((TEXT, b"\xff"), 1007),
        ((TEXT, b"x" * 1001), 1009),
    ],
)
async def test_a_violation_is_reported_once_and_answered_with_its_code(
    connection: Connection, raw: tuple[int, bytes], violation_code: int
) -> None:
    bad = connection.frame(*raw)
    connection.far.send(bad + connection.frame(TEXT, b"void") + bad)
    await connection.until(lambda: connection.disconnects)
    assert [disconnect.violation_code for disconnect in connection.disconnects] == [violation_code]
    connection.leg.close(1011, "sorry")
    assert await connection.far.closed() == (violation_code, "sorry")


@pytest.mark.parametrize(
    ("raw", "disconnect"),
    [(b"\x03\xe8bye", Disconnect(1000, "bye")), (b"", Disconnect(1005)), (b"\x0f\xa0", Disconnect(4000))],
)
async def test_a_close_is_reported_once(connection: Connection, raw: bytes, disconnect: Disconnect) -> None:
    connection.far.send(connection.frame(CLOSE, raw))
    await connection.until(lambda: connection.disconnects)
    connection.leg.close(1000, "")
    assert await connection.far.closed() == (1000, "")
    await connection.far.ended()
    assert connection.disconnects == [disconnect]


@pytest.mark.parametrize(("how", "seen"), [("reset", CONNECTION_LOST), ("half_close", CONNECTION_ENDED)])
async def test_a_lost_connection_is_reported_once(connection: Connection, how: str, seen: Disconnect) -> None:
    getattr(connection.far, how)()
    await connection.until(lambda: connection.disconnects)
    assert connection.disconnects == [seen]
    connection.leg.close(1000, "")
    connection.leg.close(1000, "")


async def test_a_leg_sends_one_close_frame_and_closes(connection: Connection) -> None:
    connection.leg.close(1013, "all places are taken")
    connection.leg.close(1011, "twice")
    received = await connection.far.next()
    assert received is not None
    assert (received.close, received.masked) == ((1013, "all places are taken"), connection.leg.client)
    assert await connection.far.next() is None
    assert connection.disconnects == [], "the gateway closed, not the far end"


async def test_after_its_close_nothing_is_buffered(connection: Connection) -> None:
    connection.leg.close(1000, "")
    connection.leg.data_received(connection.frame(TEXT, b"wait!"))
    assert connection.leg.take_buffered() == b""


async def test_a_leg_that_was_taken_reports_nothing(connection: Connection) -> None:
    connection.leg.take_buffered()
    connection.far.send(close_frame(1000, key=connection.key))
    connection.far.half_close()
    await connection.until(connection.leg.transport.is_closing)
    assert connection.disconnects == []


# The hand-over to another process


async def test_a_detached_socket_comes_with_all_data_that_was_received(connection: Connection) -> None:
    opening, early = connection.frame(TEXT, b"start"), connection.frame(TEXT, b"early")
    half = connection.frame(TEXT, b"half of this")[:9]
    await connection.send_and_wait(opening)
    assert await connection.leg.receive() == "start"
    connection.leg.buffer_messages(OPENING_BYTES)
    await connection.send_and_wait(early)
    await connection.far.pour(half)
    await connection.until(lambda: connection.leg.scanner.pending_bytes == len(half))
    assert connection.leg.detach_fd() is not None
    assert connection.leg.opening_frames() == opening
    assert connection.leg.buffered_data() == opening + early + half


async def test_nothing_is_read_between_detach_and_resume(connection: Connection) -> None:
    await connection.send_and_wait(connection.frame(TEXT, b"start"))
    connection.leg.buffer_messages(OPENING_BYTES)
    assert connection.leg.detach_fd() is not None
    before = connection.leg.buffered_data()
    await connection.far.pour(connection.frame(TEXT, b"early") + connection.frame(PING, b"done?"))
    assert not connection.leg.transport.is_reading()
    connection.leg.resume()
    answer = await connection.far.next()
    assert answer is not None
    assert (answer.opcode, answer.payload) == (PONG, b"done?")
    assert connection.leg.buffered_data() == before + connection.frame(TEXT, b"early")


async def test_a_discarded_leg_leaves_the_connection_to_the_copy_of_its_socket(
    connection: Connection,
) -> None:
    descriptor = connection.leg.detach_fd()
    assert descriptor is not None
    with socket.socket(fileno=os.dup(descriptor)) as others:
        connection.leg.discard()
        await asyncio.sleep(0)  # its own copy is closed
        others.send(frame(TEXT, b"still here", key=KEY if connection.leg.client else None))
        received = await connection.far.next()
        assert received is not None
        assert received.payload == b"still here"
    assert connection.disconnects == []


@pytest.mark.parametrize("why", ["it has left", "something is unsent"])
async def test_a_socket_that_cannot_be_detached(connection: Connection, why: str) -> None:
    if why == "it has left":
        connection.far.send(connection.frame(CLOSE))
        await connection.until(lambda: connection.disconnects)
    else:
        connection.leg.transport.write(bytes(10_000_000))
    assert connection.leg.detach_fd() is None
