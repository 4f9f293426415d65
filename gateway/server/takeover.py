# SPDX-License-Identifier: BSD-2-Clause
"""One gateway takes the port over from another that is running, without a refused or cut call (Linux).

    the old gateway agrees (control_socket.py) → the new one listens on the same port → the kernel sends every
    new connection to it → it asks the old one to leave, which accepts what is on its way, closes its port,
    and carries its calls to their end

Sockets that share a port by SO_REUSEPORT are a group, in which the kernel chooses by a hash. A small BPF
program that is attached to the group (socket(7), SO_ATTACH_REUSEPORT_CBPF) chooses instead, at random among
the sockets that joined last. Without it the old gateway's sockets would still get connections when they are
closed, and some of those would be reset. What the old gateway does is in worker_state.py.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from gateway.server.control_socket import ReplaceRefusedError, RunningGateway, reserve_gateway
from gateway.server.port import address_of

log = structlog.get_logger(__name__)

GRACE_S: Final = 1.0
"""Length of a grace period of the old gateway: a connection whose handshake began with it still comes to it.
"""

JOIN_TIMEOUT_S: Final = 120.0
"""How long all workers of the new gateway may take to listen, and then the old ones to leave."""

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

    `old`: the old gateway, reserved. `old_listeners`: how many sockets listen on the port for it.
    `new_listeners`: how many will for the new gateway, one a worker.
    """

    old: RunningGateway
    old_listeners: int
    new_listeners: int


def reserve(pid: int, configured: str) -> RunningGateway:
    """Reserve the gateway with this process id. `configured`: host and port of the configuration.

    Raises ReplaceRefusedError.
    """
    if configured.endswith(":0"):
        raise ReplaceRefusedError(
            "the configuration takes any free port (port = 0), so there is none to take over"
        )
    return reserve_gateway(pid)


def plan_takeover(old: RunningGateway, port: socket.socket, workers: int) -> Takeover:
    """Count the old gateway's sockets. Call it before a worker of the new gateway listens.

    `port`: bound to the port that is taken over. Raises ReplaceRefusedError if the old gateway has another.
    """
    ours = address_of(port)
    if old.address != ours:
        raise ReplaceRefusedError(
            f"process {old.pid} is a Patchbay on {old.address}, and the configuration says {ours}"
        )
    return Takeover(old, count_listeners(port.getsockname()), workers)


async def take_port(takeover: Takeover, port: socket.socket) -> bool:
    """Steer the kernel to the new sockets, and ask the old gateway to leave. Run by one worker, listening on
    `port`.

    Return False, after a line in the log, if the port was not taken over: the old gateway goes on then.
    """
    with takeover.old.connection:
        return await _take_port(takeover, port)


async def _take_port(takeover: Takeover, port: socket.socket) -> bool:
    old, address = takeover.old, port.getsockname()
    all_sockets = takeover.old_listeners + takeover.new_listeners
    if not await _eventually(lambda: count_listeners(address) >= all_sockets or old.is_gone):
        log.error("the port was not taken over", pid=old.pid, error="our workers do not all listen")
        return False
    try:
        _attach_program(port, first=takeover.old_listeners, count=takeover.new_listeners)
        has_agreed = await asyncio.to_thread(old.leave_port)
    except (OSError, ReplaceRefusedError) as error:
        _detach_program(port)
        log.error("the port was not taken over", pid=old.pid, error=str(error))
        return False
    log.info("the port is taken over", pid=old.pid, drains=has_agreed)
    # Once the old sockets are closed the program's indexes are wrong: the kernel chooses by hash again.
    if await _eventually(lambda: count_listeners(address) <= takeover.new_listeners):
        _detach_program(port)
    else:
        log.warning("the old gateway has not left the port", pid=old.pid)
    return True


def count_listeners(address: tuple[str, int]) -> int:
    """Return how many sockets of this machine listen on an address, as `getsockname` returns it."""
    text = _as_in_proc(address)
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [row.split() for row in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        count += sum(row[1] == text and row[3] == _LISTEN for row in rows)
    return count


def _as_in_proc(address: tuple[str, int]) -> str:
    """Return an address as proc_net_tcp(5) has it: words of 32 bits in the machine's order, and the port."""
    host = address[0].partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


async def _eventually(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds. Return False if it does not within JOIN_TIMEOUT_S."""
    for _ in range(int(JOIN_TIMEOUT_S / POLL_S)):
        if condition():
            return True
        await asyncio.sleep(POLL_S)
    return False


def _attach_program(port: socket.socket, *, first: int, count: int) -> None:
    """Send new connections to the `count` sockets of the port's group that joined after the `first` ones."""
    steps = [_LOAD_RANDOM, (_MODULO, count), (_ADD, first), _RETURN]
    code = b"".join(struct.pack("HBBI", operation, 0, 0, value) for operation, value in steps)
    buffer = ctypes.create_string_buffer(code)  # the kernel copies it within the call
    port.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(steps), ctypes.addressof(buffer)))


def _detach_program(port: socket.socket) -> None:
    with suppress(OSError):  # there is none
        port.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
