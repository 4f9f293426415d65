# SPDX-License-Identifier: BSD-2-Clause
"""Ports for programs that bind them a moment after they were chosen."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST, HIGHEST = 15_000, 30_000


def unasked_port() -> int:
    """A free port that the kernel gives to nobody who asks for just any, neither to listen nor to connect.

    One of those that it does give may be somebody else's by the time that the program binds it.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(LOWEST, min(HIGHEST, first)), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
    raise AssertionError("there is no free port")
