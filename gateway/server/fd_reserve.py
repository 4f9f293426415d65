# SPDX-License-Identifier: BSD-2-Clause
"""Open files kept back for when there are no others.

A process that may open nothing more cannot even accept a caller to refuse it: libuv closes such connections
without a word. So a few are kept back. When there is nothing left but these they are given up: whoever comes
is told 503, and what is under way (an agent that is being connected, a name that is looked up) has what it
takes to go on. When there is room again they are taken back.
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

FD_TABLE_SIZE = 16384
"""Descriptors that the kernel's table has room for from the start: two a call."""

FEW = 4096
"""Fewer than these are worth a warning: a call needs two."""

log = structlog.get_logger(__name__)


def reserve() -> int:
    """Raises this process's limit to what it may have, and makes room in its table; gives the limit.

    The kernel doubles the table where it is too small. In a process with threads that takes tens of
    milliseconds, in which the event loop and with it every call stands still.
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
        pass  # it is full to the brim, or the limit is lower than it says
    if limit < FEW:
        log.warning("few open files are allowed", limit=limit, calls=limit // 2)
    return limit


KEPT: Final = 32
"""More who come in one turn of the loop are closed by libuv after all."""

WANTED: Final = 2
"""What must be left beside them when somebody was accepted: one for its agent, one for who comes next."""

ROOM: Final = 16
"""What must be free beside them before they count as taken back: else they were given up again at once."""

PATIENCE_S: Final = 1.0
"""How long who comes meanwhile may take over the head of a request."""


class FdReserve:
    """One worker's."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: seconds of a clock that does not go back."""
        self._now = now
        self._kept = _opened(KEPT)
        self._since: float | None = None
        self._refused = 0

    @property
    def given_up(self) -> bool:
        """Whether they are given up, so that new calls are refused."""
        return self._since is not None

    @property
    def used_up(self) -> bool:
        """Whether even they are in use: then nobody who comes is waited for."""
        return self.given_up and not can_open_files(1)

    def look(self) -> None:
        """Gives them up if there is nothing else left. To be called for each connection, and in between."""
        if self._since is None and not can_open_files(WANTED, like=next(iter(self._kept), None)):
            self._give_up()

    def refuse(self) -> CallEnded:
        """What a new call is told meanwhile."""
        self._refused += 1
        return CallEnded(Reasons.overloaded, "no more open files")

    def tend(self) -> None:
        """Takes them back if there is room again; gives them up if the machine has no files left.

        To be called every second or so.
        """
        if self._since is None:
            if not can_open_files(1):
                self._give_up()
            return
        taken = _opened(KEPT + ROOM)
        if len(taken) < KEPT + ROOM:
            _close(taken)
            return
        self._kept = taken[:KEPT]
        _close(taken[KEPT:])
        seconds = round(self._now() - self._since, 3)
        log.info("there are open files again", refused=self._refused, seconds=seconds)
        self._since = None
        self._refused = 0

    def _give_up(self) -> None:
        self._since = self._now()
        _close(self._kept)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        log.warning("no more open files: new calls are refused", limit=limit)


def _opened(count: int) -> list[int]:
    """So many, or as many as there are."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    return opened


def _close(files: list[int]) -> None:
    for one in files:
        os.close(one)
    files.clear()
