# SPDX-License-Identifier: BSD-2-Clause
"""Clients send the gateway more than they should, while a call runs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import pytest

from gateway.api.framework.docs_page import SCRIPT_PATH
from gateway.server.connection_limits import SILENT_S
from gateway.simulator.waiting import eventually
from tests.faults.case import Case
from tests.faults.many_calls import CROWD, WELL, go_on, hang_up_all, warm_with
from tests.faults.suite_settings import LIMITS, agents_at
from tests.harness.agent import Agent, AgentPort
from tests.harness.caller import answered, dial
from tests.harness.gateway import Gateway

Cases = Callable[..., Case]

FLOOD = "127.0.0.2"
"""The address from which the gateway gets too much."""

UPGRADES = 100
BODIES = 8
READERS = 10
SILENT = 6


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    """A gateway with low limits, so that little exceeds them."""
    few = {"upgrades_per_second": 20, "requests_per_second": 10, "requests_burst": 10, "answer_timeout": 0.5}
    acme = {"name": "acme", "public_keys": ["pk_acme"]}
    return start_gateway(agents=agents_at(support_port.url), organizations=[acme], limits=LIMITS | few)


async def test_upgrades_that_are_no_calls(case: Cases, gateway: Gateway, support: Agent) -> None:
    """One address asks for an agent that does not exist, again and again."""
    async with case("flooded: upgrades of one address for no agent") as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        statuses = []
        for _ in range(UPGRADES):
            over = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(FLOOD, 0))
            caller = await dial(gateway.port, "/ws/twilio/nobody.acme", over=over)
            statuses.append(caller.status)
            await caller.leave()
        gateway.upgrades += statuses.count(404)
        assert statuses.count(429) > UPGRADES / 2
        another = await fault.talk(support, CROWD)
        await go_on([talk, another])
        await hang_up_all(fault, gateway, [talk, another], "sound; a new caller too; the address 429")
        fault.ended = f"{WELL}, both"


async def test_sockets_that_say_nothing(
    case: Cases,
    start_gateway: Callable[..., Gateway],
    bases: dict[int, int],
    support: Agent,
    support_port: AgentPort,
) -> None:
    """From the address of a carrier come as many sockets as it may have calls, and say nothing."""
    limits = LIMITS | {"max_calls": SILENT + 2, "start_timeout": 60}
    gateway = start_gateway(agents=agents_at(support_port.url), limits=limits)
    before = await warm_with(support, gateway, bases, support_port)
    name = "flooded: sockets from the carrier's own address that say nothing"
    async with case(name, of=gateway, before=before) as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        silent = [await gateway.dial(CROWD) for _ in range(SILENT + 1)]
        assert {caller.status for caller in silent} == {101}
        await asyncio.sleep(SILENT_S)
        another = await fault.talk(support, CROWD)
        assert (await silent[0].closed())[0] == 1013
        await go_on([talk, another])
        await hang_up_all(fault, gateway, [talk, another], "sound; a new caller too; the oldest socket 1013")
        fault.ended = f"{WELL}, both; `preempted` (carrier)"


async def test_large_json(case: Cases, gateway: Gateway, support: Agent) -> None:
    """One public key sends megabytes of small values."""
    async with case("flooded: a megabyte of small values in JSON, again and again") as fault:
        talk = await fault.talk(support, CROWD)
        # It is read, and is then too much for a media socket: nothing starts.
        value = {"transport": "websocket", "body": [{"a": 1}] * 110_000}
        body = json.dumps(value, separators=(",", ":")).encode()
        head = "POST /v1/public/crowd/start HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer pk_acme\r\n"
        head += f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

        async def post() -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(FLOOD, 0))
            writer.write(head.encode() + body)
            answer, _ = await answered(reader)
            writer.transport.abort()
            return int(answer.split(b" ")[1])

        fault.strike()
        statuses = await asyncio.gather(*(post() for _ in range(BODIES)))
        statuses += [await post()]
        assert set(statuses) == {413, 429}
        await go_on([talk])
        await hang_up_all(fault, gateway, [talk], "sound; the key 429 in the end")
        fault.ended = WELL


async def test_answers_that_nobody_reads(case: Cases, gateway: Gateway, support: Agent) -> None:
    """Clients ask for megabytes, and read nothing."""
    async with case("flooded: clients that ask and do not read") as fault:
        talk = await fault.talk(support, CROWD)
        fault.strike()
        request = f"GET {SCRIPT_PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 10
        clients = []
        for _ in range(READERS):
            client = socket.create_connection(("127.0.0.1", gateway.port), source_address=(FLOOD, 0))
            client.sendall(request)
            clients.append(client)

        def dropped() -> bool:
            lines = [line for line in gateway.log_lines() if line.get("why") == "answers are not read"]
            return sum(line["times"] for line in lines) == READERS

        await eventually(dropped, "all of them are disconnected")
        for client in clients:
            client.close()
        await go_on([talk])
        await hang_up_all(fault, gateway, [talk], "sound")
        fault.ended = WELL
