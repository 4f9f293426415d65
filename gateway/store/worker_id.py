# SPDX-License-Identifier: BSD-2-Clause
"""The worker process that owns sessions, and how others tell that it is dead."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

STALE_S = 12.0
"""A worker of which nothing was heard for so many seconds is dead, where its process cannot be asked for."""


@dataclass(frozen=True, slots=True)
class WorkerId:
    """One worker process.

    `id`: unique among all workers that ever were. `host`: where its pid has meaning; equal for two processes
    exactly if one can look up the other's pid. `pid`: its process id there. `born`: when that process began,
    in clock ticks since boot, so that a pid used again is not mistaken for it; 0 where nobody says.
    """

    id: str
    host: str
    pid: int
    born: int

    @classmethod
    def of_this_process(cls, owner_id: str) -> WorkerId:
        """The process this is called in."""
        pid = os.getpid()
        started = _started(pid)
        return cls(owner_id, _host(), pid, started or 0)

    def process_gone(self) -> bool:
        """Whether the process no longer runs. To be asked on its own host only."""
        if not self.born:
            return not _exists(self.pid)
        return _started(self.pid) != self.born


def _host() -> str:
    """The machine, this run of it, and the pid namespace: containers may share a name and a kernel."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # no Linux: the name must do
        pass
    return " ".join(parts)


def _started(pid: int) -> int | None:
    """When a running process started (proc_pid_stat(5), field 22); None if it does not, or nobody knows."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name, field 2, is in parentheses and may hold any byte; what follows the last one is plain.
    state, *fields = stat[stat.rindex(b")") + 2 :].split()
    if state in (b"Z", b"X"):  # a zombie has a pid, but no life
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
