# SPDX-License-Identifier: BSD-2-Clause
"""Checks of a request's head that the parser does not make. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.websocket.handshake import list_elements

_HOST: Final = re.compile(rb"[!$&'()*+,;=%0-9A-Za-z._~:\[\]-]*")
"""Characters of a host with a port (RFC 3986 §3.2.2, §3.2.3)."""


class HeadTooLarge(Exception):  # noqa: N818 - never leaves the parser
    """Raised in a callback of the parser to make it fail."""


class FaultyHead(Exception):  # noqa: N818 - never leaves the parser
    """Raised in a callback of the parser to make it fail; `HttpProtocol._fault` says why."""


class TooManyRequests(Exception):  # noqa: N818 - never leaves the parser
    """Raised in a callback of the parser to make it fail."""


def head_fault(version: str, headers: Sequence[tuple[bytes, bytes]], *, is_upgrade: bool) -> str:
    """Return what is wrong with a head, in words for its sender; "" if it is good.

    A server must refuse a request without Host, with several, or with one that is none (RFC 9112 §3.2): a
    proxy in front may have read another one. `version`: "1.1". `headers`: names in lower case. `is_upgrade`:
    the request asks for a WebSocket, which needs HTTP/1.1 and Host (RFC 6455 §4.2.1).
    """
    hosts = [value for name, value in headers if name == b"host"]
    is_old = version == "1.0"
    fault = ""
    if not is_old and version != "1.1":
        fault = "the request is not HTTP/1.1"
    elif len(hosts) > 1:
        fault = "the request has more than one Host"
    elif not hosts and not is_old:
        fault = "the request has no Host"
    elif hosts and not _HOST.fullmatch(hosts[0]):
        fault = "the request's Host is no host"
    elif is_old and is_upgrade:
        fault = "a WebSocket needs HTTP/1.1"
    elif is_old and any(name == b"transfer-encoding" for name, _ in headers):
        fault = "HTTP/1.0 has no Transfer-Encoding"  # RFC 9112 §6.1
    return fault


def names_websocket(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return True if one of the protocols in `Upgrade` is WebSocket (RFC 9110 §7.8)."""
    lines = [value.decode("latin-1") for name, value in headers if name == b"upgrade"]
    return "websocket" in list_elements(lines)
