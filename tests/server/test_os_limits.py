# SPDX-License-Identifier: BSD-2-Clause
"""Whose fault it is that a connection fails."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from gateway.model.os_limits import can_open_files, is_out_of_resources
from gateway.simulator.waiting import WAIT_S


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_what_this_machine_has_run_out_of(number: int) -> None:
    assert is_out_of_resources(OSError(number, "none left"))


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, None])
def test_what_the_far_end_or_the_network_does(number: int | None) -> None:
    assert not is_out_of_resources(OSError(number, "no") if number else OSError())


def test_a_name_that_nobody_knows() -> None:
    assert can_open_files(1)
    assert not is_out_of_resources(socket.gaierror(socket.EAI_NONAME, "unknown"))


WITH_FEW = """
import os, resource, socket
from gateway.model.os_limits import can_open_files, is_out_of_resources
free = next(number for number in range(1024) if not os.path.exists(f"/proc/self/fd/{number}"))
resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, free + 2))
before = os.listdir("/proc/self/fd")
print(can_open_files(2), can_open_files(2, like=0), can_open_files(3), can_open_files(3, like=0))
print(before == os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
print(is_out_of_resources(socket.gaierror(socket.EAI_NONAME, "unknown")))
"""


def test_how_many_files_are_left() -> None:
    """And a name that cannot be looked up for want of one."""
    tried = subprocess.run(
        [sys.executable, "-c", WITH_FEW],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert tried.stdout.split() == ["True", "True", "False", "False", "True", "True"]
