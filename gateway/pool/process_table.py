# SPDX-License-Identifier: BSD-2-Clause
"""Processes of this machine: which belong to an instance, what they use, and signals that reach no other.

Everything here reads /proc (proc(5)) and may block for milliseconds: call it in a thread. A process is known
by its id and its start time, so that a later process with the same id is never mistaken for it; a signal is
sent through a descriptor of the process (pidfd_open(2)), opened before the start time is looked at.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.store.worker_id import start_ticks

MARK: Final = "PATCHBAY_INSTANCE"
"""The variable that the processes of an instance inherit, also those that have left its session."""

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_ENDED: Final = (b"Z", b"X")
_BEGINS_S: Final = 0.01
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process: its id, and when it started, in clock ticks since boot."""

    pid: int
    born: int

    @property
    def runs(self) -> bool:
        """Whether the process runs; one that has ended and was not waited for does not."""
        return start_ticks(self.pid) == self.born

    def open(self) -> int | None:
        """Return a descriptor of the process, which becomes readable when it ends. None if it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return None
        if start_ticks(self.pid) == self.born:
            return descriptor
        os.close(descriptor)
        return None

    def send(self, number: int) -> bool:
        """Send a signal. Return False if the process has ended."""
        descriptor = self.open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, signal.Signals(number))
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources of an instance's processes that run: seconds of CPU, and bytes of resident memory."""

    cpu_s: float
    memory_bytes: int


def members(leader: ProcessIdentity, mark: str) -> list[ProcessIdentity]:
    """Return the running processes of an instance: those of its session, and those that carry its mark.

    `leader`: the process that was started, whose id is the session's. `mark`: the value of MARK.
    """
    marked = f"{MARK}={mark}".encode()
    # While the leader is there, if only as a zombie, no other process has its id, nor another session.
    has_session = born_of(leader.pid) == leader.born
    found = []
    for pid in _pids():
        row = _stat(pid)
        if row is None or row.state in _ENDED or row.born < leader.born:
            continue
        if (has_session and row.session == leader.pid) or _carries(pid, marked):
            found.append(ProcessIdentity(pid, row.born))
    return found


def born_of(pid: int) -> int | None:
    """Return when a process started, also that of a zombie. None if there is none with this id."""
    row = _stat(pid)
    return None if row is None else row.born


def usage(leader: ProcessIdentity) -> Usage | None:
    """Return what a process and its descendants use, None if it has ended."""
    if not leader.runs:
        return None
    cpu_ticks, pages = 0, 0
    todo, seen = [leader.pid], set[int]()
    while todo:
        pid = todo.pop()
        row = _stat(pid)
        if row is None or pid in seen or row.state in _ENDED or row.born < leader.born:
            continue
        seen.add(pid)
        cpu_ticks += row.cpu_ticks
        pages += row.pages
        todo += _children(pid)
    return Usage(cpu_ticks / _TICKS_A_SECOND, pages * _PAGE_BYTES)


@dataclass(frozen=True, slots=True)
class _Row:
    state: bytes
    session: int
    born: int
    cpu_ticks: int
    pages: int


def _stat(pid: int) -> _Row | None:
    """Return what proc_pid_stat(5) says of a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = stat[stat.rindex(b")") + 2 :].split()
    # `fields` begins with field 4: session is 6, utime and stime are 14 and 15, starttime 22, rss 24.
    return _Row(state, int(fields[2]), int(fields[18]), int(fields[10]) + int(fields[11]), int(fields[20]))


def _pids() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdecimal():
                yield int(entry.name)


def _children(pid: int) -> list[int]:
    """Return the children that the threads of a process have started (proc_tid_children(5))."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return found


def _carries(pid: int, marked: bytes) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes()
        if not variables and os.readlink(f"/proc/{pid}/exe"):  # it has just begun to run its program
            time.sleep(_BEGINS_S)
            variables = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # another user's, or no program at all
        return False
    return marked in variables.split(b"\0")
