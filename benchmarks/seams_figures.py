# SPDX-License-Identifier: BSD-2-Clause
"""The figures that are asked of the seams, computed from the results: one value a round, then the median."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from benchmarks.contenders import ACCELERATED, PYTHON
from benchmarks.seams import FORGED, HOLDING, NO_PLACE, PAIR_CALLS, UNKNOWN
from benchmarks.seams_houses import CALLS, OFTEN, SAME, USUAL
from benchmarks.seams_results import HoldingTurn, Recovery, RefusedCalls, SeamResult, Turn

NO_MORE = "no more than the noise"
Of = Callable[[str], str]  # from a variant to its cell


def cpu_of(turn: Turn | HoldingTurn) -> float:
    """CPU per message, B over A."""
    return turn.cpu_ratio


def p99_of(turn: Turn | HoldingTurn) -> float:
    """Round trip p99, B over A."""
    return turn.p99_ratio


def whole_of(turn: HoldingTurn) -> float:
    """CPU per message, B over A, with what the holding sound costs in it."""
    return turn.whole_ratio


def caller_ms(turn: HoldingTurn) -> float:
    """CPU of one who hears holding sound, in milliseconds a second."""
    return turn.caller_ms


class Seams:
    """The results of one execution, asked by figure; each answer is one value a round."""

    def __init__(self, results: Iterable[SeamResult]) -> None:
        found = list(results)
        self.turns = [r for r in found if isinstance(r, Turn)]
        self.holding = [r for r in found if isinstance(r, HoldingTurn)]
        self.refusals = [r for r in found if isinstance(r, RefusedCalls)]
        self.recoveries = [r for r in found if isinstance(r, Recovery)]

    def pinged(self, variant: str, what: str, of: Callable[[Turn], float] = cpu_of) -> list[float]:
        """With keep-alives over without; of calls without against others without, the noise."""
        return [of(turn) for turn in self.turns if (turn.variant, turn.what) == (variant, what)]

    def held(self, variant: str, of: Callable[[HoldingTurn], float]) -> list[float]:
        """Something of the rounds with holding sound."""
        return [of(turn) for turn in self.holding if turn.variant == variant]

    def refused_ms(self, variant: str, what: str) -> list[float]:
        """CPU of a refused call, in milliseconds."""
        return [r.ours.cpu_us / 1000 for r in self.refusals if (r.variant, r.what) == (variant, what)]

    def recovered_ms(self, variant: str) -> list[float]:
        """From the kill to another agent's first sound, of all callers, ascending."""
        return sorted(ms for r in self.recoveries if r.variant == variant for ms in r.times_ms)

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells: what is asked, and what was measured."""
        keep = f"CPU per message, {CALLS} calls, keep-alives"
        hold = f"of {CALLS} calls while {HOLDING} others hear holding sound, against without them"
        lines: list[tuple[str, str, Of]] = [
            (f"{keep} {USUAL}, against none", NO_MORE, lambda v: ratios(self.pinged(v, USUAL))),
            (f"{keep} {OFTEN}, against none", NO_MORE, lambda v: ratios(self.pinged(v, OFTEN))),
            (f"CPU per message {hold}, theirs taken off", NO_MORE, lambda v: ratios(self.held(v, cpu_of))),
            ("the same with nothing taken off", "", lambda v: ratios(self.held(v, whole_of))),
            ("the noise of these: none against none", "", lambda v: ratios(self.pinged(v, SAME))),
            (f"round trip p99 {hold}", NO_MORE, lambda v: figure(self.held(v, p99_of), "x")),
            ("the noise of this: none against none", "", lambda v: figure(self.pinged(v, SAME, p99_of), "x")),
            (
                "CPU of a caller who hears holding sound",
                "",
                lambda v: figure(self.held(v, caller_ms), "ms/s"),
            ),
        ]
        for what in (NO_PLACE, UNKNOWN, FORGED):
            lines.append((f"CPU of a refused call, {what}", "below 1", partial(self._refused, what)))
        died = f"from an agent's death to another's first sound, {PAIR_CALLS // 2} calls, p50 / p99 / max"
        lines.append((died, "", lambda v: recovered(self.recovered_ms(v))))
        return [(name, asked, of(PYTHON), asked, of(ACCELERATED)) for name, asked, of in lines]

    def _refused(self, what: str, variant: str) -> str:
        return figure(self.refused_ms(variant, what), "ms")

    def verdicts(self) -> list[str]:
        """Sentences: what is beyond the noise."""
        lines = []
        for variant in (PYTHON, ACCELERATED):
            for name, values, of in (
                (f"keep-alives {USUAL}", self.pinged(variant, USUAL), cpu_of),
                (f"keep-alives {OFTEN}", self.pinged(variant, OFTEN), cpu_of),
                ("holding sound, CPU per message", self.held(variant, cpu_of), cpu_of),
                ("holding sound, round trip p99", self.held(variant, p99_of), p99_of),
            ):
                noise = self.pinged(variant, SAME, of)
                if values and noise:
                    lines.append(f"- {variant}, {name}: {verdict(values, noise)}")
        return lines


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]


def figure(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """The median with its range and the number of rounds."""
    if not values:
        return "not measured"
    spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}, n={len(values)}"
    return f"**{statistics.median(values):.{digits}f} {unit}** ({spread})"


def ratios(values: Sequence[float]) -> str:
    """Return the text of a ratio, with hundredths."""
    return figure(values, "x", 3)


def recovered(ascending: Sequence[float]) -> str:
    """Quantiles of all callers of all rounds together."""
    if not ascending:
        return "not measured"
    times = " / ".join(f"{quantile(ascending, share):.0f}" for share in (0.5, 0.99, 1))
    return f"**{times} ms** (n={len(ascending)} calls)"


def verdict(values: Sequence[float], noise: Sequence[float]) -> str:
    """Return True if the median exceeds 1 by more than the noise's largest deviation from 1."""
    above, widest = statistics.median(values) - 1, max(abs(value - 1) for value in noise)
    which = "within the noise" if abs(above) <= widest else "**beyond the noise**"
    if above < -widest:
        which = "less by more than the noise, so something else was at work on this machine"
    return f"{above:+.1%}, the noise up to {widest:.1%} either way; {which}."
