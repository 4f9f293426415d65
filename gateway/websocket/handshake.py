# SPDX-License-Identifier: BSD-2-Clause
"""The opening handshake, on both sides of us (RFC 6455 §4), without I/O.

The plain case is done here: a request, or an answer, in which nothing is missing, nothing stands twice and
nothing is negotiated. Everything else is shown to the `websockets` package, whose verdict and words hold. So
the rules stand there, and this module only knows when there is nothing to decide; a test holds the two
together. Two handshakes through the package are a third of the CPU of a call's set-up.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.headers import build_host
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

HeaderLines = Sequence[tuple[str, str]]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_LINE: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~]*\r\n"
_PLAIN_REQUEST: Final = re.compile(rb"GET [!-~]{1,4000} HTTP/1\.1\r\n(?:" + _LINE + rb"){4,100}\r\n")
_PLAIN_ANSWER: Final = re.compile(rb"HTTP/1\.1 101 [\t -~]*\r\n(?:" + _LINE + rb"){3,100}\r\n")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_MOST_BYTES: Final = 8000
"""Of a head that is plain: no line in it is too long for anybody."""

_host = lru_cache(1024)(build_host)  # there are as many as instances

_OF_REQUEST: Final = frozenset(
    ("upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "origin")
)
_OF_ANSWER: Final = frozenset(("upgrade", "connection", "sec-websocket-accept"))
_NOT_PLAIN: Final = frozenset(
    ("content-length", "transfer-encoding", "sec-websocket-protocol", "sec-websocket-extensions")
)


class NotAWebSocketError(Exception):
    """The far end's answer is none to a handshake; `str()` says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A client's request. `accept`: the key to answer with, None where `fault` says what is wrong with it."""

    target: str
    headers: HeaderLines
    accept: str | None
    fault: str = ""

    def header(self, name: str) -> str:
        """A header; several of one name are joined with commas, a missing one is empty."""
        wanted = name.lower()
        return ", ".join([value for each, value in self.headers if each.lower() == wanted])


def read_request(head: bytes) -> UpgradeRequest:
    """Judges the head of a request, whole, with the empty line behind it. Raises nothing."""
    if len(head) <= _MOST_BYTES and _PLAIN_REQUEST.fullmatch(head):
        first, headers = _lines(head)
        found = _only_once(headers, _OF_REQUEST)
        if (
            found is not None
            and found.get("upgrade", "").lower() == "websocket"
            and _upgrades(found)
            and found.get("sec-websocket-version") == "13"
            and _KEY.fullmatch(key := found.get("sec-websocket-key", ""))
        ):
            return UpgradeRequest(first[4:-9], headers, accept_key(key))  # without "GET " and " HTTP/1.1"
    return _judged(head)


def _judged(head: bytes) -> UpgradeRequest:
    protocol = ServerProtocol()
    protocol.receive_data(head)
    events = protocol.events_received()
    if not events:
        return UpgradeRequest("/", (), None, str(protocol.handshake_exc))
    request = cast(Request, events[0])
    headers = list(request.headers.raw_items())
    response = protocol.accept(request)
    if response.status_code == 101:
        return UpgradeRequest(request.path, headers, response.headers["Sec-WebSocket-Accept"])
    detail = (response.body or b"").decode().partition("\n")[0]
    return UpgradeRequest(
        request.path, headers, None, detail.removeprefix("Failed to open a WebSocket connection: ")
    )


def answer(accept: str, subprotocol: str | None = None) -> bytes:
    """The 101 (RFC 6455 §4.2.2). No extensions: they would have to be negotiated on both legs alike."""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol is not None else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
    ).encode()


class ClientHandshake:
    """Our own request, and the verdict on its answer. `request`: the bytes to send."""

    __slots__ = ("_key", "_subprotocols", "_uri", "request")

    def __init__(
        self,
        uri: WebSocketURI,
        headers: Iterable[tuple[str, str]],
        subprotocols: Sequence[str] = (),
    ) -> None:
        """`uri`: its path and query go into the request line as they are. `headers`: none of ours."""
        self._uri = uri
        self._subprotocols = subprotocols
        self._key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {uri.resource_name} HTTP/1.1",
            f"Host: {_host(uri.host, uri.port, uri.secure)}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key}",
            "Sec-WebSocket-Version: 13",
        ]
        if subprotocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}")
        lines += [f"{name}: {value}" for name, value in headers]
        self.request = "\r\n".join([*lines, "", ""]).encode()

    def read_answer(self, head: bytes) -> str | None:
        """The subprotocol that was taken, if any. Raises NotAWebSocketError."""
        if len(head) <= _MOST_BYTES and _PLAIN_ANSWER.fullmatch(head):
            _, headers = _lines(head)
            found = _only_once(headers, _OF_ANSWER)
            if (
                found is not None
                and found.get("upgrade", "").lower() == "websocket"
                and _upgrades(found)
                and found.get("sec-websocket-accept") == accept_key(self._key)
            ):
                return None
        return self._judged(head)

    def _judged(self, head: bytes) -> str | None:
        wanted = [Subprotocol(name) for name in self._subprotocols] or None
        protocol = ClientProtocol(self._uri, extensions=None, subprotocols=wanted)
        protocol.key = self._key
        protocol.send_request(protocol.connect())
        protocol.receive_data(head)
        if protocol.handshake_exc is not None:
            raise NotAWebSocketError(str(protocol.handshake_exc))
        events = protocol.events_received()
        if not events or cast(Response, events[0]).status_code != 101:
            raise NotAWebSocketError("the answer is not whole")
        return protocol.subprotocol


def accept_key(key: str) -> str:
    """`Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _lines(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    first, *lines = head[:-4].decode("ascii").split("\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(":")
        headers.append((name, value.strip(" \t")))
    return first, headers


def _only_once(headers: HeaderLines, needed: frozenset[str]) -> dict[str, str] | None:
    """Those that are needed; None where one of them stands twice, or something is not plain."""
    found: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in needed:
            if lower in found:
                return None
            found[lower] = value
        elif lower in _NOT_PLAIN:
            return None
    return found


def _upgrades(found: dict[str, str]) -> bool:
    return found.get("connection", "").lower() in ("upgrade", "keep-alive, upgrade")
