# SPDX-License-Identifier: BSD-2-Clause
"""Any head of a handshake: it is read as the `websockets` package reads it."""

from __future__ import annotations

from collections.abc import Callable

from websockets.uri import parse_uri

from gateway.websocket import handshake
from gateway.websocket.handshake import ClientHandshake, NotAWebSocketError, read_request

END = b"\r\n\r\n"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of RFC 6455 §1.3, so that the corpus can hold an answer to it."""

_client = ClientHandshake(parse_uri("ws://127.0.0.1:8080/ws"), [])
_client._key = KEY


def read(data: bytes) -> None:
    """Read `data` as a client's request, then as an agent's answer."""
    head = data.partition(END)[0] + END
    ours, theirs = read_request(head), handshake._read_request_by_package(head)
    assert (ours.target, list(ours.headers)) == (theirs.target, list(theirs.headers))
    assert (ours.accept, ours.fault) == (theirs.accept, theirs.fault)
    assert (ours.accept is None) == bool(ours.fault)
    ours.header("Authorization")
    assert _answered(_client.read_answer, head) == _answered(_client._read_answer_by_package, head)


def _answered(read: Callable[[bytes], str | None], head: bytes) -> tuple[str | None, str]:
    try:
        return read(head), ""
    except NotAWebSocketError as error:
        return None, str(error) or "refused"
