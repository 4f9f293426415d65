# SPDX-License-Identifier: BSD-2-Clause
"""Tells a service manager that the gateway is ready, and that it lives (sd_notify(3), systemd.service(5)).

The process that was started reports: a single worker from its event loop, the parent of several from its own
loop, which in turn watches the workers. So whichever stands still is noticed by somebody. Without the
manager's variables in the environment nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Final

import structlog

log = structlog.get_logger(__name__)

MIN_INTERVAL_S: Final = 0.25
"""Least time between two reports that the gateway lives; the manager expects seconds."""

_ADDRESS: Final = "NOTIFY_SOCKET"
_PERIOD: Final = "WATCHDOG_USEC"
_PROCESS: Final = "WATCHDOG_PID"


class ServiceManager:
    """The service manager of this process, or none. For one thread."""

    def __init__(
        self, address: str = "", *, watches: bool = False, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`address`: of a Unix datagram socket, with `@` in front of an abstract one; "" for no manager.

        `watches`: it expects reports that the gateway lives. `now`: seconds of a clock that does not go back.
        """
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watches = watches
        self._now = now
        self._next_report = 0.0
        self._is_ready = False
        self._knows_ready = False
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def of_this_process(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """Return the manager that started this process. Remove its variables: children have none of them."""
        address = environment.pop(_ADDRESS, "")
        period, process = environment.pop(_PERIOD, ""), environment.pop(_PROCESS, "")
        watches = period.isdigit() and int(period) > 0 and process in ("", str(os.getpid()))
        return cls(address, watches=watches)

    def report_ready(self) -> None:
        """Report that every worker listens."""
        self._is_ready = True
        self._knows_ready = self._send(b"READY=1")

    def report_alive(self) -> None:
        """Report that the loop of this process turns. Call it about twice a second, or more often.

        Before the gateway is ready the manager has another limit of time, and hears nothing.
        """
        if self._socket is None or not self._is_ready:
            return
        if not self._knows_ready:
            self.report_ready()
        now = self._now()
        if self._watches and now >= self._next_report:
            self._next_report = now + MIN_INTERVAL_S
            self._send(b"WATCHDOG=1")

    def close(self) -> None:
        """Report nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: bytes) -> bool:
        """Send a message. Return False if the manager has too many to read."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(message, self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            with suppress(OSError):
                self.close()
            log.warning("the service manager is not told any more", error=error.strerror or str(error))
        return True
