# SPDX-License-Identifier: BSD-2-Clause
"""Gateways that have been imported already: most of a gateway's start is the import of its modules.

A process of its own, this module's `main`, imports them once for each process of pytest, and forks a copy of
itself for each gateway. The copy gets its arguments, environment, folder and log as a new process would, runs
`patchbay`, and ends as any Python does. It differs from a new process in its title in `ps`, and in that its
modules are loaded. A test of such things has `patchbay_starts_anew`.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import pytest

MAX_BYTES = 200_000
STATUS_BYTES = 8

MODULES = (
    "gateway.cli",
    "gateway.audio.prompt",
    "gateway.config.loading",
    "gateway.server.preflight",
    "gateway.server.serve",
    "gateway.server.worker",
)
"""What `patchbay serve` imports, some of it late."""

SETTING = "PATCHBAY_ACCELERATOR"
"""What the gateway reads of its environment while it is imported. SSL_CERT_FILE is as in gateway.py."""


@pytest.fixture(scope="module")
def patchbay_starts_anew() -> bool:
    """Start each gateway of the module as a new process."""
    return True


class PreparedProcess:
    """The process of a gateway, with what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, status: int) -> None:
        """`status`: where the exit status will be readable."""
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit status, as Popen's: less than 0 for a signal. None while it runs."""
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """Block until it has ended, and return the exit status. Raises subprocess.TimeoutExpired."""
        status = self._read(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("patchbay", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _read(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, STATUS_BYTES))
            os.close(self._status)
        return self.returncode


class Preparation:
    """The process that has imported the gateway, from the side of pytest."""

    def __init__(self, accelerator: str) -> None:
        """`accelerator`: the gateways' PATCHBAY_ACCELERATOR."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.prepared_process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env=os.environ | {SETTING: accelerator, "SSL_CERT_FILE": os.devnull},
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.end)

    def start(
        self, arguments: Sequence[str], log: BinaryIO, cwd: Path, environment: Mapping[str, str]
    ) -> PreparedProcess:
        """Start `patchbay` with these arguments."""
        request = {"arguments": [*map(str, arguments)], "cwd": str(cwd), "environment": dict(environment)}
        ours, theirs = os.pipe()
        socket.send_fds(self._channel, [json.dumps(request).encode()], [log.fileno(), theirs])
        os.close(theirs)
        return PreparedProcess(int(self._channel.recv(MAX_BYTES)), ours)

    def end(self) -> None:
        """Let the process end, and wait for it."""
        self._channel.close()
        self._process.wait()


@cache
def preparation(accelerator: str) -> Preparation:
    """Return the process that forks gateways with this PATCHBAY_ACCELERATOR."""
    return Preparation(accelerator)


def start_prepared(
    command: Sequence[str | Path],
    *,
    stdin: int,
    stdout: BinaryIO,
    stderr: BinaryIO,
    cwd: Path,
    env: Mapping[str, str],
) -> PreparedProcess:
    """Start `patchbay` as subprocess.Popen would. `command`: python, -m, gateway, and the arguments."""
    assert stdin == subprocess.DEVNULL
    assert stdout is stderr
    arguments = [str(part) for part in command]
    assert arguments[:3] == [sys.executable, "-m", "gateway"]
    return preparation(env.get(SETTING, "")).start(arguments[3:], stdout, cwd, env)


# In the process that is forked.


def main() -> None:
    """Import the gateway; then become `patchbay` in each copy, until pytest has ended."""
    for name in MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection would copy all of its memory
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        request = _next_request(channel)
    if request is None:
        return
    sys.argv[1:] = request["arguments"]
    import_module("gateway.cli").main()


def _next_request(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request, and return it in the copy. None once pytest has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is pytest's
    ended, wakes = socket.socketpair()
    for end in (ended, wakes):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel, ended], [], [])
        if ended in ready:
            ended.recv(4096)
            _report_ended(running)
        if channel not in ready:
            continue
        message, files, _, _ = socket.recv_fds(channel, MAX_BYTES, 2)
        if not message:
            return None
        request = dict(json.loads(message))
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            _become(request, log=files[0])
            for each in (channel, ended, wakes):
                each.detach()  # closed with the others
            return request
        os.close(files[0])
        running[pid] = files[1]
        channel.send(str(pid).encode())


def _report_ended(running: dict[int, int]) -> None:
    """Write the exit status of each copy that has ended to its pipe."""
    for pid, status in list(running.items()):
        ended, how = os.waitpid(pid, os.WNOHANG)
        if ended:
            del running[pid]
            os.write(status, str(os.waitstatus_to_exitcode(how)).encode())
            os.close(status)


def _become(request: dict[str, Any], *, log: int) -> None:
    """Give this copy the files, folder, environment and signal handlers of a new process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])


if __name__ == "__main__":
    main()
