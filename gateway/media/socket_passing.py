# SPDX-License-Identifier: BSD-2-Clause
"""An open socket on its way from one worker to another, through the kernel (unix(7), SCM_RIGHTS).

A worker listens under a name of its own, which is no file: it goes with the process. Another one gives it a
socket and what is to be said of it, in one message, and is told whether it was taken. Nobody but processes of
the same user is spoken to. Only Linux has such names; elsewhere nothing is ever taken.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Final

import structlog

log = structlog.get_logger(__name__)

POSSIBLE: Final = sys.platform == "linux"

MAX_BYTES: Final = 128 * 1024
"""What may be said of a socket; the kernel takes a message of so many whole or not at all."""

ANSWER_S: Final = 2.0
"""How long who takes a socket may take for it, and how long who gives it away waits for the answer."""

PAUSE_S: Final = 1.0
"""After no file was left to take an offer with: its giver waits no longer than ANSWER_S."""

_MOST_WAITING: Final = 16
_YES: Final = b"\1"
_NO: Final = b"\0"
_CREDENTIALS: Final = struct.Struct("iII")  # pid, user, group: unix(7), SO_PEERCRED

Take = Callable[[socket.socket, bytes], Awaitable[bool]]
"""Takes a socket, or closes it and says no. Reads nothing before it has said yes."""


class PassResult(Enum):
    """What has become of a socket."""

    TAKEN = auto()
    NOT_TAKEN = auto()
    UNKNOWN = auto()
    """There was no answer: it may be the other's, so nothing may be read or written any more."""


class Listener:
    """Takes sockets under one name."""

    def __init__(self, name: str, take: Take) -> None:
        self._name = name
        self._take = take
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listens from now on, where that is possible; a name in use, or no files left, is only said."""
        if not POSSIBLE:
            return
        listening = _socket()
        try:
            listening.bind(_address(self._name))
            listening.listen(_MOST_WAITING)
        except OSError as error:
            listening.close()
            log.warning("sockets cannot be handed over to this worker", error=str(error))
            return
        self._socket = listening
        self._listen()

    async def stop(self) -> None:
        """Takes no more; what is under way is broken off."""
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
            giver, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:  # no files left: it would be readable again at once, and for ever
            loop.remove_reader(self._socket.fileno())
            self._pause = loop.call_later(PAUSE_S, self._listen)
            return
        giver.setblocking(False)
        task = loop.create_task(self._serve(giver))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, giver: socket.socket) -> None:
        with giver:
            if not _is_ours(giver):
                log.warning("a socket of another user's process was not taken")
                return
            try:
                async with asyncio.timeout(ANSWER_S):
                    taken = await self._receive(giver)
            except (OSError, TimeoutError):
                return  # who gives it sees an end without an answer, and keeps it
            except Exception:  # the edge of one offer: the next one must be heard
                log.exception("internal error")
                return
            with suppress(OSError):  # it has given up, and its copy too
                giver.send(_YES if taken else _NO)

    async def _receive(self, giver: socket.socket) -> bool:
        await _readable(giver)
        message, files, flags, _ = socket.recv_fds(giver, MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
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


async def send_socket(name: str, descriptor: int, message: bytes) -> PassResult:
    """Gives whoever listens under `name` a copy of an open socket, and a message of at most MAX_BYTES.

    The own copy stays open. Where the wait for the answer is broken off, it is as with UNKNOWN.
    """
    if not POSSIBLE or len(message) > MAX_BYTES:
        return PassResult.NOT_TAKEN
    with _socket() as taker:
        try:
            taker.connect(_address(name))  # at once, or not at all
            if not _is_ours(taker):
                return PassResult.NOT_TAKEN
            socket.send_fds(taker, [message], [descriptor])
        except OSError:
            return PassResult.NOT_TAKEN
        try:
            async with asyncio.timeout(ANSWER_S):
                await _readable(taker)
            return PassResult.TAKEN if taker.recv(1) == _YES else PassResult.NOT_TAKEN
        except TimeoutError:
            return PassResult.UNKNOWN
        except OSError:
            return PassResult.NOT_TAKEN


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


def _address(name: str) -> str:
    return f"\0patchbay/{name}"


def _is_ours(peer: socket.socket) -> bool:
    """Whether a process of the same user is at the other end."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(raw)
    return bool(user == os.geteuid())


def _once(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def _readable(peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(peer.fileno(), _once, readable)
    try:
        await readable
    finally:
        loop.remove_reader(peer.fileno())
