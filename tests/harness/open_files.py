# SPDX-License-Identifier: BSD-2-Clause
"""A process without free file descriptors: its limit is lowered while it runs (prlimit(2))."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.harness.gateway import Gateway


def open_files(pid: int) -> set[int]:
    """Return the open descriptors of a process."""
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


@contextmanager
def few_files(gateway: Gateway, room: int) -> Iterator[int]:
    """Let the gateway open about `room` more files; give the exact number."""
    pid = gateway.process.pid
    taken = open_files(pid)
    limit = max(*taken, len(taken) + room - 1) + 1
    with _limit(pid, limit):
        yield limit - len(taken)


@contextmanager
def no_files(gateway: Gateway) -> Iterator[None]:
    """Let the gateway open no file, not even in place of one that it closes."""
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
    """Return the log lines about missing descriptors."""
    events = ("no more open files: new calls are refused", "there are open files again")
    return [line for line in gateway.log_lines() if line["event"] in events]
