# SPDX-License-Identifier: BSD-2-Clause
"""How many requests a key, or an address, may make: a token bucket for each, in the worker that is asked."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

MAX_BUCKETS: Final = 10_000
"""Buckets that are remembered; the one that was not asked for longest is forgotten, and so is full again."""


class Rates:
    """Buckets that hold `burst` tokens and get `per_second` new ones. Time is Unix seconds, the caller's."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: dict[Hashable, tuple[float, float]] = {}  # tokens, and when there were so many

    def wait(self, name: Hashable, now: float) -> float:
        """What `take` would say; nothing is taken."""
        if name not in self._buckets:
            return 0.0
        tokens = self._tokens(name, now)
        return 0.0 if tokens >= 1.0 else (1.0 - tokens) / self._per_second

    def take(self, name: Hashable, now: float) -> float:
        """Takes a token of the bucket `name`: 0.0, or the seconds until there is one again."""
        tokens = self._tokens(name, now)
        self._buckets.pop(name, None)
        wait = 0.0
        if tokens >= 1.0:
            tokens -= 1.0
        else:
            wait = (1.0 - tokens) / self._per_second
        self._buckets[name] = tokens, now
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return wait

    def _tokens(self, name: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        # A clock that was set back must not lock a key out.
        return min(self._burst, tokens + max(0.0, now - at) * self._per_second)
