# SPDX-License-Identifier: BSD-2-Clause
"""Free TCP ports for servers that bind them a moment after they were chosen."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

LOWEST, HIGHEST = 15_000, 30_000

EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Ports that the kernel gives to sockets that ask for any (ip(7)); Linux only."""

ATTEMPTS = 100


def free_port() -> int:
    """Return a free port of 127.0.0.1, below the range that the kernel gives to sockets that ask for any.

    A port of that range could belong to another socket by the time that the server binds it. Raises OSError
    if no port is free.
    """
    first_ephemeral = int(EPHEMERAL_RANGE.read_text().split()[0]) if EPHEMERAL_RANGE.exists() else HIGHEST
    for port in random.sample(range(LOWEST, min(HIGHEST, first_ephemeral)), ATTEMPTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST}")
