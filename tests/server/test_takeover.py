# SPDX-License-Identifier: BSD-2-Clause
"""A gateway is replaced while calls arrive: none is cut, none is refused."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.server.control_socket import reserve_gateway
from gateway.server.takeover import count_listeners
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_both_hear, connect, hang_up
from tests.harness.caller import dial, open_socket
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture

PACE_S = 0.03
"""Pause between two calls of one caller, so that the new gateway's processes get time to start."""


@pytest.fixture
def agents(support_port: AgentPort) -> list[dict[str, Any]]:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    return [agent | {"sessions_per_instance": 100}]


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_call_is_cut_or_refused_while_the_port_is_taken_over(
    gateways: list[Gateway],
    start_gateway: Callable[..., Gateway],
    agents: list[dict[str, Any]],
    support: Agent,
    tmp_path: Path,
    workers: int,
) -> None:
    old = start_gateway(server={"workers": workers, "drain_timeout": 60}, agents=agents)
    running = await connect(old, support)
    answers: list[int] = []
    enough = asyncio.Event()

    async def keep_calling() -> None:
        """Place one call after another, each of which hangs up at once."""
        while not enough.is_set():
            caller = await dial(old.port, "/ws/twilio/support.acme")
            answers.append(caller.status)
            await caller.leave()
            await asyncio.sleep(PACE_S)

    async with asyncio.TaskGroup() as callers:
        for _ in range(3):
            callers.create_task(keep_calling())
        await eventually(lambda: len(answers) > 20, "calls arrive")
        settings = {"server": {"workers": workers}, "agents": agents}
        new = await asyncio.to_thread(Gateway, tmp_path, settings, replace=old)
        gateways.append(new)
        await eventually(lambda: has_logged(new, "patchbay"), "the new one listens")
        await eventually(lambda: has_logged(new, "the port is taken over"), "the new one has the port")
        await eventually(
            lambda: count_listeners(("127.0.0.1", old.port)) == workers, "the old one has left it"
        )
        before = len(answers)
        await eventually(lambda: len(answers) > before + 20, "calls still arrive")
        enough.set()
    assert set(answers) == {101}

    # The running call stays with the old gateway; new calls go to the new one.
    new.port = old.port
    await assert_both_hear(running)
    fresh = await connect(new, support)
    await assert_both_hear(fresh)
    assert old.process.poll() is None
    await hang_up(running)
    assert await old.ended() == 0
    await hang_up(fresh)
    await eventually(lambda: has_ended(new, fresh), "its end is logged")
    total = len(answers) + 2
    await eventually(lambda: len(old.ends()) + len(new.ends()) == total, "each call's end is logged")
    old.upgrades, new.upgrades = len(old.ends()), len(new.ends())


def has_logged(gateway: Gateway, event: str) -> bool:
    return any(line["event"] == event for line in gateway.log_lines())


def has_ended(gateway: Gateway, call: Call) -> bool:
    return any(line["session"] == call.session for line in gateway.ends())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_listeners_of_another_address_do_not_count(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as port:
        number = port.getsockname()[1]
        with socket.create_server(("127.0.0.2", number)):
            assert count_listeners((host, number)) == 1


async def test_a_kept_alive_connection_is_ended_so_that_its_next_request_reaches_the_new_gateway(
    start_gateway: Callable[..., Gateway],
    support_port: AgentPort,
    support: Agent,
    kept_alive: Callable[[int], Awaitable[KeptAlive]],
) -> None:
    """A proxy keeps connections to the old gateway, which answers 503 on them while its calls run."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(server={"workers": 2, "drain_timeout": 60}, agents=[agent])
    call = await connect(gateway, support)
    idle = await kept_alive(gateway.port)
    busy = await kept_alive(gateway.port)
    assert await idle.get("/readyz") == (200, False)
    assert await busy.get("/readyz") == (200, False)
    old = reserve_gateway(gateway.process.pid)
    assert old.leave_port()
    old.close()
    async with asyncio.timeout(WAIT_S):
        while (answer := await busy.get("/livez")) == (200, False):
            pass
    assert answer in ((200, True), None), "the answer tells the proxy to connect anew"
    assert await idle.ended()
    await assert_both_hear(call)
    await hang_up(call)
    assert await gateway.ended() == 0


@pytest.fixture
async def kept_alive() -> AsyncIterator[Callable[[int], Awaitable[KeptAlive]]]:
    """Open connections to a port as a proxy keeps them."""
    opened: list[KeptAlive] = []

    async def connect(port: int) -> KeptAlive:
        opened.append(KeptAlive(*await open_socket(port)))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.writer.close()


class KeptAlive:
    """A connection on which a proxy sends one request after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def get(self, path: str) -> tuple[int, bool] | None:
        """Return the status, and whether the connection is closed after it; None if it was closed before."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: voice.example.com\r\n\r\n".encode())
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        except (asyncio.IncompleteReadError, OSError):
            return None
        (length,) = re.findall(r"content-length: (\d+)", head)
        await self._reader.readexactly(int(length))
        return int(head.split()[1]), "connection: close" in head

    async def ended(self) -> bool:
        """Wait until the gateway closes the connection."""
        async with asyncio.timeout(WAIT_S):
            return await self._reader.read() == b""


async def test_while_a_gateway_drains_its_answers_end_the_connection(
    start_gateway: Callable[..., Gateway],
    support_port: AgentPort,
    support: Agent,
    kept_alive: Callable[[int], Awaitable[KeptAlive]],
) -> None:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(server={"drain_timeout": 60}, agents=[agent])
    call = await connect(gateway, support)
    kept = await kept_alive(gateway.port)
    assert await kept.get("/readyz") == (200, False)
    gateway.terminate()
    assert await kept.ended()
    fresh = await kept_alive(gateway.port)
    assert await fresh.get("/readyz") == (503, True)
    assert await fresh.ended()
    await hang_up(call)
    assert await gateway.ended() == 0
