# SPDX-License-Identifier: BSD-2-Clause
"""The services of a measurement: the plan, the contenders, the load and the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from benchmarks.contenders import LOAD_CORE, PROXY_CORE, Contender, accelerator_runs, status
from benchmarks.load import Load, Report
from benchmarks.machine import CORES
from benchmarks.processes import ahead_of_all, process_tree
from benchmarks.results import Kind, Result
from gateway.simulator.server_process import StartError

TURN_WARM_UP_S = 0.25
"""Before each window: long enough for a gateway to see that it is busy."""


class OutOfTimeError(Exception):
    """The plan's time is used up; the results so far are kept."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a measurement. `window_s`: of a run. `budget_s`: of everything. Both in seconds.

    `turns`: how often a contender and nginx take turns in a round, in windows of `turn_s`. `levels`: numbers
    of calls for everybody. `limits`: whether the most calls and the highest set-up rate are searched.
    `sweep`: further numbers of calls for the picture.
    """

    rounds: int
    window_s: float
    turns: int
    turn_s: float
    levels: tuple[int, ...]
    budget_s: float
    limits: bool
    sweep: tuple[int, ...] = ()


@dataclass(slots=True)
class Standing:
    """Open calls of one contender, silent outside of their windows. `calls`: how many; more may follow."""

    bench: Bench
    contender: Contender
    calls: int
    pids: Sequence[int]
    number: int  # of the set of calls, as wsload counts them
    _idle_kb: int | None = None

    def window(self, seconds: float) -> Report | None:
        """Measure one window, opening missing calls first. Memory counts from before the first call."""
        arguments = ("--set", str(self.number), "--keep", "--warm-up", str(TURN_WARM_UP_S))
        report = self.bench.run(self.contender, self.calls, self.pids, *arguments, window_s=seconds)
        if report is None:
            return None
        if self._idle_kb is None:
            self._idle_kb = report.rss_idle_kb
        return replace(report, rss_idle_kb=self._idle_kb)

    def hang_up(self) -> None:
        """Hang up the open calls."""
        if self._idle_kb is not None:
            arguments = ("--set", str(self.number))
            self.bench.run(self.contender, self.calls, self.pids, *arguments, window_s=0)


@dataclass(slots=True)
class Bench:
    """One execution of a plan."""

    plan: Plan
    load: Load
    nginx: Contender
    others: Sequence[Contender]  # measured at every level
    gateways: Sequence[Contender]  # Patchbay with one worker and nothing held back
    pairs: Sequence[tuple[Contender, Contender]]  # one worker, two workers
    naive: Contender
    record: Callable[[Result], None]
    began: float = field(default_factory=time.monotonic)
    unavailable: dict[str, str] = field(default_factory=dict)  # contender: why it is not measured
    undisturbed: bool = True  # whether who takes turns could be given real-time priority
    guesses: dict[tuple[Kind, str], float] = field(
        default_factory=dict
    )  # where to begin the search of a limit

    @contextmanager
    def running(self, contender: Contender) -> Iterator[list[int]]:
        """Start a contender; give its process ids.

        Raises OutOfTimeError, and StartError for one that did not start, now or earlier.
        """
        if time.monotonic() - self.began > self.plan.budget_s:
            raise OutOfTimeError
        if contender.name in self.unavailable:
            raise StartError(self.unavailable[contender.name])
        try:
            with contender.running() as pids:
                if contender.accelerated and not accelerator_runs(status(contender.port)):
                    raise StartError("no accelerator: /status names none")
                yield pids
        except StartError as error:
            self.unavailable[contender.name] = str(error)
            raise

    def run(
        self,
        contender: Contender,
        calls: int,
        pids: Sequence[int],
        *options: str,
        window_s: float | None = None,
    ) -> Report | None:
        """Run once against a running contender, with a load that polls on a core of its own."""
        seconds = self.plan.window_s if window_s is None else window_s
        report = self.load.run(
            contender.url, calls, pids, seconds=seconds, options=(*contender.load_options, *options)
        )
        return self._complete(report, pids)

    @contextmanager
    def running_undisturbed(self, contender: Contender) -> Iterator[list[int]]:
        """Run once at real-time priority if the system allows it; never with a full core."""
        with self.running(contender) as pids:
            self.undisturbed = ahead_of_all(pids) and self.undisturbed
            yield pids

    @contextmanager
    def standing(
        self, contender: Contender, calls: int, pids: Sequence[int], number: int
    ) -> Iterator[Standing]:
        """Give calls that are opened by their first window, and hang them up at the end."""
        standing = Standing(self, contender, calls, pids, number)
        try:
            yield standing
        finally:
            standing.hang_up()

    def run_sharing(self, contender: Contender, calls: int, pids: Sequence[int]) -> Report | None:
        """Run once with a load that sleeps when it has nothing to do.

        Polling, it would take one of two workers' cores on a machine that has no third.
        """
        if len(CORES) > 2:
            cores = {CORES[2]}
        elif len(contender.cores) > 1:
            cores = {PROXY_CORE, LOAD_CORE}
        else:
            cores = {LOAD_CORE}
        report = self.load.run(
            contender.url,
            calls,
            pids,
            seconds=self.plan.window_s,
            spin=False,
            cores=cores,
            options=contender.load_options,
        )
        return self._complete(report, pids)

    def _complete(self, report: Report | None, pids: Sequence[int]) -> Report | None:
        """Return the report, or None if a process started or ended meanwhile: its CPU would be missing."""
        if report and pids and process_tree(pids[0]) != list(pids):
            self.load.last_error = "a process of the contender was started or lost during the run"
            return None
        return report

    def keep(self, kind: Kind, round_: int, contender: Contender, calls: int, report: Report | None) -> None:
        """Record a run without runs of nginx before and after it."""
        error = "" if report else self.load.last_error
        self.record(Result(kind, round_, contender.name, calls, report, error=error))
