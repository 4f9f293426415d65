# SPDX-License-Identifier: BSD-2-Clause
"""The exit status of the commands that place calls."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.simulator.call_plan import CallReport

CALL_FAILED = 1
"""A call failed, or cannot be made. A command that is none is 2, as typer has it."""

CALL_UNHEARD = 3
"""Nothing is wrong but that a caller, who was to hear the agent, did not."""


def exit_status(reports: Sequence[CallReport]) -> int:
    """Return the exit status of a command that has placed these calls."""
    if any(report.failed and not report.unheard for report in reports):
        return CALL_FAILED
    return CALL_UNHEARD if any(report.unheard for report in reports) else 0
