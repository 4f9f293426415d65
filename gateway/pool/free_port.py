# SPDX-License-Identifier: BSD-2-Clause
"""Ports for instances: each in turn, so that one is not given again soon after."""

from __future__ import annotations

import errno
import socket
from collections.abc import Container


class FreePorts:
    """The ports of one node. It may block for the time of a few system calls."""

    def __init__(self) -> None:
        """Begin with the first port of each range."""
        self._next: dict[range, int] = {}

    def find(self, ports: range, taken: Container[int]) -> int | None:
        """Return a port that nothing listens on, None if there is none. `taken`: by instances."""
        begin = self._next.get(ports, 0)
        for step in range(len(ports)):
            index = (begin + step) % len(ports)
            port = ports[index]
            if port not in taken and _is_free(port):
                self._next[ports] = (index + 1) % len(ports)
                return port
        return None


def _is_free(port: int) -> bool:
    """Return True if nothing is bound to the port at any address."""
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - not listened on
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((host, port))
        except OSError as error:
            if family == socket.AF_INET or error.errno == errno.EADDRINUSE:
                return False  # else this machine has no IPv6
    return True
