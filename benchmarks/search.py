# SPDX-License-Identifier: BSD-2-Clause
"""Finds the largest size that still works with few attempts, each of which takes seconds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence


def ladder(first: int, last: int, step: float) -> tuple[int, ...]:
    """Growing sizes from `first` to `last`, each about `step` times the one before."""
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(max(sizes[-1] + 1, round(sizes[-1] * step)))
    return tuple(sizes)


def largest(sizes: Sequence[int], guess: float, good: Callable[[int], bool]) -> int | None:
    """The largest size that is good, None when not even the first is.

    It goes from the guess in strides that double until it has a good size below a bad one, then halves what
    lies between. A good guess costs two attempts.
    """
    at = min(bisect_left(sizes, guess), len(sizes) - 1)
    low, high = (
        -1,
        len(sizes),
    )  # below the first, nothing is known to be bad; above the last, nothing is tried
    stride = 1
    while high - low > 1:
        if good(sizes[at]):
            low = at
            at = min(low + stride, high - 1) if high == len(sizes) else (low + high) // 2
        else:
            high = at
            at = max(high - stride, low + 1) if low < 0 else (low + high) // 2
        stride *= 2
    return sizes[low] if low >= 0 else None
