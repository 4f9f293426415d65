# SPDX-License-Identifier: BSD-2-Clause
"""The limit of open files of this process, and a reserve of descriptors for when it is reached.

A process at its limit cannot even accept a client in order to refuse it: libuv closes such connections
silently. So a few descriptors are reserved. When no others are left, the reserve is released: new calls are
answered with 503, and work in progress (an agent that is being connected, a name lookup) gets the descriptors
that it needs. The reserve is taken again as soon as enough descriptors are free.
"""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway.model.os_limits import can_open_files
from gateway.model.reasons import CallEnded, Reasons

log = structlog.get_logger(__name__)

FD_TABLE_SIZE = 16384
"""Descriptors that the kernel's table of this process has room for from the start; a call needs two."""

FEW_FDS = 4096
"""A limit below this number is worth a warning."""

RESERVED_FDS: Final = 32
"""Size of the reserve. If more clients connect in one iteration of the loop, libuv closes the rest."""

MIN_FREE_FDS: Final = 2
"""Descriptors to be free beside the reserve after an accept: one for the agent, one for the next client."""

RESTORE_MARGIN_FDS: Final = 16
"""Descriptors to be free beside the reserve before it is taken again; with fewer it would be released at
once.
"""

SHORTAGE_HEAD_TIMEOUT_S: Final = 1.0
"""How long a client may take to send the head of a request while the reserve is released."""


def raise_fd_limit() -> int:
    """Raise the soft limit of open files to the hard one, grow the kernel's table, and return the limit.

    The kernel doubles the table whenever it is too small. In a process with threads that takes tens of
    milliseconds, during which the event loop, and with it every call, stands still. Call it before the loop
    runs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays as it is", limit=soft, error=str(error))
    limit = FD_TABLE_SIZE if soft == resource.RLIM_INFINITY else soft
    try:
        with open(os.devnull, "rb") as any_file:
            os.close(fcntl.fcntl(any_file.fileno(), fcntl.F_DUPFD_CLOEXEC, min(FD_TABLE_SIZE, limit) - 1))
    except OSError:
        pass  # every descriptor is in use, or the limit is lower than reported
    if limit < FEW_FDS:
        log.warning("few open files are allowed", limit=limit, calls=limit // 2)
    return limit


class FdReserve:
    """One worker's reserve of descriptors: either held, or released because no others were left."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: seconds of a monotonic clock."""
        self._now = now
        self._fds = _open_up_to(RESERVED_FDS)
        self._released_at: float | None = None
        self._refused = 0

    @property
    def is_released(self) -> bool:
        """Whether the reserve is released, so that new calls are to be refused."""
        return self._released_at is not None

    @property
    def is_exhausted(self) -> bool:
        """Whether even the released descriptors are in use, so that no client can be waited for."""
        return self.is_released and not can_open_files(1)

    def release_if_needed(self) -> None:
        """Release the reserve if nothing else is left. Call it for each connection, and at every tick."""
        if self._released_at is None and not can_open_files(MIN_FREE_FDS, like=next(iter(self._fds), None)):
            self._release()

    def refuse_call(self) -> CallEnded:
        """Count a call that is refused while the reserve is released, and return its end, to be raised."""
        self._refused += 1
        return CallEnded(Reasons.overloaded, "no more open files")

    def restore_if_possible(self) -> None:
        """Take the reserve again if enough descriptors are free. Call it about once a second.

        A reserve that is held is released here if the whole machine has run out of files, which
        `release_if_needed` does not notice.
        """
        if self._released_at is None:
            if not can_open_files(1):
                self._release()
            return
        opened = _open_up_to(RESERVED_FDS + RESTORE_MARGIN_FDS)
        if len(opened) < RESERVED_FDS + RESTORE_MARGIN_FDS:
            _close(opened)
            return
        self._fds = opened[:RESERVED_FDS]
        _close(opened[RESERVED_FDS:])
        seconds = round(self._now() - self._released_at, 3)
        log.info("there are open files again", refused=self._refused, seconds=seconds)
        self._released_at = None
        self._refused = 0

    def _release(self) -> None:
        self._released_at = self._now()
        _close(self._fds)
        self._fds.clear()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        log.warning("no more open files: new calls are refused", limit=limit)


def _open_up_to(count: int) -> list[int]:
    """Open up to `count` descriptors, fewer if the limit is reached."""
    fds: list[int] = []
    try:
        while len(fds) < count:
            fds.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    return fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
