# SPDX-License-Identifier: BSD-2-Clause
"""The identity of a worker process, by which other workers see that it is dead."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

STALE_S = 12.0
"""A worker whose process cannot be looked up is dead after this many seconds without a heartbeat."""


@dataclass(frozen=True, slots=True)
class WorkerId:
    """One worker process.

    `id`: unique among all workers, also earlier ones. `host`: the namespace of `pid`; equal for two processes
    if and only if each can look up the other's pid. `pid`: the process id there. `born`: when the process
    started, in clock ticks since boot (proc_pid_stat(5), field 22), so that a process that got the same pid
    later is not mistaken for it; 0 if the system does not tell.
    """

    id: str
    host: str
    pid: int
    born: int

    @classmethod
    def of_this_process(cls, worker_id: str) -> WorkerId:
        """Return the identity of the calling process, with `worker_id` as its id."""
        pid = os.getpid()
        return cls(worker_id, process_namespace(), pid, start_ticks(pid) or 0)

    def process_gone(self) -> bool:
        """Whether the process no longer runs. Only meaningful on its own `host`."""
        if not self.born:
            return not _exists(self.pid)
        return start_ticks(self.pid) != self.born


def process_namespace() -> str:
    """Return the machine, its boot, and the pid namespace: containers may share a name and a kernel."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # not Linux: the name alone
        pass
    return " ".join(parts)


def start_ticks(pid: int) -> int | None:
    """Return when a process started (WorkerId.born); None if it does not run, or the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Field 2, the name, is in parentheses and may contain any byte; the fields after the last ")" are
    # numbers.
    state, *fields = stat[stat.rindex(b")") + 2 :].split()
    if state in (b"Z", b"X"):  # a zombie has a pid and does not run
        return None
    return int(fields[18])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
