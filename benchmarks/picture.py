# SPDX-License-Identifier: BSD-2-Clause
"""The picture of cost and delay by the number of calls."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.results import Kind, Result

LOST_MS = 20  # a round trip beyond this is a call nobody wants to hear


def draw(results: Sequence[Result], file: Path) -> None:
    """Draw the sweep; where a plan has none, the levels."""
    kind = Kind.SWEEP if any(r.kind is Kind.SWEEP for r in results) else Kind.LOAD
    points = [(r.name, r.calls, r.report) for r in results if r.kind is kind and r.report]
    if kind is Kind.LOAD:  # there nginx is measured around the others, not as one of them
        points += [("nginx", r.calls, r.nginx[0]) for r in results if r.kind is kind and r.nginx[0]]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    cost, delay = figure.subplots(1, 2)
    for number, name in enumerate(dict.fromkeys(name for name, _, _ in points)):
        sizes = sorted({calls for one, calls, _ in points if one == name})
        runs = {n: [report for one, calls, report in points if one == name and calls == n] for n in sizes}
        style = {
            "marker": "o",
            "markersize": 3.5,
            "label": name,
            "color": f"C{number}",  # the same in both halves, though not everybody is in both
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
        ticks(FuncFormatter(lambda value, _: f"{value:g}" if str(f"{value:g}").strip("0.") in "125" else ""))
    delay.axhline(LOST_MS, color="grey", linewidth=0.8, linestyle=":")
    for axes in (cost, delay):
        axes.grid(alpha=0.3)
    if points:
        lines, names = delay.get_legend_handles_labels()
        figure.legend(lines, names, fontsize="small", loc="outside lower center", ncols=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
