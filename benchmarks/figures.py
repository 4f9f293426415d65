# SPDX-License-Identifier: BSD-2-Clause
"""The relay's figures: medians of the results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.contenders import ACCELERATED, BATCHING, COUPLING, PYTHON, TWO_WORKERS
from benchmarks.load import Report
from benchmarks.measurements import FEW, MANY, SET_UP_PACE
from benchmarks.results import Kind, Result

Values = list[float]  # one a round, or one a turn
Of = Callable[[str], Values]  # from Patchbay's variant to its values


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `targets`: in words, for pure Python and with the accelerator."""

    name: str
    targets: tuple[str, str]
    unit: str
    of: Of
    digits: int = 2

    def measured(self, variant: str) -> str:
        """Return the median, the range, and the number of values."""
        values = self.of(variant)
        if not values:
            return "not measured"
        middle = f"{statistics.median(values):.{self.digits}f}"
        spread = f"{min(values):.{self.digits}f} to {max(values):.{self.digits}f}, n={len(values)}"
        return f"**{middle} {self.unit}** ({spread})"


class Figures:
    """The results of one execution, by figure."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = list(results)

    def reports(self, kind: Kind, name: str, calls: int | None = None) -> dict[int, Report]:
        """Return the successful runs by round."""
        return {
            r.round: r.report
            for r in self._results
            if r.kind is kind and r.name == name and r.report and calls in (None, r.calls)
        }

    def limits(self, kind: Kind, name: str) -> dict[int, float]:
        """Return the limits by round."""
        return {
            r.round: r.value
            for r in self._results
            if r.kind is kind and r.name == name and r.value is not None
        }

    def against_nginx(
        self, name: str, calls: int, quantity: Callable[[Report], float]
    ) -> dict[tuple[int, int], float]:
        """Return a quantity over the mean of nginx's before and after it, by round and turn."""
        found: dict[tuple[int, int], float] = {}
        for r in self._results:
            if r.kind is Kind.LOAD and r.name == name and r.calls == calls and r.report:
                neighbours = [quantity(n) for n in r.nginx if n]
                if len(neighbours) == 2:
                    found[r.round, r.turn] = quantity(r.report) / statistics.mean(neighbours)
        return found

    def cpu(self, variant: str, calls: int, suffix: str = "") -> Values:
        """Return the CPU per message over nginx's."""
        return list(self.against_nginx(variant + suffix, calls, cpu_per_message).values())

    def cpu_against_haproxy(self, variant: str, calls: int) -> Values:
        """Return the CPU per message over haproxy's, both by way of nginx's."""
        ours = self.against_nginx(variant, calls, cpu_per_message)
        theirs = self.against_nginx("haproxy", calls, cpu_per_message)
        return ratios(ours, theirs)

    def round_trip_p50(self, variant: str) -> Values:
        """The round trip's p50 over nginx's, at 200 calls."""
        return list(self.against_nginx(variant, FEW, lambda r: r.latency_us.p50).values())

    def round_trip_p99(self, variant: str) -> Values:
        """The round trip's p99 over the median of all of nginx's of the same round, at 200 calls.

        Two neighbours would say little: nginx's own is several times as long in some windows as in others.
        """
        here = [r for r in self._results if r.kind is Kind.LOAD and r.calls == FEW]
        found = []
        for round_ in sorted({r.round for r in here}):
            of_round = [r for r in here if r.round == round_]
            yardstick = [r.nginx[1].latency_us.p99 for r in of_round if r.nginx[1]]
            own = [r.report.latency_us.p99 for r in of_round if r.name == variant and r.report]
            found += [p99 / statistics.median(yardstick) for p99 in own if yardstick]
        return found

    def most_calls(self, variant: str) -> Values:
        """The most calls over nginx's of the same round."""
        return ratios(self.limits(Kind.MOST_CALLS, variant), self.limits(Kind.MOST_CALLS, "nginx"))

    def memory(self, variant: str) -> Values:
        """KiB a call above idle, at 500 calls."""
        return [r.kb_per_call for r in self.reports(Kind.LOAD, variant, 500).values()]

    def set_up_cpu(self, variant: str) -> Values:
        """CPU of a set-up, in milliseconds."""
        return [r.open_cpu_us_per_call / 1000 for r in self.reports(Kind.SET_UP, variant).values()]

    def set_up_rate(self, variant: str) -> Values:
        """The highest rate of set-ups, in calls a second."""
        return list(self.limits(Kind.SET_UP_RATE, variant).values())

    def set_up_p99_at_target(self, variant: str) -> Values:
        """The p99 of a set-up at the rate that is asked for, in milliseconds; only without a search."""
        if self.limits(Kind.SET_UP_RATE, variant):
            return []
        return [r.set_up_us.p99 / 1000 for r in self.reports(Kind.SET_UP, variant).values()]

    def two_workers(self, variant: str) -> Values:
        """How many times one worker's messages two workers relay, by the CPU they need and how they share it.

        Two cores hold two workers until the busier is full: 2 x cost(one) / cost(two), less by as much as the
        busier has more than half of the work.
        """
        one = self.reports(Kind.WORKERS, variant)
        two = self.reports(Kind.WORKERS, variant + TWO_WORKERS)
        found = []
        for round_ in one.keys() & two.keys():
            busy = [cpu for cpu in two[round_].cpu_each if cpu > 0]
            if busy and two[round_].cpu_per_million:
                share = max(busy) / sum(busy)
                found.append(one[round_].cpu_per_million / two[round_].cpu_per_million / share)
        return found

    def many(self, variant: str, kind: Kind) -> Values:
        """CPU per message at 1,000 calls over that at 200 in the same process."""
        few = {n: r.cpu_per_million for n, r in self.reports(Kind.FEW, variant).items()}
        return ratios({n: r.cpu_per_million for n, r in self.reports(kind, variant).items()}, few)

    def table(self) -> list[Figure]:
        """Return every figure, in the order of the targets' document."""
        found = []
        for calls in (200, 500):
            name = f"CPU per message against nginx, {calls} calls, nothing held back"
            found.append(Figure(name, ("at most 1.30", "at most 1.00"), "x", partial(self.cpu, calls=calls)))
        for calls in (200, 500):
            name = f"the same with adaptive batching, {calls} calls"
            of = partial(self.cpu, calls=calls, suffix=BATCHING)
            found.append(Figure(name, ("at most 1.05", "at most 0.75"), "x", of))
        for calls in (200, 500):
            name = f"CPU per message against haproxy, {calls} calls, nothing held back"
            of = partial(self.cpu_against_haproxy, calls=calls)
            found.append(Figure(name, ("at most 1.15", "below 0.90"), "x", of))
        name = "round trip {} against nginx, 200 calls, nothing held back"
        found += [
            Figure(name.format("p50"), ("at most 1.15", "at most 1.10"), "x", self.round_trip_p50),
            Figure(name.format("p99"), ("at most 1.30", "at most 1.20"), "x", self.round_trip_p99),
        ]
        slow, full = partial(self.many, kind=Kind.MANY_SLOW), partial(self.many, kind=Kind.MANY)
        same = ("at most 1.1", "at most 1.1")
        return [
            *found,
            Figure(
                "most calls on one core with round trip p99 within 20 ms, against nginx",
                ("at least 0.75", "at least 1.0"),
                "x",
                self.most_calls,
            ),
            Figure("memory a call above idle, 500 calls", ("at most 8", "at most 8"), "KiB", self.memory, 1),
            Figure(
                "CPU of a set-up, its record included", ("at most 1.5", "at most 1.5"), "ms", self.set_up_cpu
            ),
            Figure(
                "set-up rate on one core with set-up p99 within 100 ms",
                ("at least 300", "at least 300"),
                "calls/s",
                self.set_up_rate,
                0,
            ),
            Figure(
                f"set-up p99 at {SET_UP_PACE} calls/s (quick run only)",
                ("at most 100", "at most 100"),
                "ms",
                self.set_up_p99_at_target,
                1,
            ),
            Figure(
                "two workers on two cores against one, by their CPU and its balance",
                ("at least 1.8", "at least 1.8"),
                "x",
                self.two_workers,
            ),
            Figure(f"CPU per message at {MANY} calls against {FEW}, all at full pace", same, "x", full),
            Figure(f"the same, {MANY} calls that send as many messages together as {FEW}", same, "x", slow),
            Figure(
                "message coupling against nginx, CPU per message, 200 calls",
                ("at most 2.0", "at most 2.0"),
                "x",
                partial(self.cpu, calls=200, suffix=COUPLING),
            ),
        ]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table."""
        return [
            (f.name, f.targets[0], f.measured(PYTHON), f.targets[1], f.measured(ACCELERATED))
            for f in self.table()
            if "quick run only" not in f.name or f.of(PYTHON) or f.of(ACCELERATED)
        ]


def cpu_per_message(report: Report) -> float:
    """Return a time in microseconds."""
    return report.cpu_per_million


def ratios(above: Mapping[Any, float], below: Mapping[Any, float]) -> Values:
    """Return quotients by round or turn, for those that have both values."""
    return [above[n] / below[n] for n in sorted(above.keys() & below.keys()) if below[n]]
