# SPDX-License-Identifier: BSD-2-Clause
"""Instances that do not answer, close or stall, and clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

STALL_S = 1.0
"""What ends an exchange in which nothing moves. Until then it must have come as far as it is to stall at."""

LONG_STALL_S = 3.0
"""The same where something moves all the time, and where therefore nothing but this may end it."""


def says(raw: bytes) -> Any:
    async def script(heard: Any) -> None:
        await heard.whole_body()
        heard.writer.write(raw)

    return script


async def test_an_instance_that_is_not_there(door: Any) -> None:
    session = await door.session()
    await door.instance.pause()
    reply = await door.ask("POST", door.path(session), body=b"x" * 100_000)
    assert reply.refusal == (502, "agent_unreachable")
    assert reply.json["error"].startswith("the agent cannot be connected: ")
    await door.nothing_is_left()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 999 Beyond\r\nContent-Length: 0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_that_is_none(door: Any, method: str, raw: bytes) -> None:
    session = await door.session()
    door.instance.script = says(raw)
    reply = await door.ask(method, door.path(session), body=b"x")
    assert reply.refusal == (502, "agent_unreachable")
    assert reply.json["error"].startswith("the agent ")
    assert door.instance.connections == 1, "nothing is sent twice"
    await door.nothing_is_left()


async def test_a_header_that_would_end_its_line_does_not(door: Any) -> None:
    session = await door.session()
    door.instance.script = says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: a\rSet-Cookie: b=c\r\n\r\n")
    reply = await door.ask("GET", door.path(session))
    assert reply.refusal == (502, "agent_unreachable")
    assert reply.header("set-cookie") is None


@pytest.mark.parametrize(
    "head", ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_instance_that_breaks_off_in_the_middle(door: Any, head: str, how: str) -> None:
    """Half an answer must not look whole."""
    session = await door.session()
    go_on = asyncio.Event()

    async def breaks(heard: Any) -> None:
        heard.writer.write(f"HTTP/1.1 200 OK\r\n{head}".encode())
        await go_on.wait()
        if how == "reset":
            heard.writer.transport.abort()

    door.instance.script = breaks
    client = await door.begin("GET", door.path(session))
    reply = await client.head()
    pieces = client.pieces(reply)
    assert await anext(pieces) == b"half"
    go_on.set()
    assert [piece async for piece in pieces] == []
    assert not reply.whole
    assert await client.reader.read() == b""
    await door.nothing_is_left()


async def test_a_client_that_leaves_before_the_answer(door: Any) -> None:
    session = await door.session()
    left: asyncio.Queue[bool] = asyncio.Queue()

    async def hangs(heard: Any) -> None:
        left.put_nowait(await heard.gone())

    door.instance.script = hangs
    for body in (b"", b"x"):
        client = await door.begin("POST", door.path(session), f"Content-Length: {len(body)}", body=body)
        await door.instance.next()
        client.writer.close()
        assert await left.get()
    await door.nothing_is_left()


async def test_a_client_that_leaves_in_the_middle_of_the_answer(door: Any) -> None:
    session = await door.session()
    left: asyncio.Queue[bool] = asyncio.Queue()

    async def streams(heard: Any) -> None:
        heard.say("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n")
        left.put_nowait(await heard.gone())

    door.instance.script = streams
    client = await door.begin("GET", door.path(session))
    assert (await client.head()).status == 200
    client.writer.close()
    assert await left.get()
    await door.nothing_is_left()


@pytest.mark.parametrize("line", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_a_client_that_leaves_in_the_middle_of_its_body(door: Any, line: str) -> None:
    """Half a request must not look whole either."""
    session = await door.session()
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def listens(heard: Any) -> None:
        assert await heard.chunk() == b"half"
        ended.put_nowait(await heard.reader.read())

    door.instance.script = listens
    half = b"half" if line.startswith("Content") else b"4\r\nhalf\r\n"
    client = await door.begin("PUT", door.path(session), line, body=half)
    await door.instance.next()
    client.writer.close()
    assert await ended.get() == b"", "the last chunk must not come"
    await door.nothing_is_left()


async def test_a_chunk_that_is_none(door: Any) -> None:
    session = await door.session()
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def listens(heard: Any) -> None:
        assert await heard.chunk() == b"half"
        ended.put_nowait(await heard.reader.read())

    door.instance.script = listens
    client = await door.begin("PUT", door.path(session), "Transfer-Encoding: chunked", body=b"4\r\nhalf\r\n")
    await door.instance.next()
    client.writer.write(b"no chunk\r\n")
    assert await ended.get() == b""
    await door.nothing_is_left()


class TestStalling:
    @pytest.fixture
    def limits(self) -> dict[str, float]:
        return {"session_api_timeout": STALL_S}

    async def test_an_instance_that_never_answers(self, door: Any) -> None:
        session = await door.session()
        left: asyncio.Queue[bool] = asyncio.Queue()

        async def hangs(heard: Any) -> None:
            left.put_nowait(await heard.gone())

        door.instance.script = hangs
        reply = await door.ask("POST", door.path(session), body=b"x")
        assert reply.refusal == (504, "agent_stalled")
        assert reply.json["error"] == f"nothing came from the instance, or went to it, for {STALL_S:g} s"
        assert await left.get()
        await door.nothing_is_left()

    async def test_an_instance_that_does_not_read(self, door: Any) -> None:
        session = await door.session()
        go_on = asyncio.Event()

        async def sits(heard: Any) -> None:
            await go_on.wait()

        door.instance.script = sits
        client = await door.begin("POST", door.path(session), "Content-Length: 100000000")
        pouring = asyncio.create_task(pour(client, 100_000_000))
        reply = await client.answer()
        assert reply.refusal == (504, "agent_stalled")
        go_on.set()
        client.writer.transport.abort()
        await pouring
        await door.nothing_is_left()

    async def test_an_instance_that_stalls_in_the_middle(self, door: Any) -> None:
        session = await door.session()

        async def stalls(heard: Any) -> None:
            heard.say("HTTP/1.1 200 OK", "Content-Length: 10", body=b"half")
            assert await heard.gone()

        door.instance.script = stalls
        client = await door.begin("GET", door.path(session))
        reply = await client.answer()
        assert (reply.status, reply.raw, reply.whole) == (200, b"half", False)
        await door.nothing_is_left()

    async def test_a_client_that_does_not_send(self, door: Any) -> None:
        session = await door.session()

        async def hangs(heard: Any) -> None:
            assert await heard.gone()

        door.instance.script = hangs
        client = await door.begin("POST", door.path(session), "Content-Length: 10", body=b"half")
        assert (await client.answer()).refusal == (408, "408")
        await door.nothing_is_left()

    async def test_a_client_that_sends_a_byte_now_and_then(self, door: Any) -> None:
        session = await door.session()

        async def hangs(heard: Any) -> None:
            assert await heard.gone()

        door.instance.script = hangs
        client = await door.begin("POST", door.path(session), "Content-Length: 1000000", body=b"half")

        async def drip() -> None:
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(STALL_S / 20)

        dripping = asyncio.create_task(drip())
        assert (await client.answer()).status in (408, 504)
        dripping.cancel()
        await door.nothing_is_left()

    async def test_a_client_that_does_not_read(self, door: Any) -> None:
        session = await door.session()
        left: asyncio.Queue[bool] = asyncio.Queue()

        async def pours(heard: Any) -> None:
            heard.say("HTTP/1.1 200 OK", "Content-Length: 100000000")
            chunk = bytes(1 << 16)
            try:
                while True:
                    heard.writer.write(chunk)
                    await heard.writer.drain()
            except ConnectionError:
                left.put_nowait(True)

        door.instance.script = pours
        client = await door.begin("GET", door.path(session))
        await client.head()
        client.writer.transport.pause_reading()
        assert await left.get()
        await door.nothing_is_left()


class TestDripping:
    @pytest.fixture
    def limits(self) -> dict[str, float]:
        return {"session_api_timeout": LONG_STALL_S}

    async def test_slow_is_not_stalled(self, door: Any) -> None:
        """It lasts longer than the limit: another that stalls begins after it and is ended before."""
        session = await door.session()
        was_read: asyncio.Queue[bytes] = asyncio.Queue()
        stalled = asyncio.Event()

        async def drips(heard: Any) -> None:
            if heard.target == "/silent":
                assert await heard.gone()
                return
            heard.say("HTTP/1.1 200 OK", "Connection: close")
            while not stalled.is_set():
                heard.writer.write(b"x")
                await was_read.get()

        door.instance.script = drips
        client = await door.begin("GET", door.path(session))
        reply = await client.head()
        silent = asyncio.create_task(door.ask("GET", door.path(session, "/silent")))
        silent.add_done_callback(lambda _: stalled.set())
        async for piece in client.pieces(reply):
            was_read.put_nowait(piece)
        assert reply.whole
        assert (await silent).refusal == (504, "agent_stalled")


async def pour(client: Any, size: int) -> None:
    chunk = bytes(1 << 16)
    try:
        while size > 0:
            client.writer.write(chunk[:size])
            await client.writer.drain()
            size -= len(chunk)
    except ConnectionError:
        return
