# SPDX-License-Identifier: BSD-2-Clause
"""An open socket is handed to another worker, or stays where it is."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.media import socket_passing
from gateway.media.socket_passing import MAX_BYTES, PassResult, SocketListener, send_socket
from gateway.simulator.waiting import eventually


class Worker:
    """A worker that takes sockets while it is `willing`, and does not answer while it is `silent`."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.willing = True
        self.silent = False
        self.taken: list[socket.socket] = []
        self.messages: list[bytes] = []
        self.listener = SocketListener(self.name, self._take)

    async def _take(self, own: socket.socket, message: bytes) -> bool:
        self.messages.append(message)
        if self.silent:
            own.close()
            await asyncio.Event().wait()
        if self.willing:
            self.taken.append(own)
        else:
            own.close()
        return self.willing


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker()
    worker.listener.start()
    yield worker
    await worker.listener.stop()
    for own in worker.taken:
        own.close()


@pytest.fixture
def caller() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The caller's end of a connection, and the gateway's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, ours:
        yield theirs, ours


async def test_the_receiver_has_the_socket_its_message_and_unread_bytes(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    theirs, ours = caller
    theirs.send(b"not read yet")
    assert await send_socket(worker.name, ours.fileno(), b"of call 7") is PassResult.TAKEN
    ours.close()
    assert worker.messages == [b"of call 7"]
    loop, (own,) = asyncio.get_running_loop(), worker.taken
    assert await loop.sock_recv(own, 100) == b"not read yet"
    await loop.sock_sendall(own, b"heard")
    assert theirs.recv(100) == b"heard"


async def test_a_socket_that_is_not_taken_stays(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    theirs, ours = caller
    worker.willing = False
    assert await send_socket(worker.name, ours.fileno(), b"of call 7") is PassResult.NOT_TAKEN
    ours.send(b"still here")
    assert theirs.recv(100) == b"still here"


async def test_without_a_listener_the_socket_stays(caller: tuple[socket.socket, socket.socket]) -> None:
    assert await send_socket(uuid.uuid4().hex, caller[1].fileno(), b"") is PassResult.NOBODY


async def test_a_listener_that_has_stopped_takes_nothing(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    await worker.listener.stop()
    assert await send_socket(worker.name, caller[1].fileno(), b"") is PassResult.NOBODY


async def test_a_message_is_sent_whole_or_not_at_all(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    longest = os.urandom(MAX_BYTES)
    assert await send_socket(worker.name, caller[1].fileno(), longest) is PassResult.TAKEN
    assert await send_socket(worker.name, caller[1].fileno(), longest + b"!") is PassResult.NOBODY
    assert worker.messages == [longest]


async def test_a_listener_of_another_user_is_sent_nothing(
    worker: Worker, caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own_user + 1)
    assert await send_socket(worker.name, caller[1].fileno(), b"") is PassResult.NOBODY
    assert worker.messages == []


async def test_a_sender_of_another_user_is_not_served(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_user = os.geteuid()
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with stranger:
        stranger.connect(socket_passing._address(worker.name))
        stranger.setblocking(False)
        monkeypatch.setattr(os, "geteuid", lambda: own_user + 1)
        assert await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
    assert worker.messages == []


async def test_a_sender_that_sends_nothing_is_not_waited_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_passing, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle:
        idle.connect(socket_passing._address(worker.name))
        idle.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(idle, 1) == b""


async def test_a_message_without_a_socket_is_refused(worker: Worker) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle:
        idle.connect(socket_passing._address(worker.name))
        idle.setblocking(False)
        idle.send(b"of call 7")
        assert await asyncio.get_running_loop().sock_recv(idle, 1) == b"\0"
    assert worker.messages == []


async def test_without_an_answer_the_owner_is_unknown(
    caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the other worker is stopped by a signal: the kernel has taken the message for it."""
    monkeypatch.setattr(socket_passing, "ANSWER_S", 0.05)
    name = uuid.uuid4().hex
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stopped:
        stopped.bind(socket_passing._address(name))
        stopped.listen()
        assert await send_socket(name, caller[1].fileno(), b"") is PassResult.UNKNOWN


async def test_a_receiver_that_dies_before_it_answers_has_not_taken_it(
    caller: tuple[socket.socket, socket.socket],
) -> None:
    name = uuid.uuid4().hex
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dying:
        dying.bind(socket_passing._address(name))
        dying.listen()
        offer = asyncio.create_task(send_socket(name, caller[1].fileno(), b""))
        await asyncio.sleep(0)
        sender, _ = dying.accept()
        sender.close()
        assert await offer is PassResult.NOT_TAKEN


async def test_a_name_in_use_is_no_error(worker: Worker) -> None:
    second = SocketListener(worker.name, worker._take)
    second.start()
    await second.stop()


async def test_the_copy_is_closed_if_taking_it_fails(
    worker: Worker, caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the connection would stay open after the sending worker has closed it."""
    theirs, ours = caller
    offered: list[socket.socket] = []

    async def fails(own: socket.socket, message: bytes) -> bool:
        offered.append(own)
        raise ValueError(message)

    monkeypatch.setattr(worker.listener, "_take", fails)
    assert await send_socket(worker.name, ours.fileno(), b"nonsense") is PassResult.NOT_TAKEN
    assert [own.fileno() for own in offered] == [-1]
    ours.send(b"still here")
    assert theirs.recv(100) == b"still here"


async def test_without_descriptors_the_listener_pauses_and_listens_again(
    worker: Worker, caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that cannot be accepted stays readable, so that the loop would do nothing else."""
    listening, tries = worker.listener._socket, 0

    class Short:
        """The listening socket of a process that may open nothing more."""

        fileno = listening.fileno

        def accept(self) -> None:
            nonlocal tries
            tries += 1
            raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket_passing, "PAUSE_S", 0.05)
    monkeypatch.setattr(worker.listener, "_socket", Short())
    offer = asyncio.create_task(send_socket(worker.name, caller[1].fileno(), b"of call 7"))
    await eventually(lambda: tries, "it is tried")
    assert tries == 1
    monkeypatch.setattr(worker.listener, "_socket", listening)
    assert await offer is PassResult.TAKEN
