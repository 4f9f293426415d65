# SPDX-License-Identifier: BSD-2-Clause
"""The table of a cluster's figures says what was found, and whether it is what was asked for."""

from __future__ import annotations

import pytest

pytest.importorskip("redis")

from benchmarks import cluster_report
from benchmarks.cluster_calls import Arrivals, Pair
from benchmarks.cluster_nodes import RoundTrips
from benchmarks.cluster_report import Head, Row


def test_what_is_measured_in_turns_is_compared_with_what_stands_beside_it() -> None:
    pair = Pair(before=[10.0, 20.0], other=[15.0, 15.0], after=[20.0, 10.0])
    assert pair.ratios() == [1.0, 1.0]
    row = cluster_report.of_pair("CPU of a set-up", pair, 1.15, "µs")
    assert row == Row(
        "CPU of a set-up",
        "at most 1.15 x",
        "**1.00 x** (1.00 to 1.00, n=2); 15.00 µs against 15.00",
        True,
    )
    assert cluster_report.of_pair("", pair, 0.9, "µs").is_met is False


@pytest.mark.parametrize(("taken", "is_met"), [(50, True), (49, False), (51, False)])
def test_one_place_more_or_less_is_a_miss(taken: int, is_met: bool) -> None:
    found = [
        Arrivals(heard=50, refused=450, failed=0, taken=50, lost=3),
        Arrivals(heard=50, refused=450, failed=0, taken=taken, lost=4),
    ]
    row = cluster_report.of_arrivals(found, every=25)
    assert "7 replies lost" in row.figure
    assert row.is_met is is_met


def test_a_round_trip_is_compared_with_one_on_the_same_node() -> None:
    times = [2.0, 4.0, 3.0], [9.0, 8.0, 10.0]
    ended, answered = cluster_report.of_stops(RoundTrips(answered=times, ended=times))
    assert (ended.found, ended.is_met) == ("**3.00 x**; 9.0 ms against 3.0 (n=3)", True)
    assert answered.found == ended.found


def test_the_report_marks_what_was_missed() -> None:
    rows = [Row("a", "at most 1", "2", False), Row("b", "", "3", None), Row("c", "4", "4", True)]
    text = cluster_report.written(Head("python -m benchmarks.cluster", {"Redis": "7.0"}, 61.0), rows)
    assert text.splitlines()[-3:] == [
        "| a | at most 1 | 2 | **missed** |",
        "| b |  | 3 |  |",
        "| c | 4 | 4 | met |",
    ]
