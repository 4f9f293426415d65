# SPDX-License-Identifier: BSD-2-Clause
"""The control socket of a running gateway: another one asks it to leave its port (docs/decisions/0031).

    the new gateway connects                the old one sends its address, or why it cannot be replaced
    its workers listen; it sends LEAVE      the old one sends LEAVING, and leaves the port

The name is made from the process id, so that `--replace PID` finds it; the kernel says whose it is. It is an
abstract Unix socket (unix(7)): it ends with its process, it needs no file and no store, and it lives in the
network namespace, as the port does. The connection reserves the old gateway for the new one, until it is
closed: a second one that comes meanwhile is refused. No signal is sent to anybody.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway import __version__
from gateway.model.unix_peer import peer_of

log = structlog.get_logger(__name__)

POSSIBLE: Final = sys.platform.startswith("linux")

ANSWER_S: Final = 10.0
"""How long the new gateway waits for each answer of the old one."""

MAX_BYTES: Final = 4096

LEAVE: Final = b"leave"
LEAVING: Final = b"leaving"

_BACKLOG: Final = 8
_PAUSE_S: Final = 1.0
"""Pause after a connection that was not taken, so that nobody fills the log."""


class GatewayDescription(msgspec.Struct, frozen=True):
    """First message of the old gateway. `address`: as in "127.0.0.1:7860".

    `refused`: why it cannot be replaced now, as a clause about it; empty if it can.
    """

    version: str
    address: str
    refused: str = ""


class ReplaceRefusedError(Exception):
    """A gateway that is not replaced; the message is a sentence for the operator. Nothing was changed."""


def control_name(pid: int) -> str:
    """Return the name of a gateway's control socket. Gateways of containers may share a network, and pids."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"\0patchbay/gateway/{namespace}/{pid}"


class ControlSocket:
    """The control socket of this process, served by a thread that sleeps until somebody connects."""

    def __init__(self, address: str, on_leave: Callable[[], None]) -> None:
        """`address`: where this gateway listens. `on_leave`: called once, in the thread; leaves the port."""
        self._address = address
        self._on_leave = on_leave
        self._listener: socket.socket | None = None
        self._stopper, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="control-socket", daemon=True)
        self._replacing: socket.socket | None = None
        """The connection of the gateway for which this one is reserved."""
        self._replacing_pid = 0
        self._has_left = False

    def start(self) -> None:
        """Start to listen; only log a warning if that cannot be done."""
        if not POSSIBLE or self._listener is not None:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(control_name(os.getpid()))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            log.warning("this gateway cannot be replaced while it runs", error=error.strerror or str(error))
            return
        self._listener = listener
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and wait until the thread has ended."""
        self._stopper.close()
        if self._listener is not None:
            self._thread.join()
            self._listener.close()
        self._stopped.close()

    def _run(self) -> None:
        assert self._listener is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, self._accept)
            selector.register(self._stopped, selectors.EVENT_READ, None)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        self._release(selector)
                        return
                    key.data(selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:  # no descriptor is free, or the other has left again
            self._stopped_within(_PAUSE_S)
            return
        peer = peer_of(connection)
        if not peer.is_same_user:
            connection.close()
            log.warning("a process of another user may not replace this gateway", pid=peer.pid)
            self._stopped_within(_PAUSE_S)
            return
        refused = self._why_refused()
        description = GatewayDescription(__version__, self._address, refused)
        connection.setblocking(False)
        try:
            connection.send(msgspec.json.encode(description))
        except OSError:
            connection.close()
            return
        if refused:
            connection.close()
            return
        self._replacing, self._replacing_pid = connection, peer.pid
        selector.register(connection, selectors.EVENT_READ, self._serve)
        log.info("another gateway is about to take the port", pid=peer.pid)

    def _why_refused(self) -> str:
        if self._has_left:
            return "has left its port already"
        if self._replacing is not None:
            return f"is being replaced by process {self._replacing_pid} already"
        return ""

    def _serve(self, selector: selectors.BaseSelector) -> None:
        assert self._replacing is not None
        try:
            message = self._replacing.recv(MAX_BYTES)
            if message == LEAVE:
                self._replacing.send(LEAVING)  # fails if the other has given up: then nobody has the port
        except OSError:
            message = b""
        pid = self._replacing_pid
        self._release(selector)
        if message == LEAVE:
            self._has_left = True
            log.info("another gateway has taken the port", pid=pid)
            self._on_leave()
        else:
            log.warning("the other gateway has not taken the port", pid=pid)

    def _release(self, selector: selectors.BaseSelector) -> None:
        if self._replacing is not None:
            selector.unregister(self._replacing)
            self._replacing.close()
            self._replacing = None

    def _stopped_within(self, seconds: float) -> None:
        """Sleep, but no longer than until `stop`; which the loop then finds for itself."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stopped, selectors.EVENT_READ)
            selector.select(seconds)


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A running gateway that is reserved for this process, until `close`."""

    pid: int
    version: str
    address: str
    connection: socket.socket

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or is about to: it has closed the connection."""
        self.connection.setblocking(False)  # Python would wait for a socket with a timeout
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def leave_port(self) -> bool:
        """Ask it to leave the port, which this process listens on now. Return False if it has gone instead.

        Blocks for ANSWER_S at most. Raises ReplaceRefusedError if it does not answer; it will not leave then.
        """
        self.connection.settimeout(ANSWER_S)
        try:
            self.connection.send(LEAVE)
            return self.connection.recv(MAX_BYTES) == LEAVING
        except TimeoutError:
            self.connection.close()  # before anybody reads the request, which has no effect then
            raise ReplaceRefusedError(f"process {self.pid} does not answer") from None
        except OSError:
            return False

    def close(self) -> None:
        """Let it go on, unless it was asked to leave."""
        self.connection.close()


def reserve_gateway(pid: int) -> RunningGateway:
    """Reserve the running gateway with this process id.

    Raises ReplaceRefusedError, and has then touched nothing.
    """
    if not POSSIBLE:
        raise ReplaceRefusedError("taking a port over works on Linux only")
    if pid <= 0:
        raise ReplaceRefusedError(f"{pid} is no process id")
    if pid == os.getpid():
        raise ReplaceRefusedError(f"{pid} is this process itself")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(ANSWER_S)
        return _reserve(pid, connection)
    except BaseException:
        connection.close()
        raise


def _reserve(pid: int, connection: socket.socket) -> RunningGateway:
    try:
        connection.connect(control_name(pid))
    except OSError:
        raise ReplaceRefusedError(_why_not(pid)) from None
    peer = peer_of(connection)
    if not peer.is_same_user:
        raise ReplaceRefusedError(f"process {pid} belongs to another user")
    if peer.pid != pid:
        raise ReplaceRefusedError(f"process {pid} is no Patchbay: process {peer.pid} answers for it")
    try:
        described = msgspec.json.decode(connection.recv(MAX_BYTES), type=GatewayDescription)
    except (OSError, msgspec.DecodeError):
        raise ReplaceRefusedError(f"process {pid} is a Patchbay, and does not answer") from None
    if described.refused:
        raise ReplaceRefusedError(f"process {pid} {described.refused}")
    return RunningGateway(pid, described.version, described.address, connection)


def _why_not(pid: int) -> str:
    """Return why nobody listens under the name of a process, as a sentence."""
    with suppress(OSError, OverflowError):
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            return f"process {pid} belongs to another user"
        return (
            f"process {pid} is no Patchbay that can be replaced: it is another program, one of its workers, "
            "starting or stopping, or of a version that could not be asked"
        )
    return f"there is no process {pid}"
