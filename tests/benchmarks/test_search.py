# SPDX-License-Identifier: BSD-2-Clause
"""The search of a limit."""

from __future__ import annotations

import pytest

from benchmarks.search import ladder, largest

SIZES = ladder(20, 3000, 1.06)


@pytest.mark.parametrize("limit", [20, 21, 100, 999, 2999, 5000])
@pytest.mark.parametrize("guess", [1, 20, 500, 3000, 9000])
def test_it_is_found_from_any_guess(limit: int, guess: int) -> None:
    tried: list[int] = []

    def good(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest(SIZES, guess, good) == max(size for size in SIZES if size <= limit)
    assert len(tried) == len(set(tried)), "an attempt takes seconds: none is made twice"
    assert len(tried) <= 16


def test_where_not_even_the_first_is_good() -> None:
    assert largest(SIZES, 500, lambda _: False) is None


def test_a_good_guess_costs_two_attempts() -> None:
    tried: list[int] = []

    def good(size: int) -> bool:
        tried.append(size)
        return size <= SIZES[40]

    assert largest(SIZES, SIZES[40], good) == SIZES[40]
    assert tried == [SIZES[40], SIZES[41]]


def test_the_last_is_all_that_is_tried_from_there() -> None:
    tried: list[int] = []

    def good(size: int) -> bool:
        tried.append(size)
        return True

    assert largest(SIZES, SIZES[-1], good) == SIZES[-1]
    assert tried == [SIZES[-1]]


def test_a_ladder_ends_at_or_above_its_last() -> None:
    sizes = ladder(20, 600, 1.25)
    assert sizes[0] == 20
    assert sizes[-2] < 600 <= sizes[-1]
    assert list(sizes) == sorted(set(sizes))
