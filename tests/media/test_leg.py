# SPDX-License-Identifier: BSD-2-Clause
"""A leg that stands alone: what it says, what it shows, what it keeps. Over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.media.disconnect import CONNECTION_LOST, Disconnect
from gateway.media.leg import Leg
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, close_frame, frame
from tests.harness.websocket_peer import WebSocketPeer

OPENING_BYTES = 1000
EARLY_BYTES = 2000


class Line:
    """A leg and the far end of its socket."""

    def __init__(self, leg: Leg, far: WebSocketPeer, gone: list[Disconnect], key: bytes | None) -> None:
        self.leg = leg
        self.far = far
        self.gone = gone
        self.key = key

    def frame(self, opcode: int, payload: bytes = b"", **odd: Any) -> bytes:
        return frame(opcode, payload, key=self.key, **odd)

    async def until(self, happened: Callable[[], object]) -> None:
        await eventually(happened, "it happens")

    async def said(self, raw: bytes) -> None:
        """Sends, and waits until the leg has dealt with it: it answers a ping that stands behind."""
        await self.far.pour(raw + self.frame(PING, b"done?"))
        while True:
            heard = await self.far.next()
            assert heard is not None
            if (heard.opcode, heard.payload) == (PONG, b"done?"):
                return


@pytest.fixture(params=["carrier", "agent"])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    """A carrier's leg, whose far end masks, or an agent's, whose far end does not."""
    client = request.param == "agent"
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    gone: list[Disconnect] = []
    leg = Leg(
        transport,
        client=client,
        max_opening_bytes=OPENING_BYTES,
        max_buffered_bytes=EARLY_BYTES,
        on_disconnect=gone.append,
    )
    reader, writer = await asyncio.open_connection(sock=theirs)
    far = WebSocketPeer(reader, writer, masks=not client)
    yield Line(leg, far, gone, None if client else KEY)
    await far.leave()
    transport.abort()
    await asyncio.sleep(0)


async def test_messages_are_shown_in_order(line: Line) -> None:
    await line.said(line.frame(TEXT, "Grüße".encode()) + line.frame(BINARY, b"\xff\x00") + line.frame(TEXT))
    assert [await line.leg.receive() for _ in range(3)] == ["Grüße", b"\xff\x00", ""]


async def test_a_reader_is_woken(line: Line) -> None:
    reading = asyncio.create_task(line.leg.receive())
    await asyncio.sleep(0)
    line.far.send(line.frame(TEXT, b"late"))
    async with asyncio.timeout(WAIT_S):
        assert await reading == "late"


async def test_a_reader_that_gave_up_misses_nothing(line: Line) -> None:
    reading = asyncio.create_task(line.leg.receive())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await line.said(line.frame(TEXT, b"late"))
    assert await line.leg.receive() == "late"


async def test_fragments_are_one_message_and_kept_as_fragments(line: Line) -> None:
    parts = [
        line.frame(TEXT, b"Gr\xc3", fin=False),  # cut inside a letter
        line.frame(CONTINUATION, b"\xbc\xc3\x9f", fin=False),
        line.frame(CONTINUATION, b"e"),
    ]
    await line.said(parts[0] + line.frame(PING, b"1") + parts[1] + line.frame(PONG, b"2") + parts[2])
    assert await line.leg.receive() == "Grüße"
    assert line.leg.take_buffered() == b"".join(parts)


async def test_binary_fragments_are_bytes(line: Line) -> None:
    await line.said(line.frame(BINARY, b"a", fin=False) + line.frame(CONTINUATION, b"b"))
    assert await line.leg.receive() == b"ab"


async def test_a_message_byte_by_byte(line: Line) -> None:
    raw = line.frame(TEXT, b"slowly, over a bad line")
    for at in range(len(raw)):
        await line.far.pour(raw[at : at + 1])
    assert await line.leg.receive() == "slowly, over a bad line"
    assert line.leg.take_buffered() == raw


async def test_pings_are_answered_and_not_kept(line: Line) -> None:
    line.far.send(line.frame(PING, b"who is there") + line.frame(PONG, b"unasked") + line.frame(TEXT, b"me"))
    pong = await line.far.hear()
    assert (pong.opcode, pong.payload, pong.masked) == (PONG, b"who is there", line.leg.client)
    assert await line.leg.receive() == "me"
    assert line.leg.take_buffered() == line.frame(TEXT, b"me")


async def test_what_comes_early_is_kept_byte_for_byte(line: Line) -> None:
    first = line.frame(TEXT, b"opening")
    early = [line.frame(TEXT, b"x" * 130, wide=8), line.frame(BINARY, b""), line.frame(BINARY, b"\0" * 10)]
    await line.said(first)
    await line.leg.receive()
    line.leg.buffer_messages(5000)
    await line.said(b"".join(early))
    assert line.leg.take_buffered() == first + b"".join(early)
    assert line.gone == []


async def test_a_held_leg_takes_larger_messages_than_an_opening(line: Line) -> None:
    line.leg.buffer_messages(5000)
    large = line.frame(TEXT, b"x" * (OPENING_BYTES + 500))
    await line.said(large)
    assert line.leg.take_buffered() == large


async def test_reading_pauses_where_too_much_has_come_early(line: Line) -> None:
    line.leg.buffer_messages(5000)
    for _ in range(5):
        await line.far.pour(line.frame(TEXT, b"x" * 500))
    await line.until(lambda: not line.leg.transport.is_reading())
    assert line.gone == [], "it waits; it is no violation_code"
    late = line.frame(PING, b"anybody?")
    line.far.send(late)
    line.leg.transport.resume_reading()  # as a relay does
    pong = await line.far.hear()
    assert pong.payload == b"anybody?"


async def test_half_a_frame_counts_as_early_too(line: Line) -> None:
    line.leg.buffer_messages(1 << 20)
    line.far.send(line.frame(TEXT, b"x" * 100_000)[: EARLY_BYTES + 100])
    await line.until(lambda: not line.leg.transport.is_reading())


async def test_an_opening_that_is_too_large(line: Line) -> None:
    line.far.send(line.frame(TEXT, b"x" * 600) + line.frame(TEXT, b"x" * 600))
    await line.until(lambda: line.gone)
    assert [(gone.violation_code, gone.code) for gone in line.gone] == [(1009, 1006)]


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
async def test_a_breach_is_reported_once_and_told_by_its_own_code(
    line: Line, raw: tuple[int, bytes], violation_code: int
) -> None:
    bad = line.frame(*raw)
    line.far.send(bad + line.frame(TEXT, b"void") + bad)
    await line.until(lambda: line.gone)
    assert [gone.violation_code for gone in line.gone] == [violation_code]
    line.leg.close(1011, "sorry")
    assert await line.far.closed() == (violation_code, "sorry")


@pytest.mark.parametrize(
    ("raw", "gone"),
    [(b"\x03\xe8bye", Disconnect(1000, "bye")), (b"", Disconnect(1005)), (b"\x0f\xa0", Disconnect(4000))],
)
async def test_a_close_is_reported_once(line: Line, raw: bytes, gone: Disconnect) -> None:
    line.far.send(line.frame(CLOSE, raw))
    await line.until(lambda: line.gone)
    line.leg.close(1000, "")
    assert await line.far.closed() == (1000, "")
    await line.far.ended()
    assert line.gone == [gone]


@pytest.mark.parametrize("how", ["reset", "half_close"])
async def test_a_lost_connection_is_reported_once(line: Line, how: str) -> None:
    getattr(line.far, how)()
    await line.until(lambda: line.gone)
    assert line.gone == [CONNECTION_LOST]
    line.leg.close(1000, "")
    line.leg.close(1000, "")


async def test_it_says_goodbye(line: Line) -> None:
    line.leg.close(1013, "all places are taken")
    line.leg.close(1011, "twice")
    heard = await line.far.next()
    assert heard is not None
    assert (heard.close, heard.masked) == ((1013, "all places are taken"), line.leg.client)
    assert await line.far.next() is None
    assert line.gone == [], "it left by itself"


async def test_after_a_goodbye_nothing_is_taken(line: Line) -> None:
    line.leg.close(1000, "")
    line.leg.data_received(line.frame(TEXT, b"wait!"))
    assert line.leg.take_buffered() == b""


async def test_after_it_was_taken_it_reports_nothing(line: Line) -> None:
    line.leg.take_buffered()
    line.far.send(close_frame(1000, key=line.key))
    line.far.half_close()
    await line.until(line.leg.transport.is_closing)
    assert line.gone == []


# It is lent to another process


async def test_one_that_is_lent_is_as_it_was_with_all_that_has_come(line: Line) -> None:
    opening, early = line.frame(TEXT, b"start"), line.frame(TEXT, b"early")
    half = line.frame(TEXT, b"half of this")[:9]
    await line.said(opening)
    assert await line.leg.receive() == "start"
    line.leg.buffer_messages(OPENING_BYTES)
    await line.said(early)
    await line.far.pour(half)
    await line.until(lambda: line.leg.scanner.pending_bytes == len(half))
    assert line.leg.detach_fd() is not None
    assert line.leg.opening_frames() == opening
    assert line.leg.buffered_data() == opening + early + half


async def test_of_one_that_is_lent_nothing_is_read_until_it_stays(line: Line) -> None:
    await line.said(line.frame(TEXT, b"start"))
    line.leg.buffer_messages(OPENING_BYTES)
    assert line.leg.detach_fd() is not None
    before = line.leg.buffered_data()
    await line.far.pour(line.frame(TEXT, b"early") + line.frame(PING, b"done?"))
    assert not line.leg.transport.is_reading()
    line.leg.resume()
    answer = await line.far.next()
    assert answer is not None
    assert (answer.opcode, answer.payload) == (PONG, b"done?")
    assert line.leg.buffered_data() == before + line.frame(TEXT, b"early")


async def test_one_that_parts_leaves_its_socket_to_who_has_a_copy(line: Line) -> None:
    descriptor = line.leg.detach_fd()
    assert descriptor is not None
    with socket.socket(fileno=os.dup(descriptor)) as others:
        line.leg.discard()
        await asyncio.sleep(0)  # its own copy is closed
        others.send(frame(TEXT, b"still here", key=KEY if line.leg.client else None))
        heard = await line.far.next()
        assert heard is not None
        assert heard.payload == b"still here"
    assert line.gone == []


@pytest.mark.parametrize("why", ["it has left", "something is unsent"])
async def test_one_that_cannot_be_lent(line: Line, why: str) -> None:
    if why == "it has left":
        line.far.send(line.frame(CLOSE))
        await line.until(lambda: line.gone)
    else:
        line.leg.transport.write(bytes(10_000_000))
    assert line.leg.detach_fd() is None
