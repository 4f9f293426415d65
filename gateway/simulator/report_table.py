# SPDX-License-Identifier: BSD-2-Clause
"""Reports of simulated calls as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gateway.simulator.call_plan import CallReport

MAX_ROWS = 12
"""More calls than these are only summed up."""

NOTHING = "-"

CAPTION = "p50, p99: how long after being said the caller's own words came back"

NUMBERS = (
    "set-up\nms",
    "frames\nsent",
    "frames\nback",
    "\nlost",
    "p50\nms",
    "p99\nms",
    "heard\ns",
    "\nmarks",
)


def calls_table(reports: Sequence[CallReport], title: str) -> Table:
    """Return a table of 80 columns: a row a call up to MAX_ROWS, and a sum if there are several."""
    table = Table(
        title=title,
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("\ncarrier", no_wrap=True)
    for heading in NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nended by", no_wrap=True)
    if len(reports) <= MAX_ROWS:
        for report in reports:
            table.add_row(*_row(report), style="red" if report.failed else None)
    if len(reports) > 1:
        table.add_section()
        table.add_row(*_sum(reports), style="bold")
    return table


def problems(reports: Sequence[CallReport]) -> list[str]:
    """Return the errors and complaints as sentences, each once with its count."""
    counted: dict[str, int] = {}
    for report in reports:
        for detail in filter(None, (report.error, *(f"complaint: {text}" for text in report.complaints))):
            line = f"{report.carrier}: {detail}"
            counted[line] = counted.get(line, 0) + 1
    return [line if count == 1 else f"{line} ({count} calls)" for line, count in counted.items()]


def _row(report: CallReport) -> tuple[str, ...]:
    return (
        report.carrier,
        _number(report.setup_ms),
        str(report.frames_sent),
        str(report.frames_received),
        _number(report.lost_frames),
        _number(report.delay_p50_ms),
        _number(report.delay_p99_ms),
        f"{report.audible_ms / 1000:.1f}",
        str(len(report.marks)),
        _end(report),
    )


def _sum(reports: Sequence[CallReport]) -> tuple[str, ...]:
    lost = [report.lost_frames for report in reports if report.lost_frames is not None]
    good = sum(not report.failed for report in reports)
    return (
        f"{len(reports)} calls",
        _number(_median([report.setup_ms for report in reports])),
        str(sum(report.frames_sent for report in reports)),
        str(sum(report.frames_received for report in reports)),
        str(sum(lost)) if lost else NOTHING,
        _number(_median([report.delay_p50_ms for report in reports])),
        _number(max((report.delay_p99_ms or 0.0 for report in reports), default=0.0) or None),
        f"{sum(report.audible_ms for report in reports) / 1000:.1f}",
        str(sum(len(report.marks) for report in reports)),
        f"{good} good, {len(reports) - good} bad",
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[(len(known) - 1) // 2] if known else None


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _end(report: CallReport) -> str:
    if report.refused is not None:
        return f"refusal, {report.refused}"
    if report.close_code is None:
        return "not connected"
    return f"{report.ended_by}, {report.close_code}"
