# SPDX-License-Identifier: BSD-2-Clause
"""Results of a bench as nobody measured them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.load import Report, Spread
from benchmarks.results import Kind, Result

_NOTHING = Spread(p50=0, p90=0, p99=0, p999=0, max=0)
_GOOD = Report(
    calls=200,
    open_seconds=0.5,
    open_cpu_us_per_call=900,
    open_generator_load=0.2,
    window=1.0,
    sent=10_000,
    received=10_000,
    skipped=0,
    wrong=0,
    lost_calls=0,
    clean_closes=0,
    rss_idle_kb=50_000,
    rss_kb=51_000,
    cpu_seconds=0.2,
    cpu_per_million=10.0,
    generator_load=0.5,
    generator_cpu_seconds=1.0,
    cpu_each=(0.2,),
    upgrade_us=_NOTHING,
    set_up_us=_NOTHING,
    latency_us=_NOTHING,
    lag_us=_NOTHING,
)


def report(*, cost: float = 10.0, p99: float = 100.0, **others: Any) -> Report:
    """A run that kept up. `cost`: µs of CPU a message; `p99` of the round trip, in µs."""
    latency = replace(_NOTHING, p50=p99 / 2, p99=p99)
    return replace(_GOOD, cpu_per_million=cost, latency_us=latency, **others)


def turn(
    name: str,
    own: Report | None,
    before: Report | None,
    after: Report | None,
    *,
    calls: int = 200,
    round_: int = 0,
    number: int = 0,
) -> Result:
    """One turn between two windows of nginx."""
    return Result(Kind.LOAD, round_, name, calls, own, (before, after), turn=number)
