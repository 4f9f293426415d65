# SPDX-License-Identifier: BSD-2-Clause
"""The HTTP client for the agents' own routes (docs/reference/agent-container.md)."""

from __future__ import annotations

import socket
from functools import partial
from typing import Final

import aiohttp

UNREAD_MARGIN_S: Final = 15
"""By how much the kernel is more patient than we are with an instance that does not read."""


def open_client(stall_s: float) -> aiohttp.ClientSession:
    """A client that adds nothing of its own and remembers nothing; to be closed.

    No cookies are kept: they would go from one caller to the next. Connections are not kept either, since
    one that the instance is just closing would lose a request that cannot be sent twice. There is no limit
    to them: a request may be held open for as long as its session runs.

    `stall_s`: how long an instance may take nothing of what it is sent; a connection that was given up then
    is freed soon after, also where the instance never reads the rest.
    """
    unread_ms = int((stall_s + UNREAD_MARGIN_S) * 1000)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=partial(_socket, unread_ms)),
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
