# SPDX-License-Identifier: BSD-2-Clause
"""The tool that measures what a slot by the document saves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.warm_start import Plan, measure, row


async def test_a_short_run_has_a_figure_for_each_case(tmp_path: Path) -> None:
    rows = await measure(tmp_path, Plan(calls=2, started=1, start_s=0.05, connected_s=(0.01,)))
    assert [each.split(" | ")[0] for each in rows] == [
        "| woken, stream after 0.01 s, `admit_at = stream`",
        "| woken, stream after 0.01 s, `admit_at = document`",
        "| started, stream after 0.01 s, `admit_at = stream`",
        "| started, stream after 0.01 s, `admit_at = document`",
        "| runs already, stream after 0.01 s, `admit_at = stream`",
        "| runs already, stream after 0.01 s, `admit_at = document`",
    ]
    assert [each.split(" | ")[1] for each in rows] == ["2", "2", "1", "1", "2", "2"]


@pytest.mark.parametrize("figures", [[0.0104, 1.5, 0.02], [1.5, 0.0104, 0.02]])
def test_a_row_has_the_median_and_the_range(figures: list[float]) -> None:
    assert row("a case", figures) == "| a case | 3 | 20 ms | 10 to 1,500 ms |"
