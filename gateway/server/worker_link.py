# SPDX-License-Identifier: BSD-2-Clause
"""The two ends between a worker and the process that started it, and what stands in for them in a single
worker.

A child process and its parent have a pair of connected sockets. Each message is one byte; a connection that
the parent has accepted for the worker comes with its byte (unix(7), SCM_RIGHTS), and so does a file with
another configuration. The end of one process is the end of its socket, which the other sees at once, whatever
the signal was.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final, Protocol

from gateway.config import Settings
from gateway.server.configuration_source import ConfigurationSource
from gateway.server.port_ownership import PortOwnership
from gateway.server.service_manager import ServiceManager

# From the parent.
LEAVE_PORT: Final = b"L"
CLOSE_PORT: Final = b"P"
CONNECTION: Final = b"C"
SETTINGS: Final = b"S"

# From the worker.
ALIVE: Final = b"A"
DRAINING: Final = b"D"
ENDING: Final = b"E"
TAKEN_OVER: Final = b"T"
TAKEOVER_FAILED: Final = b"F"

MAX_MESSAGES: Final = 4096
"""How many messages of a worker are read at a time."""


@dataclass(frozen=True, slots=True)
class WorkerCallbacks:
    """The functions of a worker that its parent calls, in the event loop of the worker.

    `leave_port`: another gateway has it. `close_port`: another worker of this gateway serves the same socket.
    `take_connection` gets a connection that was accepted for it, `take_settings` a function that returns
    the settings to go on with, and may block.
    """

    leave_port: Callable[[], None]
    close_port: Callable[[], None]
    take_connection: Callable[[socket.socket], None]
    take_settings: Callable[[Callable[[], Settings]], None]
    parent_lost: Callable[[], None]


class WorkerParent(Protocol):
    """Whom a worker reports to.

    `passes_interrupts`: SIGINT is handled there, and passed on as what it means. `source`: where this process
    reads the configuration again; None if whoever started it does.
    """

    passes_interrupts: bool
    source: ConfigurationSource | None

    def start(self, callbacks: WorkerCallbacks) -> None:
        """Call these from now on. Call it in the running loop."""

    def report_alive(self) -> None:
        """Report that the worker listens, and that its loop turns. Call it about twice a second."""

    def report_draining(self) -> None:
        """Report that the worker refuses new calls from now on."""

    def report_ending(self) -> None:
        """Report that the worker closes its connections and ends, and will not report any more."""

    def report_takeover(self, *, succeeded: bool) -> None:
        """Report how the takeover of the port, which this worker carried out, has ended."""

    def stop(self) -> None:
        """Call nothing any more."""


class SoleProcess:
    """The `WorkerParent` of a worker that runs in the gateway's only process."""

    passes_interrupts = False

    def __init__(
        self, ownership: PortOwnership, manager: ServiceManager, source: ConfigurationSource | None
    ) -> None:
        """`manager`: whatever started the process; nobody else watches it."""
        self._ownership = ownership
        self._manager = manager
        self.source = source

    def start(self, callbacks: WorkerCallbacks) -> None:
        loop = asyncio.get_running_loop()

        def leave() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(callbacks.leave_port)

        self._ownership.start(leave)

    def report_alive(self) -> None:
        self._ownership.all_listen()
        self._manager.report_alive()

    def report_draining(self) -> None:
        pass

    def report_ending(self) -> None:
        pass

    def report_takeover(self, *, succeeded: bool) -> None:
        if succeeded:
            self._ownership.taken_over()

    def stop(self) -> None:
        self._ownership.close()


class ParentProcess:
    """The `WorkerParent` of a worker that is a child process."""

    passes_interrupts = True
    source: ConfigurationSource | None = None

    def __init__(self, channel: socket.socket) -> None:
        """`channel`: the worker's end."""
        self._channel = channel
        channel.setblocking(False)
        self._callbacks: WorkerCallbacks | None = None

    def start(self, callbacks: WorkerCallbacks) -> None:
        self._callbacks = callbacks
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._receive)

    def report_alive(self) -> None:
        self._send(ALIVE)

    def report_draining(self) -> None:
        self._send(DRAINING)

    def report_ending(self) -> None:
        self._send(ENDING)

    def report_takeover(self, *, succeeded: bool) -> None:
        self._send(TAKEN_OVER if succeeded else TAKEOVER_FAILED)

    def stop(self) -> None:
        if self._callbacks is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._callbacks = None

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # the parent has died, or stands still and does not read
            self._channel.send(message)

    def _receive(self) -> None:
        callbacks = self._callbacks
        assert callbacks is not None
        try:
            message, files, _, _ = socket.recv_fds(self._channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            message, files = b"", []
        if files and message == SETTINGS:
            callbacks.take_settings(partial(_read_settings, files[0]))
        elif files:
            callbacks.take_connection(socket.socket(fileno=files[0]))
        elif message == LEAVE_PORT:
            callbacks.leave_port()
        elif message == CLOSE_PORT:
            callbacks.close_port()
        elif not message:
            self.stop()
            callbacks.parent_lost()


def settings_file(settings: Settings) -> BinaryIO:
    """Write the settings to a file without a name, for `WorkerChannel.pass_settings`. Raises OSError."""
    if hasattr(os, "memfd_create"):  # Linux: in memory
        file: BinaryIO = os.fdopen(os.memfd_create("settings"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(pickle.dumps(settings))
    file.flush()
    return file


def _read_settings(fd: int) -> Settings:
    """Read the settings of `settings_file`, at an offset of this process's own, and close the file."""
    try:
        content = os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
    settings = pickle.loads(content)  # noqa: S301 - from the parent, which started this process so as well
    assert isinstance(settings, Settings)
    return settings


class WorkerChannel:
    """The parent's end of the pair."""

    def __init__(self) -> None:
        """Create the pair; `worker_end` goes to the child, and is closed here once it has it."""
        self._channel, self.worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel.setblocking(False)
        self.is_open = True
        """Whether the worker has its end still."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._channel.fileno()

    def receive(self) -> bytes:
        """Return the messages that have come, one byte each; b"" if there are none."""
        messages = b""
        try:
            messages = self._channel.recv(MAX_MESSAGES)
            self.is_open = bool(messages)
        except BlockingIOError:
            pass
        except OSError:
            self.is_open = False
        return messages

    def leave_port(self) -> None:
        """Tell the worker to leave the port, which another gateway has."""
        with suppress(OSError):  # it has died
            self._channel.send(LEAVE_PORT)

    def close_port(self) -> None:
        """Tell the worker to close its socket, which another worker serves."""
        with suppress(OSError):
            self._channel.send(CLOSE_PORT)

    def pass_connection(self, connection: socket.socket) -> bool:
        """Give a copy of an accepted connection to the worker. Return False if it does not take it."""
        try:
            socket.send_fds(self._channel, [CONNECTION], [connection.fileno()])
        except OSError:
            return False
        return True

    def pass_settings(self, file: BinaryIO) -> bool:
        """Give the settings in a `settings_file` to the worker. Return False if it cannot take them now."""
        try:
            socket.send_fds(self._channel, [SETTINGS], [file.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close both ends."""
        self._channel.close()
        self.worker_end.close()
