# SPDX-License-Identifier: BSD-2-Clause
"""RESULTS.md: the figures, the runs behind them, who was the bottleneck, and what they do not show."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench import Plan
from benchmarks.contenders import TWO_WORKERS
from benchmarks.figures import Figures
from benchmarks.load import Report
from benchmarks.results import Kind, Result

FULL_CORE = 0.95  # of a core: more than this leaves no room
DOES_NOT_SHOW = """\
- A network. Everything runs over the loopback interface of one machine: no card, no driver, no loss, and the
  kernel's work for both ends of a connection is charged to whoever sends.
- TLS. Neither the carrier's leg nor the agent's is encrypted here.
- A machine under other load, or one with more cores. The contender has a core for itself, the load another.
- Agents that think. The echo answers at once; the relay's delay is seen clean, an agent's is not in it.
- Long calls. A run lasts seconds: growth over hours does not show.
- Two workers at their limit. The load needs a core too, so on two cores the two workers' figure is computed
  from the CPU they use at half load; the measured limit beside it is of three processes sharing two cores.
- The absolute times of another machine. Ratios carry over; microseconds do not.
- nginx and haproxy do less: they open no session, write no record, and cannot tell a call from a page."""


@dataclass(frozen=True, slots=True)
class Head:
    """The circumstances of a report. `seconds`: its duration. `unavailable`: contenders with their reasons.

    `undisturbed`: whether those who took turns had real-time priority.
    """

    command: str
    machine: Mapping[str, str]
    plan: Plan
    seconds: float
    finished: bool
    unavailable: Mapping[str, str]
    undisturbed: bool


def written(head: Head, results: Sequence[Result]) -> str:
    """The whole report as Markdown."""
    figures = Figures(results)
    parts = [
        "# What the relay costs",
        "Written by the command below; README.md beside this file tells the method. A figure is the median"
        " of its rounds, or of the turns that a contender and nginx took in them, with its range and their"
        " number. A ratio to nginx is to the mean of its two windows next to the contender's, one before and"
        " one after.",
        details(head),
        "## The figures",
        table(
            ("figure", "asked, pure Python", "pure Python", "asked, accelerator", "accelerator"),
            figures.rows(),
        ),
        *absences(head),
        *[part for calls in head.plan.levels for part in level(results, calls)],
        "## Set-up",
        set_up(results),
        "## The most calls on one core",
        most(results),
        "## 200 calls and 1,000",
        many(results),
        "## One worker and two",
        workers(results),
        "## Who was the bottleneck",
        bottleneck(results),
        "## What this does not show",
        DOES_NOT_SHOW,
    ]
    return "\n\n".join(parts) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, or a sentence where it would be empty."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if not lines:
        return "Not measured in this run."
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *lines])


def details(head: Head) -> str:
    """Command, hardware and versions."""
    plan = head.plan
    took = (
        f"{head.seconds:.0f} s, {plan.rounds} round(s) with {plan.turns} turns each, in windows of"
        f" {plan.turn_s} s; other windows of {plan.window_s} s"
    )
    priority = (
        "real-time for whoever takes turns"
        if head.undisturbed
        else "as any process's: no permission for real-time priority, so delays hold those of other processes"
    )
    rows = [
        ("Command", f"`{head.command}`"),
        ("Took", took),
        ("Priority", priority),
        *head.machine.items(),
    ]
    return table(("", ""), rows)


def absences(head: Head) -> list[str]:
    """Return sentences about missing measurements."""
    found = [f"`{name}` was not measured: {' '.join(why.split())}" for name, why in head.unavailable.items()]
    if not head.finished:
        found.append(f"The time of {head.plan.budget_s:.0f} s ran out before everything was measured.")
    return found


def middle(values: Iterable[float], digits: int) -> str:
    """The median, or nothing where there is none."""
    found = list(values)
    return f"{statistics.median(found):.{digits}f}" if found else ""


def named(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each contender, in the order in which they came."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.name, []).append(result)
    return found


def level(results: Sequence[Result], calls: int) -> list[str]:
    """Heading and table of all contenders at one number of calls."""
    here = [r for r in results if r.kind is Kind.LOAD and r.calls == calls]
    runs = {name: [r.report for r in of_name] for name, of_name in named(here).items()}
    neighbours = [r.nginx[0] for r in here]
    runs = {"nginx": neighbours, **runs}
    direct = [run for run in runs.get("direct", []) if run]
    rows = [
        level_row(name, tried, Figures(here).cpu(name, calls), direct)
        for name, tried in runs.items()
        if tried
    ]
    heads = (
        "contender",
        "µs CPU a message",
        "x nginx (range)",
        "round trip p50 / p99 / p99.9, ms",
        "added p50 / p99, ms",
        "KiB a call",
        "kept up",
    )
    return [f"## {calls} calls, {calls * 100:,} relayed messages a second", table(heads, rows)]


def level_row(
    name: str, tried: Sequence[Report | None], cpu_ratios: Sequence[float], direct: Sequence[Report]
) -> Sequence[str]:
    """One contender at one number of calls."""
    runs = [run for run in tried if run]
    trips = {q: [getattr(run.latency_us, q) / 1000 for run in runs] for q in ("p50", "p99", "p999")}
    added = ""
    if runs and direct and name != "direct":
        bare = {q: [getattr(run.latency_us, q) / 1000 for run in direct] for q in ("p50", "p99")}
        added = " / ".join(
            f"{statistics.median(trips[q]) - statistics.median(alone):.2f}" for q, alone in bare.items()
        )
    spread = f" ({min(cpu_ratios):.2f} to {max(cpu_ratios):.2f})" if cpu_ratios else ""
    return (
        name,
        "" if name == "direct" else middle((run.cpu_per_million for run in runs), 2),
        "" if name == "direct" else middle(cpu_ratios, 2) + spread,
        " / ".join(middle(values, 2) for values in trips.values()),
        added,
        "" if name == "direct" else middle((run.kb_per_call for run in runs), 1),
        f"{sum(run.kept_up for run in runs)} of {len(tried)}",
    )


def set_up(results: Sequence[Result]) -> str:
    """CPU and time of a set-up, and the highest rate."""
    rows = []
    for name, found in named(r for r in results if r.kind is Kind.SET_UP).items():
        runs = [r.report for r in found if r.report]
        rates = [r for r in results if r.kind is Kind.SET_UP_RATE and r.name == name]
        at_rate = [r.report.set_up_us.p99 / 1000 for r in rates if r.report]
        rows.append(
            (
                name,
                middle((run.open_cpu_us_per_call / 1000 for run in runs), 2),
                " / ".join(
                    middle((getattr(run.set_up_us, q) / 1000 for run in runs), 2)
                    for q in ("p50", "p99", "max")
                ),
                middle((r.value for r in rates if r.value is not None), 0),
                middle(at_rate, 1),
            )
        )
    heads = (
        "contender",
        "ms CPU a call",
        "set-up p50 / p99 / max at 300 calls/s, ms",
        "most calls/s",
        "p99 there, ms",
    )
    return table(heads, rows)


def most(results: Sequence[Result]) -> str:
    """The limits round by round."""
    rows = []
    for name, found in named(r for r in results if r.kind is Kind.MOST_CALLS).items():
        rows.append(
            (
                name,
                middle((r.value for r in found if r.value is not None), 0),
                ", ".join(f"{r.value:.0f}" for r in found if r.value is not None),
                middle((r.report.cores_used for r in found if r.report), 2),
                middle((r.report.generator_load for r in found if r.report), 2),
            )
        )
    return table(
        ("contender", "calls", "round by round", "its core, used there", "generator's core, busy"), rows
    )


def many(results: Sequence[Result]) -> str:
    """Costs with few calls, with many, and with many that are slow."""
    kinds = (Kind.FEW, Kind.MANY_SLOW, Kind.MANY)
    rows = []
    for name in named(r for r in results if r.kind in kinds):
        cells = [name]
        for kind in kinds:
            runs = Figures(results).reports(kind, name).values()
            cost, used = middle((r.cpu_per_million for r in runs), 2), middle((r.cores_used for r in runs), 2)
            cells.append(f"{cost} ({used})")
        rows.append(cells)
    heads = ("contender", "200 calls", "1,000 calls, together as many messages", "1,000 calls, full pace")
    return "µs CPU a message, and in brackets how much of the core was used.\n\n" + table(heads, rows)


def workers(results: Sequence[Result]) -> str:
    """Costs of one worker and of two, and the limit that sharing two cores with the load allows."""
    rows = []
    for name, found in named(r for r in results if r.kind is Kind.WORKERS).items():
        runs = [r.report for r in found if r.report]
        busiest = [max(run.cpu_each) / sum(run.cpu_each) for run in runs if sum(run.cpu_each)]
        rows.append(
            (
                name,
                str(found[0].calls),
                middle((run.cpu_per_million for run in runs), 2),
                middle(busiest, 2),
                middle((run.generator_cpu_seconds / run.window for run in runs), 2),
                f"{sum(run.kept_up for run in runs)} of {len(found)}",
            )
        )
    heads = (
        "contender",
        "calls",
        "µs CPU a message",
        "share of the busiest process",
        "cores used by the load",
        "kept up",
    )
    text = table(heads, rows)
    for r in results:
        if r.kind is Kind.WORKERS_MOST and r.report:
            own, theirs = r.report.cores_used, r.report.generator_cpu_seconds / r.report.window
            alone = middle(
                Figures(results).limits(Kind.MOST_CALLS, r.name.removesuffix(TWO_WORKERS)).values(), 0
            )
            text += (
                f"\n\n`{r.name}` carried {r.calls} calls with a round trip p99 within 20 ms while the load"
                f" shared its cores (one worker with a core for itself: {alone or 'not measured'}). There the"
                f" workers used {own:.2f} cores and the load {theirs:.2f}: the load's part is not theirs to"
                " use, so this is a lower bound."
            )
    return text


def bottleneck(results: Sequence[Result]) -> str:
    """Sentences from the runs at the limits: who had no core left."""
    lines = []
    for name, found in named(r for r in results if r.kind is Kind.MOST_CALLS and r.report).items():
        runs = [r.report for r in found if r.report]
        used = statistics.median(run.cores_used for run in runs)
        busy = statistics.median(run.generator_load for run in runs)
        who = [f"{name}'s own core"] if used >= FULL_CORE else []
        who += ["the generator's core"] if busy >= FULL_CORE else []
        verdict = (
            " and ".join(who) + " was full"
            if who
            else "neither core was full: waiting, not work, set the limit"
        )
        lines.append(
            f"- {name}, at its most calls: {used:.0%} of its core, generator busy {busy:.0%}; {verdict}."
        )
    loaded = [r.report for r in results if r.kind is Kind.LOAD and r.report]
    if loaded:
        busy, late = max(r.generator_load for r in loaded), max(r.lag_us.p99 for r in loaded) / 1000
        lines.append(
            f"- At the levels above the generator was busy {busy:.0%} of the time at most, and 99 of 100"
            f" messages left within {late:.2f} ms of when they were due."
        )
        kept = [r.generator_cpu_seconds / r.window for r in loaded]
        lines.append(
            f"- The generator polls, so it should use all of its core: it had {statistics.median(kept):.0%}"
            f" of it (least {min(kept):.0%}). What is missing was taken by something else on this machine,"
            " which then disturbed the contenders as well."
        )
    return "\n".join(lines) or "Not measured in this run."
