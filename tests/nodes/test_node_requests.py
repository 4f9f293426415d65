# SPDX-License-Identifier: BSD-2-Clause
"""Requests from one node to another: each has a definite answer, or none within a bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog

from gateway.nodes import node_client, node_connection, node_listener, nodes
from gateway.nodes.node_client import OpenedStream
from gateway.nodes.node_signature import NodeSigner, RequestLine
from gateway.nodes.nodes import Nodes, Reply
from gateway.server.tls import load_context
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.certificates import issue_certificate
from tests.nodes.one_node import SECRET, Ear, NodeWorker, Values, address

SESSION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
OTHER = "0b57cde2-4f35-4d3d-8f55-e0f8a4ee7fc0"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node answers in time, however slow the machine is."""
    monkeypatch.setattr(nodes, "COMMAND_S", WAIT_S)
    monkeypatch.setattr(node_client, "CONNECT_S", WAIT_S)


@pytest.fixture
def values() -> Values:
    return Values()


@pytest.fixture
async def start(values: Values) -> AsyncIterator[Callable[..., NodeWorker]]:
    """Make a worker of a node; it is stopped after the test."""
    made: list[NodeWorker] = []

    def make(url: str | None = None, **how: object) -> NodeWorker:
        made.append(NodeWorker(values, url or address(), **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for worker in made:
        await worker.stop()


async def pair(start: Callable[..., NodeWorker], **how: object) -> tuple[NodeWorker, NodeWorker]:
    """Two nodes; the second has SESSION. `how`: of the first."""
    west, east = await start(**how).start(), await start().start()
    east.sessions.add(SESSION)
    return west, east


async def test_a_command_is_delivered_and_one_for_another_session_is_not(
    start: Callable[..., NodeWorker],
) -> None:
    west, east = await pair(start)
    assert await west.nodes.command(east.id, SESSION, "hang_up") is Reply.TAKEN
    assert await west.nodes.command(east.id, OTHER, "hang_up") is Reply.NOT_HERE
    assert await west.nodes.stop(east.id, SESSION) is Reply.TAKEN
    assert await west.nodes.question(east.id, SESSION, "report", 1.0) == (Reply.TAKEN, '{"heard_ms": 420}')
    assert await west.nodes.question(east.id, OTHER, "report", 1.0) == (Reply.NOT_HERE, None)
    assert [kind for kind, _ in east.asked] == ["command", "command", "stop", "question", "question"]
    assert east.connections == 1, "one connection serves them all"


async def test_commands_that_are_sent_at_once_are_all_delivered(start: Callable[..., NodeWorker]) -> None:
    west, east = await pair(start)
    replies = await asyncio.gather(*(west.nodes.command(east.id, SESSION, "hold") for _ in range(20)))
    assert set(replies) == {Reply.TAKEN}
    assert len(east.asked) == 20
    await eventually(lambda: east.connections <= node_client.MAX_IDLE, "few connections are left")


async def test_a_command_of_a_newer_release_is_not_understood(start: Callable[..., NodeWorker]) -> None:
    west, east = await pair(start)
    assert await west.nodes.command(east.id, SESSION, "of a newer release") is Reply.UNREACHABLE


async def test_a_node_with_another_secret_is_neither_heard_nor_believed(
    start: Callable[..., NodeWorker],
) -> None:
    west, east = await pair(start, secret=b"another" * 5)
    with structlog.testing.capture_logs() as lines:
        assert await west.nodes.command(east.id, SESSION, "hang_up") is Reply.UNREACHABLE
        assert await west.nodes.open_stream(east.id, SESSION.encode()) is Reply.NOT_HERE
    assert east.asked == []
    assert [(line["event"], line["words"]) for line in lines] == [
        ("a request to this node is refused", "its signature is wrong"),
        ("a node does not answer", "it refuses our signature: another node_secret, or another time"),
        ("a request to this node is refused", "its signature is wrong"),
    ]


async def test_clocks_may_differ_by_ten_seconds_and_not_by_two_minutes(
    start: Callable[..., NodeWorker],
) -> None:
    ahead = 10.0
    west, east = await pair(start, clock=lambda: time.time() + ahead)
    assert await west.nodes.command(east.id, SESSION, "hang_up") is Reply.TAKEN
    ahead = 120.0
    assert await west.nodes.command(east.id, SESSION, "hang_up") is Reply.UNREACHABLE
    assert len(east.asked) == 1


async def exchange(url: str, raw: bytes) -> bytes:
    """Send some bytes to an address; return all that is answered until the connection closes."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(raw)
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionResetError):
            answer = await reader.read()
    writer.close()
    return answer


def request(worker: str, body: bytes, kind: str = "command", **headers: str) -> bytes:
    """A signed request, byte for byte."""
    path = f"/nodes/1/{worker}/{kind}"
    lines = {"Host": "node", "Content-Length": str(len(body)), "Connection": "close"}
    lines |= NodeSigner(SECRET, time.time).sign(RequestLine("POST", path), body)
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


BODY = json.dumps({"session": SESSION, "command": "hang_up"}).encode()


async def test_a_recorded_request_is_refused_when_it_comes_again(start: Callable[..., NodeWorker]) -> None:
    _, east = await pair(start)
    recorded = request(east.id, BODY)
    assert (await exchange(east.url, recorded)).startswith(b"HTTP/1.1 200 ")
    again = await exchange(east.url, recorded)
    assert again.startswith(b"HTTP/1.1 401 ")
    assert b"it was received before" in again
    assert len(east.asked) == 1


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (lambda node: b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", b"401"),
        (lambda node: b"HEAD / HTTP/1.1\r\nHost: node\r\n\r\n", b"401"),
        (lambda node: b"CONNECT node:80 HTTP/1.1\r\nHost: node\r\n\r\n", b"401"),
        (lambda node: b"GET / HTTP/1.1\r\nHost: n\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"401"),
        (lambda node: b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (lambda node: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"401"),
        (lambda node: b"GET / HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (lambda node: b"\x16\x03\x01\x02\x00 no HTTP at all\r\n\r\n", b"400"),
        (lambda node: b"GET / HTTP/1.1\r\nHost: " + b"x" * 70_000, b"431"),
        (lambda node: request("f" * 32, BODY), b"404"),
        (lambda node: request(node.id, BODY, "everything"), b"404"),
        (lambda node: request(node.id, BODY, Content_Length="99999999"), b"413"),
        (lambda node: request(node.id, BODY).replace(b"hang_up", b"xang_up"), b"401"),
        (lambda node: request(node.id, b"no JSON"), b"422"),
        (lambda node: request(node.id, b"[]"), b"422"),
        (lambda node: request(node.id, b"{}"), b"422"),
        (lambda node: request(node.id, SESSION.encode(), "stream"), b"426"),
    ],
)
async def test_what_is_no_request_of_a_node_is_refused(
    start: Callable[..., NodeWorker], raw: Callable[[NodeWorker], bytes], status: bytes
) -> None:
    _, east = await pair(start)
    assert (await exchange(east.url, raw(east)))[9:12] == status
    assert east.streams == []
    await eventually(lambda: east.connections == 0, "nothing is left of it")


async def test_a_stranger_who_is_slow_or_one_of_too_many_is_dropped(
    start: Callable[..., NodeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_connection, "REQUEST_S", 0.05)
    _, east = await pair(start)
    assert await exchange(east.url, b"POST /nodes/1/") == b""
    await eventually(lambda: east.connections == 0, "nothing is left of it")
    monkeypatch.setattr(node_listener, "MAX_CONNECTIONS", 0)
    assert await exchange(east.url, request(east.id, BODY)) == b""
    assert east.asked == []


@contextlib.asynccontextmanager
async def impostor(
    values: Values, west: Nodes, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]
) -> AsyncIterator[str]:
    """The id of a worker whose address is somebody else's server by now."""
    url = address()
    parts = urlsplit(url)
    server = await asyncio.start_server(serve, parts.hostname, parts.port)  # type: ignore[arg-type]
    worker = "e" * 32
    await values.put("node", worker, json.dumps({"url": url}), now=time.time())
    try:
        yield worker
    finally:
        west.close()
        server.close()


def answers(raw: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    return serve


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (HTML, "its answer, 200, is not signed by a node"),
        (
            b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"taken": true}',
            "its answer, 200, is not signed by a node",
        ),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "its answer, 502, is not signed by a node",
        ),
        (b"SSH-2.0-server\r\n\r\n", "its answer is no HTTP: illegal status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90_000, "its answer is too large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", "its answer broke off"),
        (b"", "it closes the connection"),
    ],
)
async def test_an_address_that_is_no_node_any_more_takes_nothing(
    start: Callable[..., NodeWorker], values: Values, raw: bytes, words: str
) -> None:
    west = (await start().start()).nodes
    async with impostor(values, west, answers(raw)) as worker:
        with structlog.testing.capture_logs() as lines:
            assert await west.command(worker, SESSION, "hang_up") is Reply.UNREACHABLE
            assert await west.command(worker, SESSION, "hang_up") is Reply.UNREACHABLE
    assert [line["event"] for line in lines] == ["a node does not answer"], "once, until it answers"
    assert words in lines[0]["words"]


async def test_a_node_that_hangs_is_waited_for_no_longer_than_the_limit(
    start: Callable[..., NodeWorker], values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    west = (await start().start()).nodes
    hung = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        hung.set()

    async with impostor(values, west, hang) as worker:
        monkeypatch.setattr(nodes, "COMMAND_S", 0.05)
        assert await west.command(worker, SESSION, "hang_up") is Reply.UNREACHABLE
        assert await west.open_stream(worker, b"") is Reply.UNREACHABLE, "it may have the socket"
        async with asyncio.timeout(WAIT_S):
            await hung.wait()


async def test_a_node_that_is_gone_certainly_has_not_taken_the_stream(
    start: Callable[..., NodeWorker], values: Values
) -> None:
    west = (await start().start()).nodes
    await values.put("node", "e" * 32, json.dumps({"url": address()}), now=time.time())
    assert await west.command("e" * 32, SESSION, "hang_up") is Reply.UNREACHABLE
    assert await west.open_stream("e" * 32, b"") is Reply.NOT_HERE
    assert await west.open_stream("d" * 32, b"") is Reply.NOT_HERE, "nor has a worker of no node"
    assert west.streams == 0


async def test_a_worker_that_has_ended_is_another_than_its_successor(
    start: Callable[..., NodeWorker],
) -> None:
    """The address is the same, and so may be the session's id."""
    west, east = await pair(start)
    assert await west.nodes.command(east.id, SESSION, "hang_up") is Reply.TAKEN
    await east.stop()
    successor = await start(east.url).start()
    successor.sessions.add(SESSION)
    assert await west.nodes.command(east.id, SESSION, "hang_up") is Reply.UNREACHABLE
    assert successor.asked == []
    assert await west.nodes.command(successor.id, SESSION, "hang_up") is Reply.TAKEN


async def test_a_kept_connection_that_was_closed_is_replaced(start: Callable[..., NodeWorker]) -> None:
    west, east = await pair(start)
    assert await west.nodes.command(east.id, SESSION, "hold") is Reply.TAKEN
    (connection,) = east.listener._connections
    connection.close()
    assert await west.nodes.command(east.id, SESSION, "resume") is Reply.TAKEN
    assert len(east.asked) == 2


# Several workers at one address


@pytest.fixture(params=["http", "https"])
def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, ssl.SSLContext | None]:
    """The address of a node, and what it listens with; whoever connects trusts its certificate."""
    if request.param == "http":
        return address(), None
    certificate, key = issue_certificate(tmp_path, 1)
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(node_client, "tls_context", lambda: trusting)
    return address("localhost", "https"), load_context(str(certificate), str(key))


async def test_a_request_reaches_its_worker_whichever_has_the_connection(
    start: Callable[..., NodeWorker], place: tuple[str, ssl.SSLContext | None]
) -> None:
    """As while one gateway replaces another: both have calls, and both listen at the address."""
    url, tls = place
    door, owner = await start(url).start(tls), await start(url).start(tls, accepts=False)
    west = await start().start()
    owner.sessions.add(SESSION)
    for _ in range(2):
        assert await west.nodes.command(owner.id, SESSION, "hang_up") is Reply.TAKEN
        assert await west.nodes.command(door.id, SESSION, "hang_up") is Reply.NOT_HERE
    assert (len(owner.asked), len(door.asked)) == (2, 2)


async def test_a_stream_reaches_its_worker_whichever_has_the_connection(
    start: Callable[..., NodeWorker], place: tuple[str, ssl.SSLContext | None]
) -> None:
    url, tls = place
    door, owner = await start(url).start(tls), await start(url).start(tls, accepts=False)
    west = await start().start()
    owner.sessions.add(SESSION)
    assert await west.nodes.open_stream(owner.id, OTHER.encode()) is Reply.NOT_HERE
    opened = await west.nodes.open_stream(owner.id, SESSION.encode())
    assert isinstance(opened, OpenedStream)
    assert west.nodes.streams == 1
    ours = Ear(opened.transport)
    opened.transport.resume_reading()
    opened.transport.write(b"a caller's words")
    await eventually(
        lambda: owner.streams and owner.streams[0][1].heard == b"a caller's words", "it is heard"
    )
    await eventually(lambda: ours.heard == b"a caller's words", "the answer is heard")
    assert owner.streams[0][0] == SESSION.encode()
    if tls is not None:  # it cannot be passed, so the worker in between waits for it when it drains
        assert door.nodes.passing >= 1
    opened.transport.abort()
    await eventually(lambda: owner.streams[0][1].has_ended, "its end is seen")
    await eventually(lambda: door.nodes.passing == 0, "nothing is waited for")
    west.nodes.end_stream()


async def test_a_stream_whose_sender_has_given_up_is_not_taken(start: Callable[..., NodeWorker]) -> None:
    """As of a worker that stood still meanwhile: the call would lose the socket that it has."""
    _, east = await pair(start)
    parts = urlsplit(east.url)
    upgrade = request(east.id, SESSION.encode(), "stream", Connection="Upgrade", Upgrade="patchbay-stream")
    with socket.create_connection((parts.hostname, parts.port)) as sender:  # before the worker gets a turn
        sender.sendall(upgrade)
    await eventually(lambda: east.begun == 1 and east.connections == 0, "nothing is left of it")
    assert east.streams == []


async def test_streams_have_a_limit(
    start: Callable[..., NodeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "MAX_STREAMS", 1)
    west, east = await pair(start)
    opened = await west.nodes.open_stream(east.id, SESSION.encode())
    assert isinstance(opened, OpenedStream)
    assert await west.nodes.open_stream(east.id, SESSION.encode()) is Reply.NOT_HERE
    opened.transport.abort()
    west.nodes.end_stream()
