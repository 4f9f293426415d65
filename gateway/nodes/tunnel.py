# SPDX-License-Identifier: BSD-2-Clause
"""Two sockets of this process, each of which sends what comes on the other, until both have ended.

One is a carrier's, the other leads to the worker that has the call. Nothing is looked at. Back-pressure
passes through: while the one is not read, the other is not read here. So does the end: a carrier that has
ended its stream may go on to receive, and a side that was lost ends the other once that has the rest.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.media.direct_transport import HIGH_WATER_BYTES

LINGER_S: Final = 10.0
"""How long the one side may take to end after the other has."""

KEEPALIVE_IDLE_S: Final = 2
KEEPALIVE_INTERVAL_S: Final = 1
KEEPALIVE_PROBES: Final = 3
"""A machine at the other end of a tunnel that does not answer for five seconds is gone."""


def watch_far_end(transport: asyncio.BaseTransport) -> None:
    """Have the kernel find out that the machine at the other end of a connection is gone (tcp(7))."""
    connection = transport.get_extra_info("socket")
    options = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES) * 1000,
    }
    with suppress(OSError):  # it is no TCP socket, or has ended
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def far_end_has_left(transport: asyncio.BaseTransport) -> bool:
    """Return True if a connection that is not read, and on which nothing is expected, has ended.

    As after a time in which this process stood still: whoever has opened it waits no longer.
    """
    connection = transport.get_extra_info("socket")
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True  # its end, or of TLS the alert before it


class Tunnel:
    """A tunnel between two transports, neither of which is read yet.

    `passed`: bytes from the carrier, and to it.
    """

    def __init__(
        self,
        carrier: asyncio.Transport,
        owner: asyncio.Transport,
        early: bytes = b"",
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`early`: what has come from the owner already. `on_end`: called when `run` ends."""
        self._on_end = on_end
        self._from_carrier = _End(owner, may_half_close=True)
        self._from_owner = _End(
            carrier, may_half_close=False
        )  # who has the call ends both directions at once
        self._transports = (carrier, owner)
        carrier.set_protocol(self._from_carrier)
        owner.set_protocol(self._from_owner)
        for transport in self._transports:
            transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if early:
            self._from_owner.data_received(early)

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes that have come from the carrier, and from the owner."""
        return self._from_carrier.received, self._from_owner.received

    async def run(self) -> None:
        """Pass everything on until both sides have ended. If this is cancelled, both are ended."""
        self._from_carrier.resume_writing()
        self._from_owner.resume_writing()
        for transport, end in zip(self._transports, (self._from_carrier, self._from_owner), strict=True):
            if transport.is_closing():  # it was lost before there was a tunnel, and nobody would tell
                end.connection_lost(None)
        try:
            await asyncio.wait([self._from_carrier.lost, self._from_owner.lost])
        finally:
            self.close()
            self._on_end()

    def close(self) -> None:
        """End both sides now, and send what is on its way to them. May be called again."""
        for end in (self._from_carrier, self._from_owner):
            end.close_target()


class _End(asyncio.Protocol):
    """The protocol of the one side, whose bytes go to the transport of the other, the target."""

    def __init__(self, target: asyncio.Transport, *, may_half_close: bool) -> None:
        """`may_half_close`: this side may end its stream and go on to receive."""
        self._target = target
        self._may_half_close = may_half_close
        self.received = 0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def close_target(self) -> None:
        """Close the target once what was written to it is sent, and in LINGER_S at the latest."""
        if not self._target.is_closing():
            self._target.close()
        asyncio.get_running_loop().call_later(LINGER_S, self._target.abort)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._target.write(data)

    def eof_received(self) -> bool:
        """Pass the end of the stream on. Return True to keep the other direction open."""
        if not self._may_half_close or self._target.is_closing() or not self._target.can_write_eof():
            return False
        self._target.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, self.close_target)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
            self.close_target()

    # This side does not take more now: what comes on the other is left where it is.

    def pause_writing(self) -> None:
        if self._target.is_reading():
            self._target.pause_reading()

    def resume_writing(self) -> None:
        if not self._target.is_closing() and not self._target.is_reading():
            self._target.resume_reading()
