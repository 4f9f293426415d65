# SPDX-License-Identifier: BSD-2-Clause
"""Requests sent behind each other on one connection (RFC 9112 §9.3.2), whose client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest
from starlette.types import Receive, Scope, Send

from gateway.config import Settings
from gateway.server import uvicorn_adapter
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.fd_reserve import FdReserve
from gateway.server.uvicorn_adapter import MAX_PIPELINED, UvicornServer
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import AgentPort
from tests.harness.caller import open_socket
from tests.harness.gateway import Gateway


def start(agent: str) -> bytes:
    lines = (
        f"POST /v1/public/{agent}/start HTTP/1.1",
        "Host: api.example.com",
        "Authorization: Bearer pk_acme",
        "Content-Type: application/json",
        "Content-Length: 2",
    )
    return ("\r\n".join(lines) + "\r\n\r\n{}").encode()


CLIENTS = 12


def head(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


@pytest.fixture
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


async def test_a_client_that_leaves_a_pipeline_starts_nothing_more(
    start_gateway: Callable[..., Gateway], port: AgentPort
) -> None:
    """The first of its requests waits for an instance when it leaves."""
    agent = {"name": "support", "organization": "acme", "instances": [port.url], "sessions_per_instance": 9}
    gateway = start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"]}],
        agents=[agent],
    )
    listening = port.listen()
    listening.listen(1)  # nobody answers there
    _, writer = await open_socket(gateway.port)
    writer.write(start("support") * 3)
    await eventually(gateway.sessions, "the first session is being started")
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()

    def starts() -> list[dict[str, object]]:
        lines = [line for line in gateway.log_lines() if line["event"] == "request"]
        return [line for line in lines if line["route"] == "/v1/public/{agent}/start"]

    await eventually(starts, "its start is over")
    status, _ = gateway.get("/livez")
    assert status == 200
    assert len(gateway.sessions()) == len(starts()) == 1, "what was behind it is not started"
    assert not [line for line in gateway.log_lines() if line["level"] == "error"]
    listening.close()


@pytest.mark.parametrize("second", [b"GET /livez HTTP/1.1\r\n\r\n", b"no request\r\n\r\n"])
async def test_no_answer_to_a_faulty_request_comes_before_one_that_is_owed(
    start_gateway: Callable[..., Gateway], port: AgentPort, second: bytes
) -> None:
    """The client, or a proxy, would take it for the answer to the first."""
    gateway = start_gateway(
        organizations=[{"name": "acme", "public_keys": ["pk_acme"]}],
        agents=[{"name": "support", "organization": "acme", "instances": [port.url]}],
    )
    with port.listen() as listening:
        listening.listen(1)  # nobody answers there
        reader, writer = await open_socket(gateway.port)
        writer.write(start("support"))
        await eventually(gateway.sessions, "the first is being answered")
        writer.write(second)
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b""
        writer.close()


class Application:
    """Answers every request at once, and notes in which iteration of the event loop each began."""

    def __init__(self) -> None:
        self.iteration = 0
        self.began: list[tuple[str, int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
            return
        self.began.append((scope["path"], self.iteration))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def count_iterations(self) -> None:
        """Count this iteration, and all that follow."""
        self.iteration += 1
        asyncio.get_running_loop().call_soon(self.count_iterations)


async def test_of_all_requests_behind_others_one_begins_at_a_time() -> None:
    application = Application()
    stops = False
    limits = ConnectionLimits(Settings(), 1000, time.monotonic)
    server = UvicornServer(application, limits, FdReserve(), None, lambda _: stops)
    with socket.create_server(("127.0.0.1", 0)) as port:
        running = asyncio.create_task(server.run_until_stopped(port))
        await eventually(lambda: server.started, "it serves")
        clients = [await open_socket(port.getsockname()[1]) for _ in range(CLIENTS)]
        application.count_iterations()
        for _, writer in clients:
            writer.write(head("first") + head("next") * (MAX_PIPELINED - 1))
        async with asyncio.timeout(WAIT_S):
            for reader, _ in clients:
                for _ in range(MAX_PIPELINED):
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        for _, writer in clients:
            writer.close()
        stops = True
        async with asyncio.timeout(WAIT_S):
            await running
    began = Counter(iteration for path, iteration in application.began if path == "/next")
    assert began.total() == CLIENTS * (MAX_PIPELINED - 1)
    assert max(began.values()) == 1


async def test_connections_that_wait_for_a_turn_are_not_without_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uvicorn_adapter, "MAX_PIPELINES", 0)
    stops = False
    limits = ConnectionLimits(Settings(), 1000, time.monotonic)
    server = UvicornServer(Application(), limits, FdReserve(), None, lambda _: stops)
    with socket.create_server(("127.0.0.1", 0)) as port:
        running = asyncio.create_task(server.run_until_stopped(port))
        await eventually(lambda: server.started, "it serves")
        reader, writer = await open_socket(port.getsockname()[1])
        writer.write(head("first") * 3)
        async with asyncio.timeout(WAIT_S):
            assert (await reader.read()).count(b"HTTP/1.1 204") == 1  # and then the connection ends
        writer.close()
        stops = True
        async with asyncio.timeout(WAIT_S):
            await running
