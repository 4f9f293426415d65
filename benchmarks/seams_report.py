# SPDX-License-Identifier: BSD-2-Clause
"""The part of RESULTS.md that is about the seams."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report import table
from benchmarks.seams import HOLDING, REFUSALS_PER_S
from benchmarks.seams_figures import Seams, figure, quantile, ratios
from benchmarks.seams_houses import KEEP_ALIVES, SeamsPlan
from benchmarks.seams_results import (
    HoldingTurn,
    Recovery,
    RefusedCalls,
    SeamResult,
    Turn,
    cpu_per_message,
    p99_ms,
)


@dataclass(frozen=True, slots=True)
class SeamsHead:
    """The circumstances of a measurement. `seconds`: its duration. `machine`: as in the report's head.

    `parts`: what was to be measured. `failures`: what could not be, in sentences.
    """

    command: str
    machine: Mapping[str, str]
    plan: SeamsPlan
    parts: Sequence[str]
    seconds: float
    finished: bool
    failures: Sequence[str]


def progress_line(result: SeamResult) -> str:
    """One line of progress."""
    match result:
        case Turn():
            return f"{result.variant}: keep-alives {result.what}: {result.cpu_ratio:.3f} x CPU a message"
        case HoldingTurn():
            return (
                f"{result.variant}: {HOLDING} hold: {result.cpu_ratio:.3f} x CPU a message of the others,"
                f" {result.caller_ms:.2f} ms/s each"
            )
        case RefusedCalls():
            return f"{result.variant}: {result.what}: {result.ours.cpu_us:.0f} us CPU"
        case Recovery():
            times = sorted(result.times_ms)
            slowest = f", within {times[-1]:.0f} ms" if times else ""
            return f"{result.variant}: {len(times)} of {result.calls} calls recovered{slowest}"


def written(head: SeamsHead, results: Sequence[SeamResult]) -> str:
    """Return the part as Markdown."""
    seams = Seams(results)
    parts = [
        "## The seams",
        "Keep-alives, holding sound, refusals, and an agent that dies. What is compared is measured in turns,"
        " A B B A, in windows of the same run; a ratio is B over A, CPU per relayed message unless it says"
        " otherwise. A figure is the median of its rounds, with its range.",
        f"`{head.command}` took {head.seconds:.0f} s for this, {head.plan.rounds} round(s), windows of"
        f" {head.plan.window_s} s; Patchbay {head.machine['Patchbay']}, {head.machine['Kernel']},"
        f" {head.machine['nginx']}.",
        table(
            ("figure", "asked, pure Python", "pure Python", "asked, accelerator", "accelerator"), seams.rows()
        ),
        "\n".join(seams.verdicts()),
        "### Keep-alives",
        keep_alives(seams),
        "### Holding sound",
        holding(seams),
        "### Refused calls",
        refusals(seams),
        "### An agent dies",
        recoveries(seams),
        *absences(head),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def keep_alives(seams: Seams) -> str:
    """Both sides of each turn, and how many pings there were."""
    found: dict[tuple[str, str], list[Turn]] = {}
    for turn in seams.turns:
        found.setdefault((turn.variant, turn.what), []).append(turn)
    lines = [
        (
            variant,
            what,
            middle(cpu_per_message(turn.plain) for turn in turns),
            middle(cpu_per_message(turn.other) for turn in turns),
            ratios([turn.cpu_ratio for turn in turns]),
            middle(p99_ms(turn.plain) for turn in turns)
            + " / "
            + middle(p99_ms(turn.other) for turn in turns),
            f"{pings_a_second(turns):.0f}",
        )
        for (variant, what), turns in found.items()
    ]
    heads = (
        "contender",
        "keep-alives",
        "none, µs CPU a message",
        "with them",
        "x (range)",
        "round trip p99, ms: none / with",
        "pings/s to callers",
    )
    return table(heads, lines)


def pings_a_second(turns: Iterable[Turn]) -> float:
    """Return the pings per second to callers; their agents get as many."""
    runs = [run for turn in turns for run in turn.other]
    return sum(run.pings for run in runs) / sum(run.window for run in runs)


def holding(seams: Seams) -> str:
    """Both sides of each turn, and what one caller costs."""
    lines = []
    for variant in dict.fromkeys(turn.variant for turn in seams.holding):
        turns = [turn for turn in seams.holding if turn.variant == variant]
        lines.append(
            (
                variant,
                middle(cpu_per_message(turn.plain) for turn in turns),
                middle(cpu_per_message(turn.other) for turn in turns),
                ratios([turn.whole_ratio for turn in turns]),
                ratios([turn.cpu_ratio for turn in turns]),
                middle(p99_ms(turn.plain) for turn in turns)
                + " / "
                + middle(p99_ms(turn.other) for turn in turns),
                figure([turn.caller_ms for turn in turns], "ms/s"),
                figure([turn.speaking_ms for turn in turns], "ms/s"),
            )
        )
    heads = (
        "contender",
        "none hold, µs CPU a message",
        f"{HOLDING} hold, all CPU",
        "x, all CPU",
        "x, theirs taken off",
        "round trip p99, ms: none / hold",
        "CPU of one who hears it",
        "and speaks meanwhile",
    )
    return table(heads, lines)


def refusals(seams: Seams) -> str:
    """Return the cost of a refused call beside nginx's own 503."""
    found: dict[tuple[str, str], list[RefusedCalls]] = {}
    for one in seams.refusals:
        found.setdefault((one.variant, one.what), []).append(one)
    lines = [
        (
            variant,
            what,
            middle((run.cpu_us / 1000 for r in rounds for run in r.nginx), 3),
            figure([r.ours.cpu_us / 1000 for r in rounds], "ms"),
            f"{statistics.median(against_nginx(r) for r in rounds):.1f} x",
            middle(r.ours.p99_us / 1000 for r in rounds),
        )
        for (variant, what), rounds in found.items()
    ]
    heads = ("contender", "refused", "nginx 503, ms CPU", "ms CPU", "x nginx", "p99, ms")
    return f"{REFUSALS_PER_S} refused calls a second, each on a connection of its own.\n\n" + table(
        heads, lines
    )


def against_nginx(refusal: RefusedCalls) -> float:
    """CPU over the mean of nginx's two."""
    return refusal.ours.cpu_us / statistics.mean(run.cpu_us for run in refusal.nginx)


def recoveries(seams: Seams) -> str:
    """Kill by kill."""
    lines = []
    for one in seams.recoveries:
        times = sorted(one.times_ms)
        quantiles = [f"{quantile(times, share):.1f}" if times else "" for share in (0.5, 0.99, 1)]
        lines.append((one.variant, f"{len(times)} of {one.calls}", *quantiles))
    return table(("contender", "calls recovered", "p50, ms", "p99, ms", "max, ms"), lines)


def middle(values: Iterable[float], digits: int = 2) -> str:
    """The median, or nothing where there is none."""
    found = list(values)
    return f"{statistics.median(found):.{digits}f}" if found else ""


def absences(head: SeamsHead) -> list[str]:
    """Return sentences about missing measurements."""
    found = list(head.failures)
    if KEEP_ALIVES in head.parts and not head.plan.usual:
        found.append(
            "The default interval of keep-alives is measured in a full run only: calls must get 20 s old."
        )
    if not head.finished:
        found.append(f"The time of {head.plan.budget_s:.0f} s ran out before everything was measured.")
    return found
