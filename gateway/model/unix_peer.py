# SPDX-License-Identifier: BSD-2-Clause
"""The process at the other end of a Unix socket, as the kernel reports it (unix(7), SO_PEERCRED)."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

_CREDENTIALS: Final = struct.Struct("iII")  # pid, user, group


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process that connected, or that listens. `pid`: 0 if it is in a PID namespace we cannot see."""

    pid: int
    user: int

    @property
    def is_same_user(self) -> bool:
        """Whether the process runs as the same user as this one."""
        return self.user == os.geteuid()


def peer_of(connection: socket.socket) -> UnixPeer:
    """Return the process at the other end. Linux only. Raises OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(raw)
    return UnixPeer(pid, user)
