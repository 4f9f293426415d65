# SPDX-License-Identifier: BSD-2-Clause
"""Priorities and processes that have gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import ahead_of_all, end, listening, pin, process_tree
from gateway.simulator.server_process import StartError

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen(SLEEPS)
    yield process
    end(process)


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    return process.pid


def test_all_threads_are_moved(sleeper: subprocess.Popen[bytes], gone: int) -> None:
    core = min(os.sched_getaffinity(0))
    pin([gone, sleeper.pid], [core])
    assert os.sched_getaffinity(sleeper.pid) == {core}


def test_priority_that_is_not_allowed_is_said(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert not ahead_of_all([sleeper.pid])


def test_priority_reaches_every_process(
    sleeper: subprocess.Popen[bytes], gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without permission on this machine: what is asked of the kernel, and for whom."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda thread, how, _: asked.append((thread, how)))
    assert ahead_of_all([gone, sleeper.pid])
    assert asked == [(sleeper.pid, os.SCHED_FIFO)]


def test_a_tree_has_its_children() -> None:
    code = (
        f"import subprocess; child = subprocess.Popen({SLEEPS!r}); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        tree = process_tree(process.pid)
        end(process)
        os.kill(child, signal.SIGKILL)
    assert tree == [process.pid, child]


def test_who_does_not_begin_to_serve_is_quoted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no port for me')"]
    with (
        pytest.raises(StartError, match="no port for me"),
        listening(command, 1, cores=os.sched_getaffinity(0), environment={}, log=tmp_path / "log"),
    ):
        pass
