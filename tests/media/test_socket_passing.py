# SPDX-License-Identifier: BSD-2-Clause
"""An open socket goes from one worker to another, or stays: gateway/media/socket_passing.py."""

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
    """One that takes sockets, as long as `willing`."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.willing = True
        self.silent = False
        self.taken: list[socket.socket] = []
        self.told: list[bytes] = []
        self.listener = SocketListener(self.name, self._take)

    async def _take(self, own: socket.socket, message: bytes) -> bool:
        self.told.append(message)
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
    """A caller's end of a connection, and ours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, ours:
        yield theirs, ours


async def test_it_is_the_others_with_what_was_said_and_what_comes(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    theirs, ours = caller
    theirs.send(b"not read yet")
    assert await send_socket(worker.name, ours.fileno(), b"of call 7") is PassResult.TAKEN
    ours.close()
    assert worker.told == [b"of call 7"]
    loop, (own,) = asyncio.get_running_loop(), worker.taken
    assert await loop.sock_recv(own, 100) == b"not read yet"
    await loop.sock_sendall(own, b"heard")
    assert theirs.recv(100) == b"heard"


async def test_one_that_is_not_wanted_stays(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    theirs, ours = caller
    worker.willing = False
    assert await send_socket(worker.name, ours.fileno(), b"of call 7") is PassResult.NOT_TAKEN
    ours.send(b"still here")
    assert theirs.recv(100) == b"still here"


async def test_where_nobody_listens_it_stays(caller: tuple[socket.socket, socket.socket]) -> None:
    assert await send_socket(uuid.uuid4().hex, caller[1].fileno(), b"") is PassResult.NOT_TAKEN


async def test_who_has_stopped_takes_nothing(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    await worker.listener.stop()
    assert await send_socket(worker.name, caller[1].fileno(), b"") is PassResult.NOT_TAKEN


async def test_what_is_said_goes_whole_or_not_at_all(
    worker: Worker, caller: tuple[socket.socket, socket.socket]
) -> None:
    longest = os.urandom(MAX_BYTES)
    assert await send_socket(worker.name, caller[1].fileno(), longest) is PassResult.TAKEN
    assert await send_socket(worker.name, caller[1].fileno(), longest + b"!") is PassResult.NOT_TAKEN
    assert worker.told == [longest]


async def test_another_users_process_is_not_spoken_to(
    worker: Worker, caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = os.geteuid()
    monkeypatch.setattr(socket_passing.os, "geteuid", lambda: mine + 1)
    assert await send_socket(worker.name, caller[1].fileno(), b"") is PassResult.NOT_TAKEN
    assert worker.told == []


async def test_another_users_process_is_not_listened_to(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = os.geteuid()
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with stranger:
        stranger.connect(socket_passing._address(worker.name))
        stranger.setblocking(False)
        monkeypatch.setattr(socket_passing.os, "geteuid", lambda: mine + 1)
        assert await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
    assert worker.told == []


async def test_who_offers_nothing_is_not_waited_for(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_passing, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle:
        idle.connect(socket_passing._address(worker.name))
        idle.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(idle, 1) == b""


async def test_without_a_socket_nothing_is_taken(worker: Worker) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle:
        idle.connect(socket_passing._address(worker.name))
        idle.setblocking(False)
        idle.send(b"of call 7")
        assert await asyncio.get_running_loop().sock_recv(idle, 1) == b"\0"
    assert worker.told == []


async def test_without_an_answer_nobody_knows_whose_it_is(
    caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the other worker is stopped by a signal: the kernel has taken the message for it."""
    monkeypatch.setattr(socket_passing, "ANSWER_S", 0.05)
    name = uuid.uuid4().hex
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stopped:
        stopped.bind(socket_passing._address(name))
        stopped.listen()
        assert await send_socket(name, caller[1].fileno(), b"") is PassResult.UNKNOWN


async def test_a_worker_that_dies_over_it_leaves_it(caller: tuple[socket.socket, socket.socket]) -> None:
    name = uuid.uuid4().hex
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dying:
        dying.bind(socket_passing._address(name))
        dying.listen()
        offer = asyncio.create_task(send_socket(name, caller[1].fileno(), b""))
        await asyncio.sleep(0)
        giver, _ = dying.accept()
        giver.close()
        assert await offer is PassResult.NOT_TAKEN


async def test_a_name_in_use_is_no_reason_to_stop(worker: Worker) -> None:
    second = SocketListener(worker.name, worker._take)
    second.start()
    await second.stop()


async def test_what_was_given_is_closed_where_taking_it_fails(
    worker: Worker, caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the caller's connection would stay open, and be nobody's, when its other worker lets it go."""
    theirs, ours = caller
    given: list[socket.socket] = []

    async def fails(own: socket.socket, message: bytes) -> bool:
        given.append(own)
        raise ValueError(message)

    monkeypatch.setattr(worker.listener, "_take", fails)
    assert await send_socket(worker.name, ours.fileno(), b"nonsense") is PassResult.NOT_TAKEN
    assert [own.fileno() for own in given] == [-1]
    ours.send(b"still here")
    assert theirs.recv(100) == b"still here"


async def test_without_files_it_pauses_and_listens_again(
    worker: Worker, caller: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offer that cannot be accepted stays readable: a loop that tried on and on would do nothing else."""
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
