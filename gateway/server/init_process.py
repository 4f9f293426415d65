# SPDX-License-Identifier: BSD-2-Clause
"""The first process of a container, where Patchbay is that (pid_namespaces(7)).

The kernel gives the first process of a PID namespace two duties that no gateway has elsewhere: it inherits
every process whose parent has ended, and has to wait for it or it stays a zombie; and a signal that it has no
handler for is dropped, SIGTERM while it starts among them. So it forks. The child is the gateway, as anywhere
else; the first process passes signals on to it, waits for whatever ends, and ends with the gateway's status.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final, NoReturn

FIRST: Final = 1
"""The process id of the first process of a PID namespace."""

KILLED: Final = 128
"""The status of a process that was ended by signal N is this plus N, as shells and containers have it."""

_OURS: Final = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,  # neither can be waited for
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGABRT,  # a fault of this process
        signal.SIGTTIN,
        signal.SIGTTOU,  # of its terminal
    }
)


def become_child_of_init() -> None:
    """Return in a child of this process if this is the first one of its namespace, else at once.

    Call it before there are threads. The first process does not return: it ends as its child does.
    """
    if os.getpid() != FIRST:
        return
    awaited = frozenset(signal.valid_signals()) - _OURS
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child:
        _attend(child, awaited)
    _take_terminal()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take_terminal() -> None:
    """Make this process a group of its own, in front of a terminal: so Ctrl-C comes to it once."""
    os.setpgid(0, 0)
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # from the background this would stop the process
    with suppress(OSError):  # no terminal
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, before)


def _attend(gateway: int, awaited: frozenset[int]) -> NoReturn:
    """Pass signals on to the gateway, and wait for every process that ends, until the gateway has."""
    while True:
        number = signal.sigwait(awaited)
        if number != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.kill(gateway, number)
            continue
        for process, status in _ended():
            if process == gateway:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else KILLED - code)


def _ended() -> list[tuple[int, int]]:
    """Return the processes that have ended, with their statuses."""
    ended = []
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(found)
    return ended
