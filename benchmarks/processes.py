# SPDX-License-Identifier: BSD-2-Clause
"""Start, pin and end the processes of a measurement; every wait has a limit."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from gateway.simulator.server_process import RunningProcess, ServerProcess, StartError

START_LIMIT_S = 15.0
SETTLE_LIMIT_S = 15.0
STOP_LIMIT_S = 2.0
QUIET_S = 0.3  # a server is up when its processes have done nothing for so long
POLL_S = 0.03


def raise_file_limit() -> int:
    """Raise the limit of open files of this process and its children to the system's; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Processes started inside inherit these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def each_thread(pids: Collection[int], do: Callable[[int], None]) -> None:
    """Call `do` with the id of every thread of these processes; skip processes that have ended."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    do(int(thread.name))


def pin(pids: Collection[int], cores: Collection[int]) -> None:
    """Move every thread of these processes to these cores."""
    each_thread(pids, lambda thread: os.sched_setaffinity(thread, cores))


def ahead_of_all(pids: Collection[int]) -> bool:
    """Give every thread of these processes real-time priority. Return False if the system forbids it.

    Nothing else that the machine runs then takes their core from them, but for the twentieth of each second
    that the kernel keeps from such processes (sched(7)): they must not need all of it.
    """
    try:
        each_thread(pids, lambda thread: os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1)))
    except PermissionError:
        return False
    return True


def process_tree(root: int) -> list[int]:
    """Return `root` and all its running descendants, eldest first."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    tree = [root]
    for pid in tree:  # grows while it is walked
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def free_ports(first: int, count: int) -> list[int]:
    """Return `count` free ports, from `first` upwards. Raises StartError if there are too few.

    They lie below the range the kernel gives to outgoing connections: thousands of these come and go here,
    and one of them could hold the port that a restarted process wants back.
    """
    found: list[int] = []
    for port in range(first, first + 1000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise StartError(f"no {count} free ports from {first} on")


def end(process: RunningProcess) -> None:
    """Send SIGTERM to a process, and after STOP_LIMIT_S SIGKILL to it and its children."""
    if process.poll() is not None:
        return
    pids = process_tree(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(STOP_LIMIT_S)


def answers(port: int, path: str | None = None) -> bool:
    """Return True if a server listens on the port and answers `path`, if given, with 200."""
    try:
        if path is None:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        else:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).close()
    except (OSError, urllib.error.URLError):
        return False
    return True


def cpu_ticks(pids: Sequence[int]) -> int:
    """Return the CPU time of processes so far, in the kernel's ticks (10 ms)."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks


def settled(root: int, give_up: float) -> list[int]:
    """Wait until a server's processes are idle and complete, or until `give_up`; return their ids.

    The first answer may come from one worker while another still starts, and would be missing in the figures.
    """
    pids, ticks, since = process_tree(root), -1, time.monotonic()
    while time.monotonic() < min(since + QUIET_S, give_up):
        now = process_tree(root)
        if now != pids or cpu_ticks(now) > ticks + 1:
            pids, ticks, since = now, cpu_ticks(now), time.monotonic()
        time.sleep(POLL_S)
    return pids


@contextlib.contextmanager
def listening(
    command: Sequence[str],
    port: int,
    *,
    cores: Collection[int],
    environment: Mapping[str, str],
    log: Path,
    ready_path: str | None = None,
) -> Iterator[list[int]]:
    """Run a server on `cores`; give its process ids once it answers on `port`.

    Raises StartError with the end of its output if it ends before or takes too long.
    """
    with on_cores(cores):
        server = ServerProcess(
            Path(command[0]).name,
            command,
            log,
            environment={**os.environ, **environment},
            start_timeout=START_LIMIT_S,
        )
    try:
        server.wait_until_ready(lambda: answers(port, ready_path))
        yield settled(server.pid, time.monotonic() + SETTLE_LIMIT_S)
    finally:
        end(server.process)
