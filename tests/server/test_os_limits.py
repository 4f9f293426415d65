# SPDX-License-Identifier: BSD-2-Clause
"""Whether a connection failed for a shortage of this machine, or for its target."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from gateway.model.os_limits import can_open_files, is_out_of_resources
from gateway.simulator.waiting import WAIT_S


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_errors_of_this_machine(number: int) -> None:
    assert is_out_of_resources(OSError(number, "none left"))


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, None])
def test_errors_of_the_target_or_the_network(number: int | None) -> None:
    assert not is_out_of_resources(OSError(number, "no") if number else OSError())


def test_an_unknown_name_is_no_shortage() -> None:
    assert can_open_files(1)
    assert not is_out_of_resources(socket.gaierror(socket.EAI_NONAME, "unknown"))


SCRIPT = """
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


def test_free_descriptors_are_counted_and_none_is_left_open() -> None:
    """And a failed name lookup is a shortage if no descriptor is free."""
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert finished.stdout.split() == ["True", "True", "False", "False", "True", "True"]
