# SPDX-License-Identifier: BSD-2-Clause
"""Whoever reads the log has stopped reading: calls go on, and the gateway can be stopped."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.observability import log
from gateway.simulator.free_ports import LOOPBACK, free_port
from gateway.simulator.gateway_process import to_toml
from gateway.simulator.server_process import PATCHBAY, environment_without_settings
from gateway.simulator.waiting import WAIT_S, wait_until
from tests.harness.prepared_process import patchbay_starts_anew  # noqa: F401 - a fixture

PIPE_BYTES = 4096
REQUESTS = 100
"""Each leaves a line of some 250 bytes, so that the pipe is full long before the last."""


def status_of(port: int, path: str) -> int:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_whose_log_nobody_reads_stops_when_told(tmp_path: Path, workers: int) -> None:
    port = free_port()
    config = tmp_path / "patchbay.toml"
    server = {"port": port, "workers": workers, "log_format": "json"}
    store = {"url": f"sqlite:///{tmp_path}/patchbay.db"}
    agents = [{"name": "support", "organization": "acme"}]
    config.write_text(to_toml({"server": server, "store": store, "agents": agents}))
    unread, pipe = os.pipe()
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        gateway = subprocess.Popen(
            [*PATCHBAY, "serve", "--config", config],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=pipe,
            env=environment_without_settings(),
        )
        os.close(pipe)
        try:
            wait_until(lambda: status_of(port, "/readyz") == 200, "it serves")
            for _ in range(REQUESTS):
                assert status_of(port, "/v1/sessions") == 401
            gateway.send_signal(signal.SIGTERM)
            assert gateway.wait(WAIT_S) == 0
        finally:
            gateway.kill()
            gateway.wait()
    finally:
        os.close(unread)


def test_lines_that_nobody_reads_are_dropped_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    unread, pipe = os.pipe()
    with os.fdopen(unread, "rb"), os.fdopen(pipe, "w") as stream:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        writer = log._StandardError(stream)
        writer.gives_up_at = 0.0
        for _ in range(REQUESTS):
            writer.write("x" * 1000 + "\n")


def test_a_pipe_that_does_not_block_takes_a_long_line_as_fast_as_it_is_read() -> None:
    """Another process that shares it has made it so."""
    text = "x" * 100_000 + "\n"
    reading, pipe = os.pipe()
    with os.fdopen(reading, "rb") as reader, ThreadPoolExecutor() as thread:
        received = thread.submit(reader.read)
        with os.fdopen(pipe, "w") as stream:
            os.set_blocking(pipe, False)
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            log._StandardError(stream).write(text)
        assert received.result().decode() == text


def test_a_long_line_is_written_whole(tmp_path: Path) -> None:
    text = "grüße " * 5000 + "\ud800\n"
    with (tmp_path / "log").open("w") as stream:
        log._StandardError(stream).write(text)
    assert (tmp_path / "log").read_text() == text.replace("\ud800", "\\ud800")
