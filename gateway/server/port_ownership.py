# SPDX-License-Identifier: BSD-2-Clause
"""The time in which this process has its port: alone while it starts, open to replacement while it serves."""

from __future__ import annotations

import socket
from collections.abc import Callable

from gateway.server.control_socket import ControlSocket


class PortOwnership:
    """A lock on the port until this gateway listens, then the control socket. For the main thread."""

    def __init__(
        self,
        address: str,
        lock: socket.socket | None,
        on_listening: Callable[[], None],
        *,
        is_takeover: bool,
    ) -> None:
        """`address`: as in "127.0.0.1:7860". `lock`: of port.start_lock; None if the port is taken over.

        `on_listening`: is called once, when every worker listens. `is_takeover`: this gateway cannot be
        replaced before it has taken the port over itself.
        """
        self._on_listening = on_listening
        self._address = address
        self._lock = lock
        self._is_takeover = is_takeover
        self._is_listening = False
        self._on_leave: Callable[[], None] | None = None
        self._control: ControlSocket | None = None

    def start(self, on_leave: Callable[[], None]) -> None:
        """Set what is called, in another thread, when another gateway has taken the port."""
        self._on_leave = on_leave

    def all_listen(self) -> None:
        """Note that every worker listens. It may be called again."""
        if self._is_listening:
            return
        self._is_listening = True
        if self._lock is not None:
            self._lock.close()
        if not self._is_takeover:
            self._open()
        self._on_listening()

    def taken_over(self) -> None:
        """Note that the takeover has succeeded."""
        self._open()

    def close(self) -> None:
        """Give everything up that is still held."""
        if self._lock is not None:
            self._lock.close()
        if self._control is not None:
            self._control.stop()
            self._control = None

    def _open(self) -> None:
        assert self._on_leave is not None
        self._control = ControlSocket(self._address, self._on_leave)
        self._control.start()
