# SPDX-License-Identifier: BSD-2-Clause
"""Signals that mean nothing to a gateway, and whose default action would end it and cut its calls.

Somebody's tool sends them by mistake: to a pid that was used again, to a whole group, to a program that it
takes for another. They are ignored, and reported in one line a second at most. Of the other signals
(signal(7)) some mean something (worker.py), some are ignored by default or by Python (SIGPIPE), and some come
from a fault of this process itself (SIGSEGV), which must end it.
"""

from __future__ import annotations

import signal
from collections import Counter
from types import FrameType
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_NAMES: Final = (
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
    "SIGVTALRM",
    "SIGPROF",
    "SIGPOLL",
    "SIGPWR",
    "SIGSTKFLT",
    "SIGXCPU",
    "SIGTRAP",
    "SIGEMT",
)


def _stray_signals() -> frozenset[int]:
    named = {int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)}
    real_time: set[int] = set()
    if hasattr(signal, "SIGRTMIN"):
        real_time = set(range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
    return frozenset(named | real_time)


STRAY: Final = _stray_signals()
"""The numbers of these signals on this system, real-time signals included."""


class StraySignals:
    """Counts the signals of STRAY that reach this process. For the main thread."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def install(self) -> None:
        """Count these signals from now on."""
        for number in STRAY:
            signal.signal(number, self._count)

    def report(self) -> None:
        """Log the signals that came since the last report. Call it about once a second."""
        if not self._counts:
            return
        counts, self._counts = self._counts, Counter()
        for number, times in sorted(counts.items()):
            log.warning("signal ignored", signal=name_of(number), times=times)

    def _count(self, number: int, _frame: FrameType | None) -> None:
        # A handler may interrupt any line of the main thread, also one that holds the lock of the log's
        # queue.
        self._counts[number] += 1


def ignore_while_starting() -> None:
    """Ignore these signals, and SIGHUP, until the process has handlers for them. Children inherit that."""
    for number in (*STRAY, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def name_of(number: int) -> str:
    """Return the name of a signal, as in "SIGUSR1"; a real-time signal in between as "SIGRTMIN+1"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
