# SPDX-License-Identifier: BSD-2-Clause
"""Spellings of a request to upgrade (RFC 9110 §5.3, §5.6.1, §7.6.1, §7.8), over plain sockets."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from gateway.simulator.waiting import WAIT_S
from tests.harness.agent import Agent
from tests.harness.caller import Caller, accept_key, answered, open_socket, request, upgrade_headers
from tests.harness.gateway import Gateway

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3

UPGRADES = {
    "the usual one": ["Connection: Upgrade", "Upgrade: websocket"],
    "two lines": ["Connection: Upgrade", "Connection: keep-alive", "Upgrade: websocket"],
    "two lines, the other order": ["Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket"],
    "lines apart": ["Connection: Upgrade", "Upgrade: websocket", "Connection: keep-alive"],
    "two tokens": ["Connection: Upgrade, keep-alive", "Upgrade: websocket"],
    "names and tokens in capitals": ["CONNECTION: KEEP-ALIVE,UPGRADE", "UPGRADE: WEBSOCKET"],
    "names and tokens in small letters": ["connection: upgrade", "upgrade: websocket"],
    "no whitespace": ["Connection:Upgrade", "Upgrade:websocket"],
    "more whitespace": ["Connection: \t Upgrade\t , \tkeep-alive \t", "Upgrade:\t websocket \t"],
    "empty elements": ["Connection: , Upgrade,,", "Upgrade: ,websocket, ,"],
    "an empty line": ["Connection: Upgrade", "Connection:", "Upgrade: websocket", "Upgrade:"],
    "the same twice": ["Connection: Upgrade", "Connection: upgrade"] + ["Upgrade: websocket"] * 2,
    "two protocols": ["Connection: Upgrade", "Upgrade: h2c, websocket"],
    "two lines of protocols": ["Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"],
}

NO_UPGRADES = {
    "no token": ["Connection: keep-alive", "Upgrade: websocket"],
    "no Connection": ["Upgrade: websocket"],
    "no Upgrade": ["Connection: Upgrade"],
    "a longer token": ["Connection: upgrades", "Upgrade: websocket"],
    "no comma": ["Connection: keep-alive Upgrade", "Upgrade: websocket"],
    "another protocol": ["Connection: Upgrade", "Upgrade: h2c"],
    "another version": ["Connection: Upgrade", "Upgrade: websocket/13"],
}


async def answer_to(gateway: Gateway, lines: list[str], before: bytes = b"") -> tuple[int, bytes]:
    """Send a request for an agent that does not exist; return the status and the body of the last answer.

    `before`: a request that is answered first on the same connection.
    """
    head = [
        "GET /ws/twilio/nobody.acme HTTP/1.1",
        "Host: localhost",
        *lines,
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    reader, writer = await open_socket(gateway.port)
    try:
        async with asyncio.timeout(WAIT_S):
            if before:
                writer.write(before)
                await answered(reader, to_the_end=False)
            writer.write("\r\n".join([*head, "", ""]).encode())
            answer, _ = await answered(reader, to_the_end=False)
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", answer)
            assert length is not None, answer
            return int(answer.split()[1]), await reader.readexactly(int(length[1]))
    finally:
        writer.close()


@pytest.mark.parametrize("spelling", UPGRADES)
async def test_a_legal_spelling_of_an_upgrade_is_one(gateway: Gateway, spelling: str) -> None:
    gateway.upgrades += 1
    status, body = await answer_to(gateway, UPGRADES[spelling])
    assert (status, json.loads(body)["code"]) == (404, "unknown_agent")


@pytest.mark.parametrize("spelling", NO_UPGRADES)
async def test_a_request_that_does_not_ask_for_websocket_is_told_to(gateway: Gateway, spelling: str) -> None:
    assert (await answer_to(gateway, NO_UPGRADES[spelling]))[0] == 426


async def test_each_request_of_a_connection_is_judged_by_itself(gateway: Gateway) -> None:
    gateway.upgrades += 2
    plain = b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert (await answer_to(gateway, UPGRADES["two lines"], plain))[0] == 404
    other = b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert (await answer_to(gateway, UPGRADES["two lines"], other))[0] == 404
    assert (await answer_to(gateway, NO_UPGRADES["no Upgrade"], plain))[0] == 426


async def test_a_caller_whose_request_has_two_lines_is_connected(gateway: Gateway, support: Agent) -> None:
    """A proxy may add a line `Connection` of its own."""
    gateway.upgrades += 1
    reader, writer = await open_socket(gateway.port)
    caller = Caller(reader, writer, masks=True)
    fields = upgrade_headers("localhost", KEY).items()
    writer.write(request("/ws/generic/support.acme", [*fields, ("Connection", "keep-alive")]))
    async with asyncio.timeout(WAIT_S):
        head, _ = await answered(reader)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\n".encode() in head
    await support.call()
    await caller.leave()
