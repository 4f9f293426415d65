# SPDX-License-Identifier: BSD-2-Clause
"""What the report claims, from runs whose figures are known."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figures
from benchmarks.results import Kind, Result
from tests.benchmarks.results import report, turn


def test_a_ratio_is_to_the_mean_of_the_neighbours() -> None:
    results = [
        turn("patchbay", report(cost=12), report(cost=8), report(cost=12)),
        turn("patchbay", report(cost=9), report(cost=12), report(cost=6), number=1),
    ]
    assert Figures(results).cpu("patchbay", 200) == pytest.approx([1.2, 1.0])


def test_a_turn_without_a_neighbour_tells_nothing() -> None:
    results = [
        turn("patchbay", report(cost=12), None, report(cost=12)),
        turn("patchbay", None, report(), report(), number=1),
        turn("patchbay", report(), report(), report(), calls=500, number=2),
    ]
    assert Figures(results).cpu("patchbay", 200) == []


def test_haproxy_is_compared_through_nginx_turn_by_turn() -> None:
    """The two were measured at different times: only their ratios to nginx can be compared."""
    results = [
        turn("patchbay", report(cost=10), report(cost=10), report(cost=10)),
        turn("haproxy", report(cost=40), report(cost=20), report(cost=20)),
        turn("haproxy", report(cost=40), report(cost=20), report(cost=20), number=1),
    ]
    assert Figures(results).cpu_against_haproxy("patchbay", 200) == pytest.approx([0.5])


def test_a_p99_is_compared_with_all_windows_of_nginx_in_its_round() -> None:
    """One window of nginx that was disturbed, next to ours, must not make us look good."""
    calm, disturbed = report(p99=100), report(p99=5000)
    results = [
        turn("haproxy", report(), calm, calm),
        turn("patchbay", report(p99=150), disturbed, calm),
        turn("patchbay", report(p99=150), calm, disturbed, number=1),
        turn("patchbay", report(p99=150), report(p99=300), report(p99=300), round_=1),
    ]
    assert Figures(results).round_trip_p99("patchbay") == pytest.approx([1.5, 1.5, 0.5])


def test_two_workers_that_share_unevenly_carry_less() -> None:
    one = Result(Kind.WORKERS, 0, "patchbay", 200, report(cost=20))
    even = Result(Kind.WORKERS, 0, "patchbay, two workers", 400, report(cost=20, cpu_each=(0.0, 0.2, 0.2)))
    uneven = Result(Kind.WORKERS, 0, "patchbay, two workers", 400, report(cost=20, cpu_each=(0.0, 0.3, 0.1)))
    assert Figures([one, even]).two_workers("patchbay") == pytest.approx([2.0])
    assert Figures([one, uneven]).two_workers("patchbay") == pytest.approx([4 / 3])


def test_limits_are_compared_round_by_round() -> None:
    found = [("nginx", 0, 1000), ("patchbay", 0, 800), ("nginx", 1, 500), ("patchbay", 2, 900)]
    results = [Result(Kind.MOST_CALLS, n, name, calls, report(), value=calls) for name, n, calls in found]
    assert Figures(results).most_calls("patchbay") == pytest.approx([0.8])


def test_nothing_found_is_no_limit_of_zero() -> None:
    """Nginx's limit that was not found divides nothing."""
    results = [
        Result(Kind.MOST_CALLS, 0, "nginx", 0, None, value=0, error="lost"),
        Result(Kind.MOST_CALLS, 0, "patchbay", 800, report(), value=800),
    ]
    assert Figures(results).most_calls("patchbay") == []


def test_what_was_not_measured_is_said() -> None:
    rows = Figures([turn("patchbay", report(cost=12), report(), report())]).rows()
    first = rows[0]
    assert first[2] == "**1.20 x** (1.20 to 1.20, n=1)"
    assert first[4] == "not measured"
    assert not any("quick run only" in name for name, *_ in rows)


def test_the_quick_run_has_the_p99_of_a_set_up_instead_of_the_rate() -> None:
    set_up = Result(Kind.SET_UP, 0, "patchbay", 600, report())
    searched = Result(Kind.SET_UP_RATE, 0, "patchbay", 706, report(), value=706)
    assert any("quick run only" in name for name, *_ in Figures([set_up]).rows())
    assert not any("quick run only" in name for name, *_ in Figures([set_up, searched]).rows())


def test_results_are_read_as_they_were_written() -> None:
    written = turn("patchbay", report(cost=12), report(cost=8), None, round_=2, number=3)
    assert Result.from_line(written.line()) == written
    failed = Result(Kind.SWEEP, 0, "naive relay", 700, None, error="a call was lost")
    assert Result.from_line(failed.line()) == failed
