# SPDX-License-Identifier: BSD-2-Clause
"""The line that says that the gateway has started: whoever waits for it may call."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.gateway_process import GatewayProcess
from gateway.simulator.waiting import wait_until


def started(gateway: GatewayProcess) -> dict[str, Any] | None:
    return next((line for line in gateway.log_lines() if line["event"] == "patchbay"), None)


@pytest.fixture
def starting(tmp_path: Path) -> Callable[..., Any]:
    """A gateway that nobody waits for."""

    def start(**settings: Any) -> GatewayProcess:
        agent = {"name": "support", "organization": "acme", "instances": ["http://127.0.0.1:1"]}
        return GatewayProcess(tmp_path, {"agents": [agent], **settings})

    return start


@pytest.mark.parametrize("workers", [1, 2])
def test_it_has_started_when_every_worker_accepts(starting: Callable[..., Any], workers: int) -> None:
    gateway = starting(server={"workers": workers})
    try:
        line = wait_until(lambda: started(gateway), "it says that it has started")
        host, _, port = line["address"].rpartition(":")
        gateway.port = int(port)
        assert gateway.listening() == workers
        assert line["pid"] == gateway.process.pid, "signals go to the process that was started"
        socket.create_connection((host, gateway.port)).close()
    finally:
        gateway.stop()


def test_it_has_not_started_without_its_store(starting: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "patchbay.db").write_bytes(b"no database " * 1000)
    gateway = starting()
    assert gateway.wait() == 3
    assert started(gateway) is None
