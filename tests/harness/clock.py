# SPDX-License-Identifier: BSD-2-Clause
"""A clock for tests, instead of time.time or time.monotonic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """A clock that stands still until a test sets `now`, in seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now
