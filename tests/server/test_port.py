# SPDX-License-Identifier: BSD-2-Clause
"""The port that a gateway leaves."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.server.port import bind, drain_backlog

CALLERS = 3


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as ends:
        yield ends


def test_whom_the_kernel_holds_is_served_though_the_port_is_closed(ends: ExitStack) -> None:
    port = ends.enter_context(bind("127.0.0.1", 0, reuse_port=True))
    port.listen()
    callers = [ends.enter_context(socket.create_connection(port.getsockname())) for _ in range(CALLERS)]
    taken = [ends.enter_context(connection) for connection in drain_backlog(port, CALLERS + 1)]
    port.close()
    for connection in taken:
        connection.send(b"hello")
    assert [caller.recv(5) for caller in callers] == [b"hello"] * CALLERS


def test_no_more_than_asked_for_are_taken_in(ends: ExitStack) -> None:
    port = ends.enter_context(bind("127.0.0.1", 0, reuse_port=True))
    port.listen()
    for _ in range(CALLERS):
        ends.enter_context(socket.create_connection(port.getsockname()))
    taken = [ends.enter_context(connection) for connection in drain_backlog(port, CALLERS - 1)]
    assert len(taken) == CALLERS - 1


def test_where_nobody_waits_nobody_is_waited_for(ends: ExitStack) -> None:
    port = ends.enter_context(bind("127.0.0.1", 0, reuse_port=True))
    port.listen()
    assert drain_backlog(port, CALLERS) == []
