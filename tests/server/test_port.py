# SPDX-License-Identifier: BSD-2-Clause
"""The backlog of a port that is closed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.config import Settings
from gateway.model import unix_peer
from gateway.server.port import bind, bind_port, drain_backlog, start_lock

CALLERS = 3


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_connections_in_the_backlog_survive_the_close_of_the_port(stack: ExitStack) -> None:
    port = stack.enter_context(bind("127.0.0.1", 0, reuse_port=True))
    port.listen()
    callers = [stack.enter_context(socket.create_connection(port.getsockname())) for _ in range(CALLERS)]
    accepted = [stack.enter_context(connection) for connection in drain_backlog(port, CALLERS + 1)]
    port.close()
    for connection in accepted:
        connection.send(b"hello")
    assert [caller.recv(5) for caller in callers] == [b"hello"] * CALLERS


def test_no_more_than_the_limit_are_accepted(stack: ExitStack) -> None:
    port = stack.enter_context(bind("127.0.0.1", 0, reuse_port=True))
    port.listen()
    for _ in range(CALLERS):
        stack.enter_context(socket.create_connection(port.getsockname()))
    accepted = [stack.enter_context(connection) for connection in drain_backlog(port, CALLERS - 1)]
    assert len(accepted) == CALLERS - 1


def test_an_empty_backlog_is_not_waited_for(stack: ExitStack) -> None:
    port = stack.enter_context(bind("127.0.0.1", 0, reuse_port=True))
    port.listen()
    assert drain_backlog(port, CALLERS) == []


def at(number: int, workers: int = 1) -> Settings:
    return Settings.model_validate({"server": {"port": number, "workers": workers}})


def test_each_worker_has_a_socket_on_the_one_port_and_nobody_else_gets_one(stack: ExitStack) -> None:
    ports = [stack.enter_context(port) for port in bind_port(at(0, workers=3), shared=False)]
    (address,) = {port.getsockname() for port in ports}
    for port in ports:
        port.listen()
    with pytest.raises(OSError, match="in use"):
        bind_port(at(address[1]), shared=False)
    stack.enter_context(bind_port(at(address[1]), shared=True)[0])


def test_of_two_gateways_that_start_on_one_port_at_once_the_second_is_refused(stack: ExitStack) -> None:
    """Neither listens yet, and until then the kernel lets both bind it."""
    first = start_lock(at(7860))
    with pytest.raises(OSError, match="another Patchbay is starting on this port"):
        start_lock(at(7860))
    stack.enter_context(start_lock(at(7861)))
    first.close()
    stack.enter_context(start_lock(at(7860)))


def test_another_user_cannot_keep_a_gateway_from_starting(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the lock is anybody's to take; the kernel says who has."""
    user = os.geteuid()
    stack.enter_context(start_lock(at(7862)))
    monkeypatch.setattr(unix_peer.UnixPeer, "is_same_user", property(lambda peer: peer.user == user + 1))
    stack.enter_context(start_lock(at(7862)))


def test_a_port_that_the_kernel_chooses_needs_no_lock(stack: ExitStack) -> None:
    for _ in range(2):
        stack.enter_context(start_lock(at(0)))
