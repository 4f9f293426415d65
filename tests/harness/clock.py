# SPDX-License-Identifier: BSD-2-Clause
"""A clock for tests, in the place of time.time or time.monotonic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Time that stands until it is told to go on. `now`: seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now
