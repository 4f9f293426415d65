# SPDX-License-Identifier: BSD-2-Clause
"""Compare this checkout with another one: `python -m benchmarks.compare CHECKOUT`.

Both run at the same time on one core and take turns in short windows, so that the drift of a noisy machine
cancels: every ratio is of a window of this checkout to the mean of the other's windows before and after it.
The other checkout needs a `.venv` of its own, as `make setup` makes it there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import contenders, machine, measurements
from benchmarks.bench import Bench, Plan
from benchmarks.contenders import ACCELERATED, BATCHING, COUPLING, PYTHON, Contender
from benchmarks.load import Load, Report, build
from benchmarks.processes import free_ports, raise_file_limit
from benchmarks.results import Kind, Result
from gateway.simulator.server_process import StartError

FIRST_PORT = 18600
FILES_WANTED = 8192
VARIANTS = (PYTHON, PYTHON + COUPLING, ACCELERATED, ACCELERATED + BATCHING)
LEVELS = (200, 500)
SET_UPS = 300
SET_UP_RATE = 150
MEMORY_CALLS = 200
MEMORY_STARTS = 4  # in a round: a process has one such figure, and among few calls it scatters
PLAN = Plan(rounds=3, window_s=0.5, turns=6, turn_s=0.35, levels=LEVELS, budget_s=3600, limits=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """One variant, from this checkout and from the other."""

    now: Contender
    before: Contender


def pair_of(variant: contenders.Variant, ports: list[int], agent_port: int, checkout: Path) -> Pair:
    """Make the two contenders of a variant."""
    now = contenders.patchbay(variant, ports.pop(), agent_port)
    before = contenders.patchbay(variant, ports.pop(), agent_port)
    python = str(checkout / ".venv" / "bin" / "python")
    return Pair(now, replace(before, name=f"before: {variant.name}", command=(python, *before.command[1:])))


def ratios(results: Iterable[Result], of: Callable[[Report], float]) -> list[float]:
    """Return the ratio of every window to the mean of its two neighbours."""
    found = []
    for result in results:
        neighbours = [of(report) for report in result.nginx if report]
        if result.report and neighbours and min(neighbours) > 0:
            found.append(of(result.report) / statistics.mean(neighbours))
    return found


def relay(bench: Bench, pair: Pair, calls: int, round_: int) -> None:
    """Measure windows of both in turns, all their calls standing."""
    with (
        bench.running_undisturbed(pair.before) as pids,
        bench.standing(pair.before, calls, pids, 0) as yardstick,
    ):
        measurements.turns(bench, round_, pair.now, yardstick, yardstick.window(bench.plan.turn_s))


def set_up(bench: Bench, contender: Contender, pids: Sequence[int]) -> Report | None:
    """Measure the CPU of paced set-ups, with what is done behind each call."""
    options = ("--rate", str(SET_UP_RATE), "--settle", str(measurements.SETTLE_S))
    return bench.run(contender, SET_UPS, pids, *options, window_s=0)


def set_ups(bench: Bench, pair: Pair, round_: int) -> None:
    """Measure set-ups of both in turns; the first of each process is not counted."""
    with bench.running_undisturbed(pair.before) as old, bench.running_undisturbed(pair.now) as new:
        set_up(bench, pair.before, old)
        set_up(bench, pair.now, new)
        before = set_up(bench, pair.before, old)
        for turn in range(bench.plan.turns):
            report = set_up(bench, pair.now, new)
            after = set_up(bench, pair.before, old)
            bench.record(
                Result(Kind.SET_UP, round_, pair.now.name, SET_UPS, report, (before, after), turn=turn)
            )
            before = after


def memory(bench: Bench, pair: Pair, round_: int) -> None:
    """Measure the memory of few calls, in a process of its own each time, both in turns."""

    def once(contender: Contender) -> Report | None:
        with (
            bench.running(contender) as pids,
            bench.standing(contender, MEMORY_CALLS, pids, 0) as standing,
        ):
            return standing.window(bench.plan.turn_s)

    before = once(pair.before)
    for turn in range(MEMORY_STARTS):
        report = once(pair.now)
        after = once(pair.before)
        bench.record(
            Result(Kind.FEW, round_, pair.now.name, MEMORY_CALLS, report, (before, after), turn=turn)
        )
        before = after


def row(name: str, values: Sequence[float], absolute: Sequence[float], unit: str) -> str:
    """Make one row of the table."""
    if not values:
        return f"| {name} | not measured | |"
    spread = f"{min(values):.3f} to {max(values):.3f}, n={len(values)}"
    middle = f"**{statistics.median(values):.3f}** ({spread})"
    return f"| {name} | {middle} | {statistics.median(absolute):.2f} {unit} |"


def table(results: Sequence[Result], variants: Iterable[str]) -> str:
    """Return the table, in Markdown."""
    lines = ["| Figure | this checkout / the other | this checkout |", "| --- | --- | --- |"]

    def add(label: str, chosen: list[Result], of: Callable[[Report], float], unit: str) -> None:
        absolute = [of(result.report) for result in chosen if result.report]
        lines.append(row(label, ratios(chosen, of), absolute, unit))

    for variant in variants:
        own = [result for result in results if result.name == variant]
        for calls in LEVELS:
            windows = [r for r in own if r.kind is Kind.LOAD and r.calls == calls]
            if windows:
                label = f"{variant}, {calls} calls"
                add(f"{label}: CPU a message", windows, lambda report: report.cpu_per_million, "µs")
            if windows and calls == LEVELS[-1]:
                add(
                    f"{label}: memory a call",
                    windows[:: PLAN.turns],
                    lambda report: report.kb_per_call,
                    "KiB",
                )
        starts = [r for r in own if r.kind is Kind.FEW]
        add(
            f"{variant}, {MEMORY_CALLS} calls: memory a call",
            starts,
            lambda report: report.kb_per_call,
            "KiB",
        )
        openings = [r for r in own if r.kind is Kind.SET_UP]
        add(f"{variant}: CPU a set-up", openings, lambda report: report.open_cpu_us_per_call, "µs")
    return "\n".join(lines)


def compare(checkout: Path, rounds: int, selected: str) -> str:
    """Measure everything; return the table. Raises StartError if a gateway or the load does not
    start.
    """
    variants = [
        variant for variant in contenders.VARIANTS if variant.name in VARIANTS and selected in variant.name
    ]
    results: list[Result] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="patchbay-bench-")))
        ports = free_ports(FIRST_PORT, 2 * len(variants) + 1)
        load = stack.enter_context(closing(Load(build(directory), ports.pop(0), contenders.LOAD_CORE)))
        pairs = [pair_of(variant, ports, load.agent_port, checkout) for variant in variants]

        def record(result: Result) -> None:
            results.append(result)
            print(f"round {result.round + 1}  {result.kind} {result.name} {result.calls}", file=sys.stderr)

        bench = Bench(
            replace(PLAN, rounds=rounds), load, pairs[0].before, [], [], [], pairs[0].before, record
        )
        for round_ in range(rounds):
            for pair in pairs:
                for calls in LEVELS:
                    relay(bench, pair, calls, round_)
                set_ups(bench, pair, round_)
                memory(bench, pair, round_)
    return table(results, [variant.name for variant in variants])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("checkout", type=Path, help="another checkout, with its own .venv")
    parser.add_argument("--rounds", type=int, default=PLAN.rounds)
    parser.add_argument("--only", default="", metavar="TEXT", help="only variants with TEXT in their names")
    arguments = parser.parse_args()
    try:
        machine.find_tools(install=False)
        if len(machine.CORES) < 2 or raise_file_limit() < FILES_WANTED:
            raise machine.MissingToolsError("two cores and many open files are needed")
        print(compare(arguments.checkout.resolve(), arguments.rounds, arguments.only))
    except (machine.MissingToolsError, StartError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
