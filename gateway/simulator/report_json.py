# SPDX-License-Identifier: BSD-2-Clause
"""Reports of simulated calls as JSON, for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway.simulator.call_plan import CallReport
from gateway.simulator.redacted_url import redacted

FIELDS = (
    "carrier",
    "call_id",
    "stream_id",
    "setup_ms",
    "duration_ms",
    "frames_sent",
    "frames_received",
    "bytes_sent",
    "bytes_received",
    "lost_frames",
    "delay_p50_ms",
    "delay_p99_ms",
    "audible_ms",
    "agent_audible",
    "close_code",
    "close_reason",
    "ended_by",
    "refused",
    "error",
)


def as_json(reports: Sequence[CallReport], exit_status: int, error: str | None = None) -> str:
    """Return one JSON object in one line: whether all went well, the exit status, and each call.

    `error`: why no call was made.
    """
    value = {
        "ok": exit_status == 0,
        "exit_status": exit_status,
        "error": error,
        "calls": [_call(report) for report in reports],
    }
    return json.dumps(value, ensure_ascii=False)


def _call(report: CallReport) -> dict[str, Any]:
    values = {name: getattr(report, name) for name in FIELDS}
    rounded = {name: round(value, 1) if isinstance(value, float) else value for name, value in values.items()}
    return {
        "ok": not report.failed,
        "url": redacted(report.url),
        **rounded,
        "marks": list(report.marks),
        "complaints": list(report.complaints),
    }
