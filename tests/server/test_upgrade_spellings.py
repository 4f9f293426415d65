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


# Heads that are refused as a whole

UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
UPGRADE += f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
SOCKET = "GET /ws/twilio/nobody.acme"

FAULTY = {
    "an upgrade without Host": (f"{SOCKET} HTTP/1.1\r\n{UPGRADE}", "the request has no Host"),
    "an upgrade with two Hosts": (
        f"{SOCKET} HTTP/1.1\r\nHost: one\r\nHost: one\r\n{UPGRADE}",
        "the request has more than one Host",
    ),
    "an upgrade in HTTP/1.0": (f"{SOCKET} HTTP/1.0\r\nHost: one\r\n{UPGRADE}", "a WebSocket needs HTTP/1.1"),
    "an upgrade with a Host that is none": (
        f"{SOCKET} HTTP/1.1\r\nHost: one two\r\n{UPGRADE}",
        "the request's Host is no host",
    ),
    "a request without Host": ("GET /livez HTTP/1.1\r\n", "the request has no Host"),
    "a request with two Hosts": (
        "GET /livez HTTP/1.1\r\nHOST: one\r\nX: y\r\nhost: two\r\n",
        "the request has more than one Host",
    ),
    "a request with a path for a Host": (
        "GET /livez HTTP/1.1\r\nHost: one/two\r\n",
        "the request's Host is no host",
    ),
    "chunks in HTTP/1.0": (
        "POST /livez HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.0 has no Transfer-Encoding",
    ),
}


async def ask(gateway: Gateway, head: str) -> tuple[int, bytes]:
    """Send a head, and return the status and the body of the answer, after which the connection ends."""
    reader, writer = await open_socket(gateway.port)
    try:
        async with asyncio.timeout(WAIT_S):
            writer.write(f"{head}\r\n".encode())
            answer, body = await answered(reader)
            return int(answer.split()[1]), body
    finally:
        writer.close()


@pytest.mark.parametrize("fault", FAULTY)
async def test_a_faulty_head_is_400(gateway: Gateway, fault: str) -> None:
    head, words = FAULTY[fault]
    status, body = await ask(gateway, head)
    assert (status, json.loads(body)) == (400, {"error": words, "code": "400"})


@pytest.mark.parametrize("host", ["", "127.0.0.1:7860", "[::1]:7860", "eu_central.voice-1.example.com."])
async def test_a_host_may_be_anything_that_is_one(gateway: Gateway, host: str) -> None:
    head = f"GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    assert (await ask(gateway, head))[0] == 200


async def test_a_health_check_in_http_1_0_needs_no_host(gateway: Gateway) -> None:
    assert (await ask(gateway, "GET /livez HTTP/1.0\r\n"))[0] == 200
