# SPDX-License-Identifier: BSD-2-Clause
"""Place several calls at once, with progress bars."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gateway.simulator.call_plan import CallPlan, CallProgress, CallReport, OnProgress
from gateway.simulator.fake_carrier import place_call

MAX_BARS = 4
"""More calls than these share one bar."""


async def place_calls(plans: Sequence[CallPlan], console: Console) -> list[CallReport]:
    """Place all calls at the same time. Return their reports in the order of the plans."""
    columns = (TextColumn("{task.fields[who]:<8}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[stage]}"), console=console) as progress:
        shared = None
        if len(plans) > MAX_BARS:
            shared = progress.add_task("", total=len(plans), who="calls", stage=f"0 of {len(plans)} over")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_place(plan, progress, shared)) for plan in plans]
    return [task.result() for task in tasks]


async def _place(plan: CallPlan, progress: Progress, shared: TaskID | None) -> CallReport:
    if shared is None:
        own = progress.add_task("", total=1.0, who=plan.carrier, stage="dialling")
        report = await place_call(plan, _move(progress, own))
        progress.update(own, completed=1.0, total=1.0, stage="failed" if report.failed else "over")
        return report
    report = await place_call(plan)
    progress.advance(shared)
    task = next(task for task in progress.tasks if task.id == shared)
    progress.update(shared, stage=f"{task.completed:.0f} of {task.total:.0f} over")
    return report


def _move(progress: Progress, task: TaskID) -> OnProgress:
    def move(now: CallProgress) -> None:
        progress.update(task, completed=now.elapsed, total=max(now.expected, 0.1), stage=now.stage)

    return move
