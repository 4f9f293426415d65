# SPDX-License-Identifier: BSD-2-Clause
"""A prepared gateway is what a new process would be: arguments, folder, environment, files, signals, end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway import __version__
from gateway.simulator.server_process import PATCHBAY, environment_without_settings
from gateway.simulator.waiting import WAIT_S, wait_until
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import start_prepared

AGENT = {"name": "support", "organization": "acme", "instances": ["http://127.0.0.1:9"]}


def run(folder: Path, command: Sequence[str]) -> tuple[int, str]:
    """Run a command with a variable of its own; return its exit status and what it wrote."""
    output = folder / "output.txt"
    with output.open("wb") as log:
        process = start_prepared(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment_without_settings(PATCHBAY_SERVER_PORT="70000"),
        )
    return process.wait(WAIT_S), output.read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--version"], 0, f"patchbay {__version__}\n"),
        (["serve", "--config", "none.toml"], 1, "none.toml: cannot be read"),
        (["check"], 1, "PATCHBAY_SERVER_PORT"),
        (["no-such-command"], 2, "no-such-command"),
    ],
)
def test_it_ends_with_the_status_and_the_words_of_a_new_process(
    tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    ended, written = run(tmp_path, [*PATCHBAY, *arguments])
    assert ended == status, written
    assert words in written


def files_and_signals(gateway: Gateway) -> tuple[list[str], list[str]]:
    """Return what the process has open, and its signal masks. Connections come and go, and do not count."""
    process = Path(f"/proc/{gateway.process.pid}")
    files = [os.readlink(each).partition("[")[0] for each in (process / "fd").iterdir()]
    kept = sorted(name.replace(str(gateway.directory), "") for name in files if name != "socket:")
    status = (process / "status").read_text().splitlines()
    return kept, [line for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]


def test_it_has_the_folder_files_and_signal_handlers_of_a_new_process(tmp_path: Path) -> None:
    gateways = []
    for how in (subprocess.Popen, start_prepared):
        directory = tmp_path / how.__name__
        directory.mkdir()
        gateways.append(Gateway(directory, {"agents": [AGENT]}, start=how))
    new, prepared = gateways
    try:
        for gateway in gateways:
            gateway.wait_until_ready()
            assert Path(f"/proc/{gateway.process.pid}/cwd").readlink() == gateway.directory

        def is_the_same() -> bool:
            with contextlib.suppress(FileNotFoundError):  # closed just now
                return files_and_signals(prepared) == files_and_signals(new)
            return False

        wait_until(is_the_same, "both have the same open, and handle the same")
    finally:
        for gateway in gateways:
            gateway.end()
    assert prepared.process.returncode == 0


def test_it_is_killed_by_a_signal(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, {"agents": [AGENT]}, start=start_prepared).wait_until_ready()
    with pytest.raises(subprocess.TimeoutExpired):
        gateway.process.wait(0.01)
    gateway.process.send_signal(signal.SIGKILL)
    assert gateway.process.wait(WAIT_S) == -signal.SIGKILL
    wait_until(lambda: not Path(f"/proc/{gateway.process.pid}").exists(), "nothing is left of it")
    gateway.process.terminate()  # it has ended: nobody else gets the signal


def test_nothing_but_patchbay_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(tmp_path, [sys.executable, "-c", "pass"])
