# SPDX-License-Identifier: BSD-2-Clause
"""The parts of RESULTS.md that are measured each by itself, and stay as they are when others are."""

from __future__ import annotations

FOLLOWING = "## What this does not show"  # the heading before which the parts stand


def placed(report: str, name: str, part: str) -> str:
    """The report with this part, in the place of an earlier one of its name where there is one."""
    begin, end = _marks(name)
    part = f"{begin}\n\n{part}\n{end}"
    before, found, rest = report.partition(begin)
    if found:
        return before + part + rest.partition(end)[2]
    before, heading, rest = report.partition(FOLLOWING)
    return f"{before}{part}\n\n{heading}{rest}"


def taken_out(report: str, name: str) -> str | None:
    """The part of this name that a report has, None where it has none."""
    begin, end = _marks(name)
    _, found, rest = report.partition(begin)
    return rest.partition(end)[0].strip("\n") + "\n" if found else None


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"
