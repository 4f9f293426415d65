# SPDX-License-Identifier: BSD-2-Clause
"""The part of RESULTS.md about the public API."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.api import CONNECTIONS, SCENARIOS, ApiPlan, ApiResult, Pair
from benchmarks.report import FULL_CORE, table


@dataclass(frozen=True, slots=True)
class ApiHead:
    """The circumstances of a measurement. `seconds`: its duration. `machine`: as in the report's head."""

    command: str
    machine: Mapping[str, str]
    plan: ApiPlan
    seconds: float
    finished: bool


def written(head: ApiHead, results: Sequence[ApiResult]) -> str:
    """Return the part as Markdown."""
    parts = [
        "## The public API",
        "One worker beside nginx, which passes the same request on to the same agent; a start goes to the"
        f" agent's `/bot` there. {CONNECTIONS} connections that are kept. A figure is the median of its"
        " rounds; a ratio (with its range) is to the mean of two measurements of nginx, one right before and"
        " one right after.",
        f"`{head.command}` took {head.seconds:.0f} s for this, {head.plan.rounds} round(s), windows of"
        f" {head.plan.paced_s} s at the pace and {head.plan.full_s} s as fast as it goes; Patchbay"
        f" {head.machine['Patchbay']}, {head.machine['Kernel']}, {head.machine['nginx']}.",
        "### At the pace",
        paced(results),
        "### As fast as one core goes",
        full(results),
        bottleneck(results),
        *absences(head, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def by_scenario(results: Iterable[ApiResult]) -> dict[str, list[ApiResult]]:
    """Return the complete measurements by scenario."""
    found: dict[str, list[ApiResult]] = {}
    for result in results:
        if result.ours and result.neighbours:
            found.setdefault(result.scenario, []).append(result)
    return found


def middle(rounds: Iterable[ApiResult], of: Callable[[Pair], float]) -> tuple[float, float]:
    """Return the medians of a quantity: nginx's and ours."""
    nginx, ours = [], []
    for result in rounds:
        nginx += [of(pair) for pair in result.neighbours]
        ours += [of(result.ours)] if result.ours else []
    return statistics.median(nginx), statistics.median(ours)


def ratio(rounds: Iterable[ApiResult], of: Callable[[Pair], float]) -> str:
    """Ours over the mean of nginx's two, round by round: the median and the range."""
    values = [
        of(result.ours) / statistics.mean(of(pair) for pair in result.neighbours)
        for result in rounds
        if result.ours
    ]
    return f"**{statistics.median(values):.2f} x** ({min(values):.2f} to {max(values):.2f}, n={len(values)})"


def paced(results: Iterable[ApiResult]) -> str:
    """Return the table of CPU and delay at a pace that every contender keeps up with."""
    rows = []
    rates = {scenario.name: scenario.rate for scenario in SCENARIOS}
    for name, rounds in by_scenario(results).items():
        cpu, p50, p99 = (middle(rounds, of) for of in (_cpu, _p50, _p99))
        rows.append(
            (
                name,
                str(rates[name]),
                f"{cpu[0]:.0f} / {cpu[1]:.0f}",
                ratio(rounds, _cpu),
                f"{p50[0]:.2f} / {p50[1]:.2f}",
                ratio(rounds, _p50),
                f"{p99[0]:.2f} / {p99[1]:.2f}",
                ratio(rounds, _p99),
            )
        )
    heads = (
        "request",
        "requests/s",
        "µs CPU a request: nginx / patchbay",
        "x nginx",
        "p50, ms: nginx / patchbay",
        "x nginx",
        "p99, ms: nginx / patchbay",
        "x nginx",
    )
    return table(heads, rows)


def full(results: Iterable[ApiResult]) -> str:
    """Return the table of requests a second."""
    rows = []
    for name, rounds in by_scenario(results).items():
        rate, cpu, p99 = (middle(rounds, of) for of in (_full_rate, _full_cpu, _full_p99))
        rows.append(
            (
                name,
                f"{rate[0]:.0f} / {rate[1]:.0f}",
                ratio(rounds, _full_rate),
                f"{cpu[0]:.0f} / {cpu[1]:.0f}",
                f"{p99[0]:.1f} / {p99[1]:.1f}",
            )
        )
    heads = (
        "request",
        "requests/s: nginx / patchbay",
        "x nginx",
        "µs CPU a request: nginx / patchbay",
        "p99, ms: nginx / patchbay",
    )
    return table(heads, rows)


def bottleneck(results: Sequence[ApiResult]) -> str:
    """Return sentences about the contenders whose core was full at full speed."""
    lines = []
    for name, rounds in by_scenario(results).items():
        for who, used, busy in zip(
            ("nginx", "patchbay"), middle(rounds, _used), middle(rounds, _busy), strict=True
        ):
            full_cores = [f"{who}'s own core"] if used >= FULL_CORE else []
            full_cores += ["the generator's core"] if busy >= FULL_CORE else []
            verdict = " and ".join(full_cores) + " was full" if full_cores else "neither core was full"
            lines.append(
                f"- {name}, {who}: {used:.0%} of its core, generator and agent busy {busy:.0%}; {verdict}."
            )
    had = [
        run.generator_cpu_seconds / run.window
        for result in results
        for pair in (result.ours, *result.nginx)
        if pair
        for run in (pair.paced, pair.full)
    ]
    if had:
        lines.append(
            f"- Generator and agent poll, so they should use all of their core: they had"
            f" {statistics.median(had):.0%} of it (least {min(had):.0%}). What is missing was taken by"
            " something else on this machine, which then disturbed the contenders as well."
        )
    return "\n".join(lines)


def absences(head: ApiHead, results: Sequence[ApiResult]) -> list[str]:
    """Return sentences about missing measurements."""
    found = [
        f"`{result.scenario}` failed in round {result.round + 1}: {result.error or 'nginx did'}"
        for result in results
        if not (result.ours and result.neighbours)
    ]
    if not head.finished:
        found.append(f"The time of {head.plan.budget_s:.0f} s ran out before everything was measured.")
    return found


def _cpu(pair: Pair) -> float:
    return pair.paced.cpu_us


def _p50(pair: Pair) -> float:
    return pair.paced.p50_us / 1000


def _p99(pair: Pair) -> float:
    return pair.paced.p99_us / 1000


def _full_rate(pair: Pair) -> float:
    return pair.full.per_second


def _full_cpu(pair: Pair) -> float:
    return pair.full.cpu_us


def _full_p99(pair: Pair) -> float:
    return pair.full.p99_us / 1000


def _used(pair: Pair) -> float:
    return pair.full.cores_used


def _busy(pair: Pair) -> float:
    return pair.full.generator_load
