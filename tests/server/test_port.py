# SPDX-License-Identifier: BSD-2-Clause
"""The backlog of a port that is closed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.server.port import bind, drain_backlog

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
