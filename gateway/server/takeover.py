# SPDX-License-Identifier: BSD-2-Clause
"""One gateway takes the port over from another that is running, without a refused or cut call (Linux).

    the new gateway listens on the same port → the kernel sends every new connection to it → the old gateway
    gets HAND_OVER → it accepts what is on its way, closes its port, and carries its calls to their end

Sockets that share a port by SO_REUSEPORT are a group, in which the kernel chooses by a hash. A small BPF
program that is attached to the group (socket(7), SO_ATTACH_REUSEPORT_CBPF) chooses instead, at random among
the sockets that joined last. Without it the old gateway's sockets would still get connections when they are
closed, and some of those would be reset. What the old gateway does is in worker_state.py.
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
"""The signal that tells a running gateway that another has taken its port."""

GRACE_S: Final = 1.0
"""Length of a grace period of the old gateway: a connection whose handshake began with it still comes to it.
"""

JOIN_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.05

_LISTEN: Final = "0A"  # proc_net_tcp(5)
_ATTACH: Final = getattr(socket, "SO_ATTACH_REUSEPORT_CBPF", 51)
_DETACH: Final = 68  # SO_DETACH_REUSEPORT_BPF

# linux/filter.h. The program returns the index of a socket in its group, in the order in which they joined.
_LOAD_RANDOM: Final = (0x20, 0xFFFFF000 + 56)  # BPF_LD|BPF_W|BPF_ABS of SKF_AD_OFF + SKF_AD_RANDOM
_MODULO: Final = 0x94
_ADD: Final = 0x04
_RETURN: Final = (0x16, 0)


@dataclass(frozen=True, slots=True)
class Takeover:
    """A planned takeover.

    `pid`: the process id of the old gateway. `old_listeners`: how many sockets listen on the port for it.
    `new_listeners`: how many will for the new gateway, one a worker.
    """

    pid: int
    old_listeners: int
    new_listeners: int


def plan_takeover(pid: int, port: socket.socket, workers: int) -> Takeover:
    """Count the old gateway's sockets. Call it before a worker of the new gateway listens.

    `port`: bound to the port that is taken over. Raises OSError, with a sentence, if the system is not Linux,
    or if there is no such process or it belongs to another user.
    """
    if not sys.platform.startswith("linux"):
        raise OSError("taking a port over works on Linux only")
    os.kill(pid, 0)  # signal 0 only checks that the process exists and may be signalled
    return Takeover(pid, count_listeners(port.getsockname()[1]), workers)


async def take_port(takeover: Takeover, port: socket.socket) -> None:
    """Steer the kernel to the new sockets, and signal the old gateway. Run by one worker, listening on
    `port`.

    A failure is logged; both gateways then share the port.
    """
    number = port.getsockname()[1]
    if not await _wait_for_listeners(number, at_least=takeover.old_listeners + takeover.new_listeners):
        log.error("the port was not taken over: our workers do not all listen", pid=takeover.pid)
        return
    try:
        _attach_program(port, first=takeover.old_listeners, count=takeover.new_listeners)
        os.kill(takeover.pid, HAND_OVER)
    except OSError as error:
        log.error("the port was not taken over", pid=takeover.pid, error=error.strerror or str(error))
        return
    log.info("the port is taken over", pid=takeover.pid)
    # Once the old sockets are closed the program's indexes are wrong: the kernel chooses by hash again.
    if await _wait_for_listeners(number, at_most=takeover.new_listeners):
        port.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def count_listeners(port_number: int) -> int:
    """Return how many sockets of this machine listen on a port."""
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [row.split() for row in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        count += sum(row[1].endswith(f":{port_number:04X}") and row[3] == _LISTEN for row in rows)
    return count


async def _wait_for_listeners(port_number: int, *, at_least: int = 0, at_most: int = 1 << 30) -> bool:
    """Wait until the number of listening sockets is within the bounds. False after JOIN_TIMEOUT_S."""
    for _ in range(int(JOIN_TIMEOUT_S / POLL_S)):
        if at_least <= count_listeners(port_number) <= at_most:
            return True
        await asyncio.sleep(POLL_S)
    return False


def _attach_program(port: socket.socket, *, first: int, count: int) -> None:
    """Send new connections to the `count` sockets of the port's group that joined after the `first` ones."""
    steps = [_LOAD_RANDOM, (_MODULO, count), (_ADD, first), _RETURN]
    code = b"".join(struct.pack("HBBI", operation, 0, 0, value) for operation, value in steps)
    buffer = ctypes.create_string_buffer(code)  # the kernel copies it within the call
    port.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(steps), ctypes.addressof(buffer)))
