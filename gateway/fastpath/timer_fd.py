# SPDX-License-Identifier: BSD-2-Clause
"""A timer that is a descriptor (timerfd_create(2)): who waits for many things waits for it, too.

Asked of the C library, as Python has it only from 3.13 on. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import time

_WHOLE_NS = 1_000_000_000


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Times(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class TimerFd:
    """Becomes readable so many seconds after it was set, once for each time. Raises OSError."""

    _descriptor = -1

    def __init__(self) -> None:
        self._c = ctypes.CDLL(None, use_errno=True)
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = _checked(self._c.timerfd_create(time.CLOCK_MONOTONIC, flags))

    def fileno(self) -> int:
        return self._descriptor

    def set(self, seconds: float) -> None:
        """From now on. It may be set again before it was due. Raises OSError: then it never comes."""
        ns = max(1, round(seconds * _WHOLE_NS))  # 0 would be never
        times = _Times(value=_Time(*divmod(ns, _WHOLE_NS)))
        _checked(self._c.timerfd_settime(self._descriptor, 0, ctypes.byref(times), None))

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _checked(result: int) -> int:
    """What the C library gave. Raises OSError where it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
