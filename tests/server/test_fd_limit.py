# SPDX-License-Identifier: BSD-2-Clause
"""The limit of open files is raised at the start, and the kernel's table grown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.simulator.waiting import WAIT_S

SCRIPT = """
import os, resource, sys
from gateway.server.fd_reserve import raise_fd_limit
hard = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
print(raise_fd_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
size = [line for line in open("/proc/self/status") if line.startswith("FDSize:")]
print(size[0].split()[1])
print(len(os.listdir("/proc/self/fd")))
"""


@pytest.mark.parametrize(("hard", "min_table_size"), [(300, 300), (4096, 4096)])
def test_the_soft_limit_becomes_the_hard_one_and_the_table_is_grown(hard: int, min_table_size: int) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(hard)],
        capture_output=True,
        text=True,
        timeout=WAIT_S * 4,
        check=True,
    )
    words = finished.stdout.split()
    numbers = [int(word) for word in words if word.isdigit()]
    limit, now, size, still_open = numbers[-4:]
    assert limit == now == hard
    assert size >= min_table_size, "the kernel need not grow the table later"
    assert still_open < 10, "no descriptor is left open"
    assert ("few open files are allowed" in finished.stdout) == (hard < 4096)
