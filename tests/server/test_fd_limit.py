# SPDX-License-Identifier: BSD-2-Clause
"""Open files: as many as may be, with room for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.simulator.waiting import WAIT_S

TRIED = """
import os, resource, sys
from gateway.server.fd_reserve import raise_fd_limit
hard = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
print(raise_fd_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
size = [line for line in open("/proc/self/status") if line.startswith("FDSize:")]
print(size[0].split()[1])
print(len(os.listdir("/proc/self/fd")))
"""


@pytest.mark.parametrize(("hard", "room"), [(300, 300), (4096, 4096)])
def test_the_limit_is_raised_and_room_is_made(hard: int, room: int) -> None:
    tried = subprocess.run(
        [sys.executable, "-c", TRIED, str(hard)],
        capture_output=True,
        text=True,
        timeout=WAIT_S * 4,
        check=True,
    )
    said = tried.stdout.split()
    numbers = [int(word) for word in said if word.isdigit()]
    limit, now, size, still_open = numbers[-4:]
    assert limit == now == hard
    assert size >= room, "the kernel's table needs not grow"
    assert still_open < 10, "nothing is left open for it"
    assert ("few open files are allowed" in tried.stdout) == (hard < 4096)
