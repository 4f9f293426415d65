# SPDX-License-Identifier: BSD-2-Clause
"""Bodies of any size pass in little memory: a slow reader pauses the writer."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BODY_BYTES = 200_000_000
PIECE = bytes(range(256)) * 256  # 64 KB, the same one every time
MOST_BYTES = 4_000_000
"""Of everything that is allocated meanwhile: the gateway's buffers, and those of both ends of the test."""


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start(1)
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        yield
        assert tracemalloc.get_traced_memory()[1] - before < MOST_BYTES
    finally:
        tracemalloc.stop()


async def pour(writer: asyncio.StreamWriter) -> None:
    left = BODY_BYTES
    while left:
        writer.write(PIECE[:left])
        await writer.drain()
        left -= len(PIECE[:left])


async def test_up(door: Any) -> None:
    session = await door.session()
    heard_bytes = 0

    async def listens(heard: Any) -> None:
        nonlocal heard_bytes
        while chunk := await heard.chunk():
            heard_bytes += len(chunk)
        heard.say("HTTP/1.1 204 No Content")

    door.instance.script = listens
    with little_memory():
        client = await door.begin("PUT", door.path(session), f"Content-Length: {BODY_BYTES}")
        await pour(client.writer)
        assert (await client.answer()).status == 204
    assert heard_bytes == BODY_BYTES


@pytest.mark.parametrize("length", [f"Content-Length: {BODY_BYTES}", "Connection: close"])
async def test_down(door: Any, length: str) -> None:
    session = await door.session()

    async def talks(heard: Any) -> None:
        heard.say("HTTP/1.1 200 OK", length)
        await pour(heard.writer)

    door.instance.script = talks
    heard_bytes = 0
    with little_memory():
        client = await door.begin("GET", door.path(session))
        reply = await client.head()
        async for piece in client.pieces(reply):
            heard_bytes += len(piece)
    assert reply.whole
    assert heard_bytes == BODY_BYTES


async def test_both_ways_at_once_as_it_was_sent(door: Any) -> None:
    session = await door.session()
    pieces = 300

    async def echoes(heard: Any) -> None:
        heard.say("HTTP/1.1 200 OK", f"Content-Length: {pieces * len(PIECE)}")
        while chunk := await heard.chunk():
            heard.writer.write(chunk)
            await heard.writer.drain()

    async def talk(client: Any) -> None:
        for _ in range(pieces):
            client.writer.write(PIECE)
            await client.writer.drain()

    door.instance.script = echoes
    client = await door.begin("POST", door.path(session), f"Content-Length: {pieces * len(PIECE)}")
    talking = asyncio.create_task(talk(client))
    reply = await client.answer()
    await talking
    assert reply.whole
    assert reply.raw == PIECE * pieces


async def test_who_does_not_read_makes_the_other_wait(door: Any) -> None:
    """Neither end reads: what is under way fits into the sockets' buffers, nothing piles up."""
    session = await door.session()
    go_on = asyncio.Event()
    sent = [0, 0]

    async def pour_for(end: int, writer: asyncio.StreamWriter) -> None:
        while not go_on.is_set():
            writer.write(PIECE)
            await writer.drain()
            sent[end] += len(PIECE)

    async def talks(heard: Any) -> None:
        if heard.target == "/other":
            heard.say("HTTP/1.1 200 OK", f"Content-Length: {4 * len(PIECE)}", body=PIECE * 4)
            return
        heard.reader._transport.pause_reading()
        heard.say("HTTP/1.1 200 OK")
        await pour_for(0, heard.writer)

    async def settled() -> None:
        """Until nothing moves in a time in which another's answer passes whole, through the same loop."""
        before = None
        while before != sent:
            before = list(sent)
            assert (await door.ask("GET", door.path(session, "/other"))).whole

    door.instance.script = talks
    with little_memory():
        client = await door.begin("POST", door.path(session), f"Content-Length: {BODY_BYTES}")
        assert (await client.head()).status == 200
        client.writer.transport.pause_reading()
        pouring = asyncio.create_task(pour_for(1, client.writer))
        await settled()
    go_on.set()
    client.writer.transport.abort()
    await asyncio.wait([pouring])
    pouring.exception()
    assert min(sent) > 0
    await door.nothing_is_left()
