# SPDX-License-Identifier: BSD-2-Clause
"""Pauses between tries that fail: each is longer than the one before, and no two workers wait alike."""

from __future__ import annotations

import random
from typing import Final

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0

_MAX_DOUBLINGS: Final = 8


class RetryPauses:
    """The pauses of one task that tries again and again."""

    def __init__(self) -> None:
        self._failures = 0

    def reset(self) -> None:
        """Note that a try went well."""
        self._failures = 0

    def next_s(self) -> float:
        """Note that a try failed, and return the seconds to wait: half to all of a time that doubles."""
        longest_s = min(FIRST_PAUSE_S * (1 << min(self._failures, _MAX_DOUBLINGS)), LONGEST_PAUSE_S)
        self._failures += 1
        return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - it spreads requests, and guards nothing
