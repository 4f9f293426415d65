# SPDX-License-Identifier: BSD-2-Clause
"""One gateway takes the port over from another that runs, without a caller noticing (Linux).

    the new one listens on the same port → the kernel is told to give it every new connection →
    the old one is told → it takes what had come to it, closes its port, and carries its calls to their end

Sockets that share a port by SO_REUSEPORT are a group, in which the kernel chooses by a hash. A small program
attached to the group (socket(7), SO_ATTACH_REUSEPORT_CBPF) chooses instead: any of those that joined last.
Closing a port that connections still come to would reset some of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

HAND_OVER: Final = signal.SIGUSR2
"""Tells a running gateway that another has taken its port."""

STRAGGLERS_S: Final = 1.0
"""How long the old one goes on accepting: a connection whose handshake had begun with it comes to it."""

JOIN_LIMIT_S: Final = 30.0
POLL_S: Final = 0.05

_LISTEN: Final = "0A"  # proc_net_tcp(5)
_ATTACH: Final = getattr(socket, "SO_ATTACH_REUSEPORT_CBPF", 51)
_DETACH: Final = 68  # SO_DETACH_REUSEPORT_BPF

# linux/filter.h. The result is the number of a socket in its group, in the order in which they joined.
_LOAD_RANDOM: Final = (0x20, 0xFFFFF000 + 56)  # BPF_LD|BPF_W|BPF_ABS of SKF_AD_OFF + SKF_AD_RANDOM
_MODULO: Final = 0x94
_ADD: Final = 0x04
_RETURN: Final = (0x16, 0)


@dataclass(frozen=True, slots=True)
class Takeover:
    """`pid`: the gateway that runs. `old`, `new`: how many sockets listen for it, and will for us."""

    pid: int
    old: int
    new: int


def plan(pid: int, host_port: socket.socket, workers: int) -> Takeover:
    """What there is to take over, before anything of ours listens. Raises OSError, in words."""
    if not sys.platform.startswith("linux"):
        raise OSError("taking a port over works on Linux only")
    os.kill(pid, 0)  # raises where there is no such process, or not ours
    return Takeover(pid, listeners(host_port.getsockname()[1]), workers)


async def take(takeover: Takeover, port: socket.socket) -> None:
    """Done by one worker once it listens on `port`: steers the kernel and tells the old gateway."""
    number = port.getsockname()[1]
    everybody = takeover.old + takeover.new
    if not await _until(number, at_least=everybody):
        log.error("the port was not taken over: our workers do not all listen", pid=takeover.pid)
        return
    try:
        _steer(port, first=takeover.old, count=takeover.new)
        os.kill(takeover.pid, HAND_OVER)
    except OSError as error:
        log.error("the port was not taken over", pid=takeover.pid, error=error.strerror or str(error))
        return
    log.info("the port is taken over", pid=takeover.pid)
    # Those that are left choose by hash again: the numbers that the program gives are no longer theirs.
    if await _until(number, at_most=takeover.new):
        port.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def listeners(number: int) -> int:
    """How many sockets of this machine listen on a port."""
    found = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [row.split() for row in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        found += sum(row[1].endswith(f":{number:04X}") and row[3] == _LISTEN for row in rows)
    return found


async def _until(number: int, *, at_least: int = 0, at_most: int = 1 << 30) -> bool:
    for _ in range(int(JOIN_LIMIT_S / POLL_S)):
        if at_least <= listeners(number) <= at_most:
            return True
        await asyncio.sleep(POLL_S)
    return False


def _steer(port: socket.socket, *, first: int, count: int) -> None:
    """New connections go to the `count` sockets of the port's group that joined after `first` others."""
    steps = [_LOAD_RANDOM, (_MODULO, count), (_ADD, first), _RETURN]
    code = b"".join(struct.pack("HBBI", operation, 0, 0, value) for operation, value in steps)
    kept = ctypes.create_string_buffer(code)  # the kernel copies it in the call
    port.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(steps), ctypes.addressof(kept)))
