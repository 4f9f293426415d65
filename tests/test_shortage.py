# SPDX-License-Identifier: BSD-2-Clause
"""Whose fault it is that a connection fails."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from gateway.shortage import files_left, is_ours
from tests.harness.peer import WAIT_S


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_what_this_machine_has_run_out_of(number: int) -> None:
    assert is_ours(OSError(number, "none left"))


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, None])
def test_what_the_far_end_or_the_network_does(number: int | None) -> None:
    assert not is_ours(OSError(number, "no") if number else OSError())


def test_a_name_that_nobody_knows() -> None:
    assert files_left(1)
    assert not is_ours(socket.gaierror(socket.EAI_NONAME, "unknown"))


WITH_FEW = """
import os, resource, socket
from gateway.shortage import files_left, is_ours
free = next(number for number in range(1024) if not os.path.exists(f"/proc/self/fd/{number}"))
resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, free + 2))
before = os.listdir("/proc/self/fd")
print(files_left(2), files_left(2, like=0), files_left(3), files_left(3, like=0))
print(before == os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
print(is_ours(socket.gaierror(socket.EAI_NONAME, "unknown")))
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
