# SPDX-License-Identifier: BSD-2-Clause
"""The table of a cluster's figures, beside what was asked for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cluster_calls import ARRIVALS, PLACES, Arrivals, Pair
from benchmarks.cluster_nodes import Death, RoundTrips
from benchmarks.cluster_store import FEW, FINISHED, MANY, Admissions, History


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `is_met`: None where nothing was asked for, or nothing measured."""

    figure: str
    target: str
    found: str
    is_met: bool | None


@dataclass(frozen=True, slots=True)
class Head:
    """What was run, where, and how long it took."""

    command: str
    machine: dict[str, str]
    seconds: float


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """Return the median with its range."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"**{statistics.median(values):.{digits}f}{unit}** ({low} to {high}, n={len(values)})"


def of_arrivals(found: Sequence[Arrivals], every: int) -> Row:
    """Return the row of calls that came at once."""
    lost = f", {sum(each.lost for each in found)} replies lost" if every else ""
    figure = f"places taken of {PLACES} by {ARRIVALS} calls at once over three nodes{lost}"
    words = [f"{each.taken} (heard their agent: {each.heard})" for each in found]
    return Row(figure, f"exactly {PLACES}", ", ".join(words), all(each.taken == PLACES for each in found))


def of_pair(figure: str, pair: Pair, target: float | None, unit: str) -> Row:
    """Return the row of two that were measured in turns."""
    ratios = pair.ratios()
    sizes = f"{statistics.median(pair.other):.2f} {unit} against {statistics.median(pair.before):.2f}"
    asked = "" if target is None else f"at most {target:.2f} x"
    is_met = None if target is None else statistics.median(ratios) <= target
    return Row(figure, asked, f"{spread(ratios, ' x')}; {sizes}", is_met)


def of_admissions(found: Admissions) -> list[Row]:
    """Return the rows of admissions by one client."""
    growth = statistics.median(found.many_us) / statistics.median(found.few_us)
    others = ", ".join(f"{name} {each:.0f} µs" for name, each in found.other_us.items())
    return [
        Row(
            f"Redis' own time of an admission, 20 agents, {MANY} running sessions",
            "at most 20 µs",
            spread(found.many_us, " µs", 1),
            statistics.median(found.many_us) <= 20,
        ),
        Row(f"the same, against {FEW} running sessions", "does not grow", f"{growth:.2f} x", growth <= 1.1),
        Row("Redis' own time of a session's other scripts", "", others, None),
        Row(
            "admissions a second by one node's client, 64 in flight",
            "at least 3000",
            spread(found.per_second, "", 0),
            statistics.median(found.per_second) >= 3000,
        ),
        Row("the client's CPU of an admission", "", spread(found.cpu_us, " µs", 0), None),
    ]


def of_deaths(found: Sequence[Death]) -> Row:
    """Return the row of a node that was killed."""
    words = [f"{each.places_s:.1f} s, {each.sessions_s:.1f} s" for each in found]
    where = "as on another machine" if found[0].is_elsewhere else "on the same machine"
    slowest = max(each.sessions_s for each in found)
    figure = f"`kill -9` of a node ({where}): its places free, its sessions over"
    return Row(figure, "within 15 s", "; ".join(words), slowest <= 15)


def of_stops(found: RoundTrips) -> list[Row]:
    """Return the rows of calls that are stopped through a node."""

    def row(figure: str, times: tuple[list[float], list[float]], target: float | None) -> Row:
        same, other = map(statistics.median, times)
        words = f"**{other / same:.2f} x**; {other:.1f} ms against {same:.1f} (n={len(times[0])})"
        asked = "" if target is None else f"at most {target:.0f} x"
        return Row(figure, asked, words, None if target is None else other / same <= target)

    return [
        row("a call of another node is stopped, until the caller's socket is closed", found.ended, 3),
        row("the same, until the request is answered", found.answered, 3),
    ]


def of_gaps(gaps: tuple[list[float], list[float]]) -> Row:
    """Return the row of a call's second socket."""
    same, other = map(statistics.median, gaps)
    words = f"**{other / same:.2f} x**; {other:.1f} ms against {same:.1f} (n={len(gaps[0])})"
    figure = "a carrier's second socket on another node: gap heard, against the same worker"
    return Row(figure, "at most 1.5 x", words, other / same <= 1.5)


def of_history(name: str, found: History, starts: tuple[list[float], list[float]]) -> list[Row]:
    """Return the rows of a store with a long history."""
    rows = []
    lists = {f"list of {what}": times for what, times in found.lists.items()}
    for what, times in {"admission": found.admission, **lists, "start": starts}.items():
        few, many = map(statistics.median, times)
        unit = "s" if what == "start" else "ms"
        words = f"**{many / few:.2f} x**; {many:.2f} {unit} against {few:.2f}"
        figure = f"{FINISHED:,} finished sessions, {name}: {what}"
        rows.append(Row(figure, "at most 1.10 x", words, many / few <= 1.1))
    return rows


def written(head: Head, rows: Sequence[Row]) -> str:
    """Return the report's part, in Markdown."""
    lines = [
        "## Several nodes on Redis",
        "",
        f"`{head.command.strip()}`, {head.seconds:.0f} s. "
        + "; ".join(f"{name}: {value}" for name, value in head.machine.items() if value),
        "",
        "| figure | asked | found | |",
        "| --- | --- | --- | --- |",
    ]
    marks = {True: "met", False: "**missed**", None: ""}
    lines += [f"| {row.figure} | {row.target} | {row.found} | {marks[row.is_met]} |" for row in rows]
    return "\n".join(lines) + "\n"
