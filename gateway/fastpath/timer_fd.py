# SPDX-License-Identifier: BSD-2-Clause
"""A timer behind a file descriptor (timerfd_create(2)), so that an epoll can wait for it. Linux only.

It calls the C library, because Python has such timers only from version 3.13 on.
"""

from __future__ import annotations

import ctypes
import os
import time

_NS_PER_S = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerFd:
    """A descriptor that becomes readable once, some time after each call of `set`.

    Raises OSError if no descriptor is left.
    """

    _descriptor = -1

    def __init__(self) -> None:
        self._c = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = _checked(self._c.timerfd_create(time.CLOCK_MONOTONIC, flags))

    def fileno(self) -> int:
        return self._descriptor

    def set(self, seconds: float) -> None:
        """Become readable `seconds` from now, and not at the time that was set before.

        Raises OSError; the descriptor then does not become readable.
        """
        ns = max(1, round(seconds * _NS_PER_S))  # 0 would disarm the timer
        times = _Itimerspec(value=_Timespec(*divmod(ns, _NS_PER_S)))
        _checked(self._c.timerfd_settime(self._descriptor, 0, ctypes.byref(times), None))

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _checked(result: int) -> int:
    """Return the result of a function of the C library. Raises OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
