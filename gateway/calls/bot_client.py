# SPDX-License-Identifier: BSD-2-Clause
"""The HTTP client for `POST /bot`, whose requests are open for as long as their sessions run."""

from __future__ import annotations

import socket
from contextvars import ContextVar
from typing import Any, Final

import aiohttp

from gateway.dns.http_connector import open_connector

KEEPALIVE_IDLE_S: Final = 30
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 3
"""TCP keep-alive: an agent's machine that vanishes is noticed within a minute, though a bot is silent for
hours.
"""


def bot_http_client() -> aiohttp.ClientSession:
    """Open a client as `BotSessions` needs it. Call it inside the event loop; the caller closes it.

    Requests are open for hours, so connections are not limited. None is used twice, because an idle
    connection may be closed by the agent just when it is used again. No cookie passes between sessions.
    """
    connector = open_connector(limit=0, force_close=True, socket_factory=_keepalive_socket)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
    )


opened_sockets: ContextVar[list[socket.socket]] = ContextVar("opened_sockets")
"""The sockets that are made for the present session's request."""


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    if (opened := opened_sockets.get(None)) is not None:
        opened.append(made)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # Linux; elsewhere the system's own times hold
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    return made
