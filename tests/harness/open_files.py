# SPDX-License-Identifier: BSD-2-Clause
"""A process that runs out of open files: its limit is lowered while it runs (prlimit(2))."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.harness.gateway import Gateway


def open_files(pid: int) -> set[int]:
    """The descriptors that a process has."""
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


@contextmanager
def few_files(gateway: Gateway, room: int) -> Iterator[int]:
    """The gateway may open about so many files more, and no other; gives how many exactly."""
    pid = gateway.process.pid
    taken = open_files(pid)
    limit = max(*taken, len(taken) + room - 1) + 1
    with _limit(pid, limit):
        yield limit - len(taken)


@contextmanager
def no_files(gateway: Gateway) -> Iterator[None]:
    """The gateway may open nothing, not even what it gives up first: the numbers are beyond the limit."""
    with _limit(gateway.process.pid, 1):
        yield


@contextmanager
def _limit(pid: int, limit: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def episodes(gateway: Gateway) -> list[dict[str, Any]]:
    """What was told of the gateway's want of files."""
    told = ("no more open files: new calls are refused", "there are open files again")
    return [line for line in gateway.log_lines() if line["event"] in told]
