# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's socket by hand: the upgrade request byte by byte, then a `Peer`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import ssl
from collections.abc import Iterable
from typing import Any

from gateway.simulator.waiting import WAIT_S
from tests.harness.websocket_peer import WebSocketPeer, read_before_reset

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Caller(WebSocketPeer):
    """Who opened a media socket, and how it was answered: `status`, `headers`, `body`."""

    status = 0
    headers: dict[str, str]
    body = b""

    @property
    def refusal(self) -> tuple[int, str]:
        """HTTP status and the code in the JSON of an upgrade that was refused."""
        return self.status, self.json["code"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def accept_key(key: str) -> str:
    """RFC 6455 §4.2.2, step 5."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def request(target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def upgrade_headers(host: str, key: str) -> dict[str, str]:
    return {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
    }


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_socket(port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Connection:
    async with asyncio.timeout(WAIT_S):
        return await asyncio.open_connection(host, port, ssl=tls)


async def answered(reader: asyncio.StreamReader, *, to_the_end: bool = True) -> tuple[bytes, bytes]:
    """The head of an answer, and its body up to the socket's end where it is no 101; nothing for no answer.

    `to_the_end`: False for an answer after which the connection may stay, whose body is not waited for.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b"", b""
    except OSError:
        head, end, body = read_before_reset(reader).partition(b"\r\n\r\n")
        return (head + end, body) if end else (b"", b"")
    body = b""
    if to_the_end and head.split(b" ", 2)[1] != b"101":
        try:
            while part := await reader.read(1 << 16):
                body += part
        except OSError:
            body += read_before_reset(reader)
    return head, body


async def dial(
    port: int,
    target: str,
    *,
    host: str = "api.example.com",
    headers: dict[str, str | None] | None = None,
    on_open: list[Caller] | None = None,
    tls: ssl.SSLContext | None = None,
    over: Connection | None = None,
) -> Caller:
    """Asks for a media socket and waits for the answer, whatever it is. `over`: a connection that stands.

    `headers` are added to the upgrade's own, or take their place; None takes one away. `on_open` gets the
    caller as soon as the connection stands, for who wants to give up before the answer.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    wanted: dict[str, str | None] = {**upgrade_headers(host, key), **(headers or {})}
    reader, writer = over or await open_socket(port, tls=tls)
    caller = Caller(reader, writer, masks=True)
    if on_open is not None:
        on_open.append(caller)
    writer.write(request(target, [(name, value) for name, value in wanted.items() if value is not None]))
    async with asyncio.timeout(WAIT_S):
        head, caller.body = await answered(reader)
    caller.headers = {}  # closed without an answer: no status either
    if head:
        lines = head.decode().split("\r\n")
        caller.status = int(lines[0].split(" ")[1])
        parted = (line.partition(":") for line in lines[1:-2])
        caller.headers = {name.lower(): value.strip() for name, _, value in parted}
    if caller.status == 101:
        assert caller.headers["sec-websocket-accept"] == accept_key(key)
        assert "sec-websocket-extensions" not in caller.headers
    return caller
