# SPDX-License-Identifier: BSD-2-Clause
"""Whatever started the gateway hears that it is ready, and that it lives."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.server.service_manager import MIN_INTERVAL_S, ServiceManager
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.clock import Clock
from tests.harness.gateway import Gateway

AGENT = {"name": "support", "organization": "acme", "instances": ["http://127.0.0.1:1"]}
CREDENTIALS = struct.Struct("iII")


class Manager:
    """A service manager's socket: what it gets, and from which process."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.settimeout(WAIT_S)

    def next(self) -> tuple[bytes, int]:
        """Wait for the next message; return it, and the id of its process."""
        message, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
        return message, CREDENTIALS.unpack(control[0][2])[0]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_process_that_was_started_says_that_it_is_ready_and_then_that_it_lives(
    start_gateway: Callable[..., Gateway],
    manager: Manager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    gateway = start_gateway(server={"workers": workers}, agents=[AGENT])
    told = [manager.next() for _ in range(12)]  # more than wait in the socket
    assert [message for message, _ in told] == [b"READY=1", *[b"WATCHDOG=1"] * 11]
    assert {process for _, process in told} == {gateway.process.pid}
    for worker in gateway.workers():
        if worker["pid"] != gateway.process.pid:
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{worker['pid']}/environ").read_bytes()


async def test_a_gateway_that_stands_still_says_nothing(
    start_gateway: Callable[..., Gateway], manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    gateway = start_gateway(agents=[AGENT])
    status = Path(f"/proc/{gateway.process.pid}/stat")
    gateway.process.send_signal(signal.SIGSTOP)
    await eventually(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
    messages_of(manager)  # what it had sent before; and then no more
    assert messages_of(manager) == []
    manager.socket.settimeout(WAIT_S)
    gateway.process.send_signal(signal.SIGCONT)
    assert manager.next()[0] == b"WATCHDOG=1"


# The messages themselves


def messages_of(manager: Manager) -> list[bytes]:
    """Return what has come."""
    manager.socket.setblocking(False)
    messages = []
    try:
        while True:
            messages.append(manager.next()[0])
    except BlockingIOError:
        return messages


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},  # it is another process that is watched
    ],
)
def test_a_manager_that_does_not_watch_hears_that_it_is_ready(
    manager: Manager, tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    told = ServiceManager.of_this_process(environment)
    assert environment == {}
    told.report_ready()
    told.report_alive()
    told.close()
    told.report_ready()
    assert messages_of(manager) == [b"READY=1"]


def test_reports_are_no_more_than_the_manager_needs() -> None:
    address = f"patchbay-test-{os.getpid()}"
    manager, clock = Manager(f"\0{address}"), Clock(1000.0)
    environment = {"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid())}
    told = ServiceManager.of_this_process(environment)
    told._now = clock
    told.report_alive()
    assert messages_of(manager) == []  # it is not ready yet
    told.report_ready()
    assert messages_of(manager) == [b"READY=1"]
    for _ in range(3):
        told.report_alive()
        told.report_alive()
        clock.now += MIN_INTERVAL_S
    assert messages_of(manager) == [b"WATCHDOG=1"] * 3
    manager.socket.close()
    with capture_logs() as lines:
        told.report_alive()
        clock.now += MIN_INTERVAL_S
        told.report_alive()
    assert [line["event"] for line in lines] == ["the service manager is not told any more"]


def test_a_manager_that_has_much_to_read_hears_later_that_it_is_ready(
    manager: Manager, tmp_path: Path
) -> None:
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            other.sendto(b"STATUS=", str(tmp_path / "notify"))
    told = ServiceManager.of_this_process({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    told.report_ready()
    assert b"READY=1" not in messages_of(manager)
    told.report_alive()
    told.report_alive()
    assert messages_of(manager) == [b"READY=1"]
    told.close()
    other.close()


def test_without_a_manager_nothing_is_sent() -> None:
    environment: dict[str, Any] = {"HOME": "/"}
    told = ServiceManager.of_this_process(environment)
    told.report_ready()
    told.report_alive()
    told.close()
    assert environment == {"HOME": "/"}
