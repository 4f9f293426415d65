# SPDX-License-Identifier: BSD-2-Clause
"""Any head of a handshake: the plain case is judged as the `websockets` package judges it."""

from __future__ import annotations

from collections.abc import Callable

from websockets.uri import parse_uri

from gateway.websocket import handshake
from gateway.websocket.handshake import ClientHandshake, NotAWebSocketError, read_request

END = b"\r\n\r\n"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of RFC 6455 §1.3, so that the corpus can hold an answer to it."""

_asking = ClientHandshake(parse_uri("ws://127.0.0.1:8080/ws"), [])
_asking._key = KEY


def judge(data: bytes) -> None:
    """As a client's request, then as an agent's answer."""
    head = data.partition(END)[0] + END
    asked, judged = read_request(head), handshake._judged(head)
    assert (asked.target, list(asked.headers)) == (judged.target, list(judged.headers))
    assert (asked.accept, asked.fault) == (judged.accept, judged.fault)
    assert (asked.accept is None) == bool(asked.fault)
    asked.header("Authorization")
    assert _answered(_asking.read_answer, head) == _answered(_asking._judged, head)


def _answered(read: Callable[[bytes], str | None], head: bytes) -> tuple[str | None, str]:
    try:
        return read(head), ""
    except NotAWebSocketError as error:
        return None, str(error) or "refused"
