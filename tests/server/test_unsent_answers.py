# SPDX-License-Identifier: BSD-2-Clause
"""Clients that ask and do not read: how long a gateway waits for them, and how much it holds for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.api.framework.docs_page import SCRIPT_PATH
from gateway.server.unsent_answers import PIECE_BYTES, AnswerWriter, UnsentBytes
from gateway.simulator.waiting import POLL_S, WAIT_S, eventually
from tests.harness.caller import Connection
from tests.harness.certificates import issue_certificate, trust_anything
from tests.harness.gateway import Gateway

SCRIPT = f"GET {SCRIPT_PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
AGENT = {"name": "support", "organization": "acme", "instances": ["http://127.0.0.1:9"]}
UNREAD = "answers are not read"


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway that waits a moment for clients that do not read."""
    return start_gateway(limits={"answer_timeout": 0.5}, agents=[AGENT])


async def open_narrow(port: int, **how: Any) -> Connection:
    """Connect with a small receive buffer, so that little of an answer is on its way."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    async with asyncio.timeout(WAIT_S):
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=client, limit=1024, **how)


def times_dropped(gateway: Gateway) -> int:
    return sum(line["times"] for line in gateway.log_lines() if line.get("why") == UNREAD)


async def dropped(gateway: Gateway, before: int) -> None:
    await eventually(lambda: times_dropped(gateway) > before, "the connection was dropped")


async def test_a_client_that_reads_nothing_is_disconnected(gateway: Gateway) -> None:
    before = times_dropped(gateway)
    _, writer = await open_narrow(gateway.port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(SCRIPT * 10)  # more than the kernel holds for it
    await dropped(gateway, before)
    writer.transport.abort()
    assert gateway.get("/livez")[0] == 200


async def test_a_client_that_reads_a_byte_now_and_then_is_disconnected(gateway: Gateway) -> None:
    before = times_dropped(gateway)
    reader, writer = await open_narrow(gateway.port)
    writer.write(SCRIPT * 10)

    async def sip() -> None:
        while True:
            await reader.readexactly(1)
            await asyncio.sleep(POLL_S)

    sipping = asyncio.create_task(sip())
    await dropped(gateway, before)
    sipping.cancel()
    writer.transport.abort()


async def test_a_client_that_reads_gets_all_its_answers(gateway: Gateway) -> None:
    reader, writer = await open_narrow(gateway.port)
    last = SCRIPT.replace(b"Host", b"Connection: close\r\nHost")
    writer.write(SCRIPT * 2 + last)
    received = bytearray()
    async with asyncio.timeout(WAIT_S):
        while part := await reader.read(1 << 20):
            received += part
    writer.close()
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert len(received) > 3_000_000


async def test_over_tls_a_client_that_reads_nothing_is_disconnected(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    certificate, key = issue_certificate(tmp_path, 1)
    server = {"tls_certificate": str(certificate), "tls_key": str(key)}
    gateway = start_gateway(server=server, limits={"answer_timeout": 0.5}, agents=[AGENT])
    _, writer = await open_narrow(gateway.port, ssl=trust_anything(), server_hostname="localhost")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(SCRIPT * 10)
    await dropped(gateway, 0)
    writer.transport.abort()


# One connection's answers


class Transport:
    """A transport whose client takes nothing until the test says so."""

    def __init__(self) -> None:
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Connected:
    """An AnswerWriter, its transport, and what was written."""

    def __init__(self, unsent: UnsentBytes | None = None) -> None:
        self.unsent = unsent or UnsentBytes(10 * PIECE_BYTES)
        self.transport = Transport()
        self.ended = asyncio.Event()
        self.messages: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def writer(self, timeout_s: float = WAIT_S) -> AnswerWriter:
        writer = AnswerWriter(self.unsent, timeout_s, self.ended.set)
        writer.open(self.transport)  # type: ignore[arg-type]
        return writer

    async def answer(self, *messages: dict[str, Any], address: str = "192.0.2.7") -> None:
        """Serve one request with an application that sends these messages."""

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            for message in messages:
                await send(message)

        await self.writer().serve(app, {"client": (address, 1)}, None, self._send)  # type: ignore[arg-type]

    async def _send(self, message: Any) -> None:
        await self.gate.wait()
        self.messages.append(message)

    @property
    def bodies(self) -> list[int]:
        return [len(message["body"]) for message in self.messages if "body" in message]


def head(length: int, **more: Any) -> dict[str, Any]:
    headers = [(b"content-length", str(length).encode()), (b"x-request-id", b"r")]
    return {"type": "http.response.start", "status": 200, "headers": headers, **more}


def body(length: int, *, more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"a" * length, "more_body": more_body}


async def test_a_large_answer_goes_in_pieces() -> None:
    connected = Connected()
    await connected.answer(head(2 * PIECE_BYTES + 1), body(2 * PIECE_BYTES + 1))
    assert connected.bodies == [PIECE_BYTES, PIECE_BYTES, 1]
    assert [message["more_body"] for message in connected.messages[1:]] == [True, True, False]


async def test_a_small_answer_goes_as_it_is() -> None:
    connected = Connected()
    messages = [head(PIECE_BYTES), body(PIECE_BYTES)]
    await connected.answer(*messages)
    assert connected.messages == messages


async def test_the_head_of_a_streamed_answer_does_not_wait() -> None:
    connected = Connected()
    await connected.answer(head(10 * PIECE_BYTES, streamed=True))
    assert connected.messages == [head(10 * PIECE_BYTES, streamed=True)]


async def test_an_address_that_is_owed_too_much_gets_429() -> None:
    unsent = UnsentBytes(3 * PIECE_BYTES)
    size = 2 * PIECE_BYTES
    slow, same, other = Connected(unsent), Connected(unsent), Connected(unsent)
    slow.gate.clear()
    waiting = asyncio.create_task(slow.answer(head(size), body(size)))
    await eventually(lambda: unsent.of("192.0.2.7") == size, "it waits for its client")
    await same.answer(head(size), body(size), body(0))
    await other.answer(head(size), body(size), address="192.0.2.8")
    assert (same.messages[0]["status"], other.messages[0]["status"]) == (429, 200)
    headers = dict(same.messages[0]["headers"])
    assert (headers[b"retry-after"], headers[b"x-request-id"]) == (b"1", b"r")
    assert len(same.messages) == 2
    # A small answer is never too much.
    await same.answer(head(5), body(5))
    assert same.messages[2:] == [head(5), body(5)]
    slow.gate.set()
    await waiting
    assert unsent.of("192.0.2.7") == 0
    await same.answer(head(size), body(size))
    assert same.messages[4]["status"] == 200


async def test_an_answer_of_unknown_length_that_is_too_much_is_broken_off() -> None:
    connected = Connected(UnsentBytes(PIECE_BYTES))
    start = {"type": "http.response.start", "status": 200, "headers": []}
    await connected.answer(start, body(2 * PIECE_BYTES, more_body=True), body(0))
    assert connected.ended.is_set()
    assert connected.bodies == []


async def test_a_client_that_takes_enough_is_waited_for() -> None:
    connected = Connected()
    writer = connected.writer(timeout_s=0.01)
    connected.transport.unsent = 1_000_000
    writer.count_written(1_000_000)
    writer.watch()
    for _ in range(5):
        before = writer._timer
        connected.transport.unsent -= 100_000
        await eventually(lambda before=before: writer._timer is not before, "its pace was looked at")
        assert not connected.ended.is_set()
    async with asyncio.timeout(WAIT_S):
        await connected.ended.wait()  # it took no more
