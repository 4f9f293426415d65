# SPDX-License-Identifier: BSD-2-Clause
"""Whether the process of a worker still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.store.worker_id import WorkerId


def test_a_killed_process_is_gone_even_before_its_parent_waits_for_it() -> None:
    me = WorkerId.of_this_process("me")
    assert not me.process_gone()
    if not me.born:
        pytest.skip("this system does not tell a zombie")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        born = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        owner = WorkerId("child", me.host, child.pid, born)
        assert not owner.process_gone()
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
        assert owner.process_gone()
    assert owner.process_gone()


def test_without_a_start_time_the_pid_alone_decides() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = WorkerId("child", "here", child.pid, 0)
        assert not owner.process_gone()
        child.kill()
    assert owner.process_gone()
