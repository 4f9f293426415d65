# SPDX-License-Identifier: BSD-2-Clause
"""One measurement of the seams as it is kept in results-seams.jsonl, and what it says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from benchmarks.api import ApiReport
from benchmarks.load import Report

PIECES_PER_S = 10  # of holding sound that a caller is sent (docs/holding.md: pieces of 100 ms)
WORDS_PER_S = 50  # messages that a caller says

Two = tuple[Report, Report]


@dataclass(frozen=True, slots=True)
class Turn:
    """A B B A, once. `plain`: the two A. `other`: the two B."""

    what: str
    variant: str
    round: int
    plain: Two
    other: Two

    @property
    def cpu_ratio(self) -> float:
        """CPU per message, B over A."""
        return cpu_per_message(self.other) / cpu_per_message(self.plain)

    @property
    def p99_ratio(self) -> float:
        """Round trip p99, B over A."""
        return p99_ms(self.other) / p99_ms(self.plain)


@dataclass(frozen=True, slots=True)
class HoldingTurn:
    """A B B A, once; B with further callers who hear holding sound.

    `idle`: everybody is silent, and nobody holds. `alone`: everybody is silent, and those who hold hear.
    `speaking`: they also speak.
    """

    variant: str
    round: int
    plain: Two
    other: Two
    idle: Report
    alone: Report
    speaking: Report

    @property
    def cpu_ratio(self) -> float:
        """CPU per message of the running calls without that of the hold audio, B over A."""
        own = self.piece_s * sum(run.heard for run in self.other)
        cpu = sum(run.cpu_seconds for run in self.other) - own
        return cpu / messages(self.other) * 1e6 / cpu_per_message(self.plain)

    @property
    def whole_ratio(self) -> float:
        """CPU per message of the running calls with that of the hold audio, B over A."""
        return cpu_per_message(self.other) / cpu_per_message(self.plain)

    @property
    def p99_ratio(self) -> float:
        """Round trip p99 of the running calls, B over A."""
        return p99_ms(self.other) / p99_ms(self.plain)

    @property
    def piece_s(self) -> float:
        """CPU of one piece of hold audio to one caller, in seconds."""
        return (self.alone.cpu_seconds - self.idle.cores_used * self.alone.window) / self.alone.heard

    @property
    def caller_ms(self) -> float:
        """CPU of one caller that hears hold audio, in milliseconds a second."""
        return self.piece_s * PIECES_PER_S * 1000

    @property
    def speaking_ms(self) -> float:
        """CPU of one caller with hold audio whose own audio is buffered, in milliseconds a second."""
        run = self.speaking
        cpu = run.cpu_seconds - self.idle.cores_used * run.window - self.piece_s * run.heard
        return cpu / run.sent * WORDS_PER_S * 1000 + self.caller_ms


@dataclass(frozen=True, slots=True)
class RefusedCalls:
    """One kind of refused calls in one round. `nginx`: its own 503, before all rounds and after."""

    what: str
    variant: str
    round: int
    ours: ApiReport
    nginx: tuple[ApiReport, ApiReport]


@dataclass(frozen=True, slots=True)
class Recovery:
    """One agent killed. `calls`: those it had. `times_ms`: from the kill to another agent's first sound."""

    variant: str
    round: int
    calls: int
    times_ms: tuple[float, ...]


SeamResult = Turn | HoldingTurn | RefusedCalls | Recovery


def line(result: SeamResult) -> str:
    """Return the result as one line of JSON."""
    return json.dumps({"kind": type(result).__name__, **asdict(result)})


def messages(runs: Two) -> int:
    """Relayed in both windows."""
    return sum(run.sent + run.received for run in runs)


def cpu_per_message(runs: Two) -> float:
    """Microseconds, over both windows."""
    return sum(run.cpu_seconds for run in runs) / messages(runs) * 1e6


def p99_ms(runs: Two) -> float:
    """The mean of both windows'."""
    return sum(run.latency_us.p99 for run in runs) / len(runs) / 1000
