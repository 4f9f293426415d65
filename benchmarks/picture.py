# SPDX-License-Identifier: BSD-2-Clause
"""The picture of cost and delay against the number of calls."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.results import Kind, Result

LOST_MS = 20  # a round trip beyond this is a call nobody wants to hear


def draw(results: Sequence[Result], file: Path) -> None:
    """Draws the sweep; where a plan has none, the levels."""
    kind = Kind.SWEEP if any(r.kind is Kind.SWEEP for r in results) else Kind.LOAD
    points = [r for r in results if r.kind is kind and r.report]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    cost, delay = figure.subplots(1, 2)
    for name in dict.fromkeys(r.name for r in points):
        sizes = sorted({r.calls for r in points if r.name == name})
        runs = {n: [r.report for r in points if r.name == name and r.calls == n and r.report] for n in sizes}
        style = {
            "marker": "o",
            "markersize": 3.5,
            "label": name,
            "linestyle": "--" if "batching" in name else "-",
        }
        if name != "direct":
            cost.plot(sizes, [statistics.median(r.cpu_per_million for r in runs[n]) for n in sizes], **style)
        delay.plot(
            sizes, [statistics.median(r.latency_us.p99 for r in runs[n]) / 1000 for n in sizes], **style
        )
    cost.set(xlabel="calls", ylabel="µs CPU a relayed message", title="Cost", ylim=(0, None))
    delay.set(xlabel="calls", ylabel="round trip p99, ms", title="Delay", yscale="log")
    for ticks in (delay.yaxis.set_major_formatter, delay.yaxis.set_minor_formatter):
        ticks(FuncFormatter(lambda value, _: f"{value:g}"))
    delay.axhline(LOST_MS, color="grey", linewidth=0.8, linestyle=":")
    for axes in (cost, delay):
        axes.grid(alpha=0.3)
    if points:
        delay.legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
