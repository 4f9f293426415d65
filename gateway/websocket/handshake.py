# SPDX-License-Identifier: BSD-2-Clause
"""The opening handshake of both sides, server and client (RFC 6455 §4), without I/O.

The plain case is handled here: a request, or an answer, in which no header is missing, none occurs twice and
nothing is negotiated. Everything else is given to the `websockets` package, whose decision and error texts
apply. So the rules are in the package, and this module only recognises the case without a decision; a test
compares the two. Two handshakes through the package would be a third of the CPU time of a call's set-up.
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
_ELEMENT: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+(?:/[!#$%&'*+\-.^_`|~0-9a-z]+)?")
"""An element of `Connection` or `Upgrade`, in lower case (RFC 9110 §7.6.1, §7.8)."""
_MAX_PLAIN_BYTES: Final = 8000
"""The largest head that counts as plain: no line in it can exceed a limit of the package's."""

_build_host = lru_cache(1024)(build_host)  # one entry for each instance

_REQUEST_HEADERS: Final = frozenset(
    ("upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "origin")
)
_ANSWER_HEADERS: Final = frozenset(("upgrade", "connection", "sec-websocket-accept"))
_NOT_PLAIN: Final = frozenset(
    ("content-length", "transfer-encoding", "sec-websocket-protocol", "sec-websocket-extensions")
)


class NotAWebSocketError(Exception):
    """The answer does not accept the handshake; `str()` is the reason."""


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A client's request to upgrade."""

    target: str
    headers: HeaderLines
    accept: str | None
    """The value of `Sec-WebSocket-Accept` in the answer; None if there is a `fault`."""
    fault: str = ""
    """The fault of the request, in words for its sender; empty if it can be accepted."""

    def header(self, name: str) -> str:
        """Return a header; several of one name joined with commas, "" for a missing one."""
        lower = name.lower()
        return ", ".join([value for each, value in self.headers if each.lower() == lower])


def read_request(head: bytes) -> UpgradeRequest:
    """Read the whole head of a request, up to and including its empty line. A bad one has a `fault`."""
    if len(head) <= _MAX_PLAIN_BYTES and _PLAIN_REQUEST.fullmatch(head):
        request_line, headers = _split_head(head)
        values = _plain_headers(headers, _REQUEST_HEADERS)
        if (
            values is not None
            and values.get("upgrade", "").lower() == "websocket"
            and _upgrades(values)
            and values.get("sec-websocket-version") == "13"
            and _KEY.fullmatch(key := values.get("sec-websocket-key", ""))
        ):
            target = request_line.removeprefix("GET ").removesuffix(" HTTP/1.1")
            return UpgradeRequest(target, headers, accept_key(key))
    return _read_request_by_package(head)


def _read_request_by_package(head: bytes) -> UpgradeRequest:
    protocol = ServerProtocol()
    protocol.receive_data(head)
    events = protocol.events_received()
    if not events:
        return UpgradeRequest("/", (), None, str(protocol.handshake_exc))
    request = cast(Request, events[0])
    headers = list(request.headers.raw_items())
    # The package refuses other protocols beside `websocket`, and lines without an element.
    for name, token in (("Connection", "upgrade"), ("Upgrade", "websocket")):
        elements = list_elements(request.headers.get_all(name))
        if token in elements and all(map(_ELEMENT.fullmatch, elements)):
            del request.headers[name]
            request.headers[name] = token
    response = protocol.accept(request)
    if response.status_code == 101:
        return UpgradeRequest(request.path, headers, response.headers["Sec-WebSocket-Accept"])
    detail = (response.body or b"").decode().partition("\n")[0]
    return UpgradeRequest(
        request.path, headers, None, detail.removeprefix("Failed to open a WebSocket connection: ")
    )


def answer(accept: str, subprotocol: str | None = None) -> bytes:
    """Return the 101 response (RFC 6455 §4.2.2).

    It has no extensions: a relay could use one only if both legs had negotiated the same.
    """
    protocol_line = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol is not None else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{protocol_line}\r\n"
    ).encode()


class ClientHandshake:
    """The client's request to upgrade, and the check of its answer. `request`: the bytes to send."""

    __slots__ = ("_key", "_subprotocols", "_uri", "request")

    def __init__(
        self,
        uri: WebSocketURI,
        headers: Iterable[tuple[str, str]],
        subprotocols: Sequence[str] = (),
    ) -> None:
        """`uri`: its path and query go into the request line unchanged.

        `headers`: additional ones, none of the handshake's own. `subprotocols`: those that are offered.
        """
        self._uri = uri
        self._subprotocols = subprotocols
        self._key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {uri.resource_name} HTTP/1.1",
            f"Host: {_build_host(uri.host, uri.port, uri.secure)}",
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
        """Check the whole head of the answer, and return the subprotocol that the server chose, if any.

        Raises NotAWebSocketError if the answer does not accept the handshake.
        """
        if len(head) <= _MAX_PLAIN_BYTES and _PLAIN_ANSWER.fullmatch(head):
            _, headers = _split_head(head)
            values = _plain_headers(headers, _ANSWER_HEADERS)
            if (
                values is not None
                and values.get("upgrade", "").lower() == "websocket"
                and _upgrades(values)
                and values.get("sec-websocket-accept") == accept_key(self._key)
            ):
                return None
        return self._read_answer_by_package(head)

    def _read_answer_by_package(self, head: bytes) -> str | None:
        offered = [Subprotocol(name) for name in self._subprotocols] or None
        protocol = ClientProtocol(self._uri, extensions=None, subprotocols=offered)
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
    """Return the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def list_elements(lines: Iterable[str]) -> list[str]:
    """Return the elements, in lower case, of a header that is a comma-separated list and came as `lines`.

    Lines of one header are one list (RFC 9110 §5.3), and empty elements do not count (§5.6.1.2).
    """
    elements = [element.strip(" \t") for element in ",".join(lines).lower().split(",")]
    return [element for element in elements if element]


def _split_head(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    first, *lines = head[:-4].decode("ascii").split("\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(":")
        headers.append((name, value.strip(" \t")))
    return first, headers


def _plain_headers(headers: HeaderLines, needed: frozenset[str]) -> dict[str, str] | None:
    """Return the `needed` headers; None if one of them occurs twice, or any header is not plain."""
    values: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in needed:
            if lower in values:
                return None
            values[lower] = value
        elif lower in _NOT_PLAIN:
            return None
    return values


def _upgrades(values: dict[str, str]) -> bool:
    return values.get("connection", "").lower() in ("upgrade", "keep-alive, upgrade")
