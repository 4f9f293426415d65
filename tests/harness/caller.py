# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's media socket, byte by byte: the upgrade request, then a `WebSocketPeer`.

Use gateway/simulator/fake_carrier.py for a caller that simply talks.
"""

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
    """The carrier's end of a media socket. `status`, `headers`, `body`: of the answer to its upgrade."""

    status = 0
    headers: dict[str, str]
    body = b""

    @property
    def refusal(self) -> tuple[int, str]:
        """The HTTP status and the reason's code of a refused upgrade."""
        return self.status, self.json["code"]

    @property
    def json(self) -> Any:
        """The body of the answer, parsed."""
        return json.loads(self.body)


def accept_key(key: str) -> str:
    """Return the `Sec-WebSocket-Accept` that answers `key` (RFC 6455 §4.2.2, step 5)."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def request(target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a GET request."""
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def upgrade_headers(host: str, key: str) -> dict[str, str]:
    """Return the headers of an upgrade request (RFC 6455 §4.1)."""
    return {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
    }


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def open_socket(port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Connection:
    """Connect to a port."""
    async with asyncio.timeout(WAIT_S):
        return await asyncio.open_connection(host, port, ssl=tls)


async def answered(reader: asyncio.StreamReader, *, to_the_end: bool = True) -> tuple[bytes, bytes]:
    """Read an HTTP response: its head, and its body to the end of the connection unless it is a 101.

    Return two empty strings if there is none. `to_the_end`: False does not wait for the body, for responses
    after which the connection may stay open.
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
    """Request a media socket, and wait for the answer, whatever it is. `over`: an open connection to use.

    `headers` replace or extend the upgrade's own; None removes one. `on_open` gets the caller as soon as it
    is connected, so that a test can leave before the answer.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    fields: dict[str, str | None] = {**upgrade_headers(host, key), **(headers or {})}
    reader, writer = over or await open_socket(port, tls=tls)
    caller = Caller(reader, writer, masks=True)
    if on_open is not None:
        on_open.append(caller)
    writer.write(request(target, [(name, value) for name, value in fields.items() if value is not None]))
    async with asyncio.timeout(WAIT_S):
        head, caller.body = await answered(reader)
    caller.headers = {}  # closed without an answer: no status either
    if head:
        lines = head.decode().split("\r\n")
        caller.status = int(lines[0].split(" ")[1])
        pairs = (line.partition(":") for line in lines[1:-2])
        caller.headers = {name.lower(): value.strip() for name, _, value in pairs}
    if caller.status == 101:
        assert caller.headers["sec-websocket-accept"] == accept_key(key)
        assert "sec-websocket-extensions" not in caller.headers
    return caller
