# SPDX-License-Identifier: BSD-2-Clause
"""Contenders take turns with nginx."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks import bench as bench_module
from benchmarks.bench import Bench, Plan
from benchmarks.load import Report
from benchmarks.measurements import levels
from benchmarks.results import Result
from gateway.simulator.server_process import StartError
from tests.benchmarks.results import report

PLAN = Plan(rounds=1, window_s=1.0, turns=2, turn_s=0.25, levels=(200, 500), budget_s=60, limits=False)


@dataclass
class Somebody:
    """A contender without a process. `fails`: why it does not start."""

    name: str
    fails: str = ""
    command: tuple[str, ...] = ("it",)
    url: str = ""
    load_options: tuple[str, ...] = ()
    accelerated: bool = False

    @contextmanager
    def running(self) -> Iterator[list[int]]:
        if self.fails:
            raise StartError(self.fails)
        yield []


@dataclass
class Windows:
    """A load that says in which order the windows came: the n-th costs n."""

    last_error: str = ""
    windows: list[tuple[str, str]] = field(default_factory=list)

    def run(self, url: str, calls: int, pids: Sequence[int], *, seconds: float, **_: Any) -> Report | None:
        if not seconds:
            return report()
        self.windows.append((url, str(calls)))
        return report(cost=len(self.windows), calls=calls)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Result], Windows, dict[str, str]]:
    """One round of two contenders, of which a third does not start."""
    monkeypatch.setattr(bench_module, "ahead_of_all", lambda pids: True)
    results: list[Result] = []
    load = Windows()
    others = [
        Somebody("haproxy", url="haproxy"),
        Somebody("absent", fails="no such file"),
        Somebody("patchbay", url="patchbay"),
        Somebody("patchbay, message coupling", url="coupling"),
    ]
    bench: Any = Bench(PLAN, load, Somebody("nginx", url="nginx"), others, (), (), None, results.append)  # type: ignore[arg-type]
    levels(bench, 0)
    return results, load, bench.unavailable


def test_nginx_has_a_window_before_and_after_each(
    measured: tuple[list[Result], Windows, dict[str, str]],
) -> None:
    """One between two contenders serves both; who is asked for at 200 calls only is measured there only."""
    _, load, _ = measured
    at_200 = [url for url, calls in load.windows if calls == "200"]
    at_500 = [url for url, calls in load.windows if calls == "500"]
    one = ["{}", "nginx"] * PLAN.turns
    both = [word.format(name) for name in ("haproxy", "patchbay") for word in one]
    assert at_500 == ["nginx", *both]
    assert at_200 == ["nginx", *both, *[word.format("coupling") for word in one]]


def test_each_turn_is_recorded_between_its_neighbours(
    measured: tuple[list[Result], Windows, dict[str, str]],
) -> None:
    results, _, _ = measured
    for result in results:
        before, after = result.nginx
        assert result.report is not None
        assert before is not None
        assert after is not None
        own = result.report.cpu_per_million
        assert (before.cpu_per_million, after.cpu_per_million) == (own - 1, own + 1)


def test_who_does_not_start_is_left_out_with_its_reason(
    measured: tuple[list[Result], Windows, dict[str, str]],
) -> None:
    results, _, unavailable = measured
    assert "absent" not in {result.name for result in results}
    assert unavailable == {"absent": "no such file"}
