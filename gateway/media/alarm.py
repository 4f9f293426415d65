# SPDX-License-Identifier: BSD-2-Clause
"""A timer that is a descriptor (timerfd_create(2)): who waits for many things waits for it, too.

Python has it from 3.13 on; before, the C library is asked. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

_WHOLE_NS = 1_000_000_000


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Times(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class Alarm:
    """Becomes readable so many seconds after it was set, once for each time. Raises OSError."""

    _descriptor: int = -1

    def __init__(self) -> None:
        if sys.version_info >= (3, 13):
            self._descriptor = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
            return
        self._c = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._c.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        return self._descriptor

    def set(self, seconds: float) -> None:
        """From now on. It may be set again before it was due."""
        ns = max(1, round(seconds * _WHOLE_NS))  # 0 would be never
        if sys.version_info >= (3, 13):
            os.timerfd_settime_ns(self._descriptor, initial=ns)
            return
        times = _Times(value=_Time(*divmod(ns, _WHOLE_NS)))
        self._c.timerfd_settime(self._descriptor, 0, ctypes.byref(times), None)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
