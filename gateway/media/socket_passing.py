# SPDX-License-Identifier: BSD-2-Clause
"""Hands an open socket from one worker to another through the kernel (unix(7), SCM_RIGHTS).

A worker listens on an abstract Unix socket, whose name ends with the process. Another worker sends it an open
socket with a message in one packet, and receives one byte as the answer. Only processes of the same user are
accepted on either side. Abstract names exist on Linux only; elsewhere no socket is ever handed over.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Final

import structlog

from gateway.model.unix_peer import peer_of

log = structlog.get_logger(__name__)

POSSIBLE: Final = sys.platform == "linux"

MAX_BYTES: Final = 128 * 1024
"""The largest message with a socket. The kernel sends a message of this size in one piece or not at all."""

ANSWER_S: Final = 2.0
"""How long the receiver of a socket has for its answer, and how long the sender waits for it."""

PAUSE_S: Final = 1.0
"""How long to accept nothing when no descriptor is left; less than the sender waits."""

_BACKLOG: Final = 16
_YES: Final = b"\1"
_NO: Final = b"\0"

TakeSocket = Callable[[socket.socket, bytes], Awaitable[bool]]
"""Receives a socket and its message. Returns True if it takes the socket; otherwise it closes its copy, and
returns False, or raises SocketReturnedError if it has read something."""


class SocketReturnedError(Exception):
    """A receiver does not take a socket of which it has read `data`, which goes back to the sender."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class PassResult(Enum):
    """Which process an offered socket belongs to now."""

    TAKEN = auto()
    """The receiver has it."""
    NOT_TAKEN = auto()
    """The sender still has it."""
    NOBODY = auto()
    """The sender still has it: no process of this user listens under the name on this machine, or the
    message is too long.
    """
    UNKNOWN = auto()
    """There was no answer. The receiver may have it, so the sender must not read or write it any more."""


class SocketListener:
    """Receives sockets from other workers under one name."""

    def __init__(self, name: str, take: TakeSocket) -> None:
        self._name = name
        self._take = take
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to listen. Only log a warning if the name is in use, or no descriptors are left."""
        if not POSSIBLE:
            return
        listening = _socket()
        try:
            listening.bind(_address(self._name))
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            log.warning("sockets cannot be handed over to this worker", error=str(error))
            return
        self._socket = listening
        self._listen()

    async def stop(self) -> None:
        """Stop listening, and cancel what is being received."""
        if self._pause is not None:
            self._pause.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        try:
            sender, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptors left: the socket stays readable, and the loop would do nothing else
            loop.remove_reader(self._socket.fileno())
            self._pause = loop.call_later(PAUSE_S, self._listen)
            return
        sender.setblocking(False)
        task = loop.create_task(self._serve(sender))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sender: socket.socket) -> None:
        with sender:
            if not peer_of(sender).is_same_user:
                log.warning("a socket of another user's process was not taken")
                return
            try:
                async with asyncio.timeout(ANSWER_S):
                    answer = _YES if await self._receive(sender) else _NO
            except SocketReturnedError as returned:
                answer = _NO + returned.data
            except (OSError, TimeoutError):
                return  # the sender sees the connection close without an answer, and keeps its socket
            except Exception:  # the edge of one offer's task: it must not end the listener
                log.exception("internal error")
                return
            with suppress(OSError):  # the sender has given up, and closed its copy
                sender.send(answer)

    async def _receive(self, sender: socket.socket) -> bool:
        await _readable(sender)
        message, files, flags, _ = socket.recv_fds(sender, MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        if not files:
            return False
        own = socket.socket(fileno=files[0])
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            own.close()
            return False
        own.setblocking(False)
        try:
            return await self._take(own, message)
        except BaseException:
            own.close()
            raise


async def send_socket(
    name: str, descriptor: int, message: bytes, on_returned: Callable[[bytes], None] | None = None
) -> PassResult:
    """Send the worker that listens under `name` a copy of an open socket, with a message of up to MAX_BYTES.

    `on_returned` is called, before NOT_TAKEN is returned, with what the receiver has read of the socket. The
    sender's own copy stays open. If this is cancelled while it waits for the answer, the result is as
    UNKNOWN.
    """
    if not POSSIBLE or len(message) > MAX_BYTES:
        return PassResult.NOBODY
    with _socket() as receiver:
        try:
            receiver.connect(_address(name))  # never blocks: it succeeds or fails at once
            if not peer_of(receiver).is_same_user:
                raise ConnectionRefusedError
            socket.send_fds(receiver, [message], [descriptor])
        except OSError as error:
            return PassResult.NOBODY if isinstance(error, ConnectionRefusedError) else PassResult.NOT_TAKEN
        try:
            async with asyncio.timeout(ANSWER_S):
                await _readable(receiver)
            answer = receiver.recv(MAX_BYTES + 1)
        except TimeoutError:
            return PassResult.UNKNOWN
        except OSError:
            return PassResult.NOT_TAKEN
    if on_returned is not None and len(answer) > 1:
        on_returned(answer[1:])
    return PassResult.TAKEN if answer == _YES else PassResult.NOT_TAKEN


def name_of(worker: str, node_url: str | None) -> str:
    """Return the name under which a worker listens. `node_url`: of its node, None if nodes have no addresses.

    So two gateways on one machine that are two nodes, as in a test, are two here as well.
    """
    if node_url is None:
        return worker
    return f"{worker}@{hashlib.sha256(node_url.encode()).hexdigest()[:16]}"


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


def _address(name: str) -> str:
    return f"\0patchbay/{name}"


def _set_done(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def _readable(peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(peer.fileno(), _set_done, readable)
    try:
        await readable
    finally:
        loop.remove_reader(peer.fileno())
