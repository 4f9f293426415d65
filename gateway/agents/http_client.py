# SPDX-License-Identifier: BSD-2-Clause
"""The HTTP client for the agents' own routes (docs/reference/agent-container.md)."""

from __future__ import annotations

import socket
from functools import partial
from typing import Final

import aiohttp

from gateway.dns.http_connector import open_connector

UNREAD_MARGIN_S: Final = 15
"""Seconds that the kernel waits beyond `stall_s` for an instance that does not read."""


def open_client(stall_s: float) -> aiohttp.ClientSession:
    """Open a client that adds nothing of its own and keeps nothing. The caller closes it.

    It keeps no cookies, which would pass from one caller to the next. It uses no connection twice, because an
    instance that is just closing one would lose a request that must not be sent again. It does not limit
    connections, because a request may be open for as long as its session runs.

    `stall_s`: seconds for which an instance may read nothing of a request. The kernel frees a connection that
    was given up for that reason, even if the instance never reads the rest.
    """
    unread_ms = int((stall_s + UNREAD_MARGIN_S) * 1000)
    return aiohttp.ClientSession(
        connector=open_connector(limit=0, force_close=True, socket_factory=partial(_socket, unread_ms)),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )


def _socket(unread_ms: int, address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, proto, _, _ = address
    made = socket.socket(family, kind, proto)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
    return made
