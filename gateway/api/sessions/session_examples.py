# SPDX-License-Identifier: BSD-2-Clause
"""The examples that the OpenAPI document shows of the session resource."""

from __future__ import annotations

from typing import Final

from pydantic import JsonValue

SESSION_EXAMPLE: Final = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
TIME_EXAMPLE: Final = "2026-01-31T09:30:00.000Z"

NEW_EXAMPLE: Final[dict[str, JsonValue]] = {
    "agent": "support",
    "transport": {"type": "websocket"},
    "body": {"customer": 4711},
    "idle_timeout_seconds": 30,
    "max_duration_seconds": 3600,
    "metadata": {"ticket": 4711},
}
REPORT_EXAMPLE: Final[dict[str, JsonValue]] = {
    "transcript": [{"role": "user", "text": "Good morning.", "timestamp": "2026-01-31T09:30:02.500Z"}],
    "duration_seconds": 62.5,
    "results": {"resolved": True},
}
SUMMARY_EXAMPLE: Final[dict[str, JsonValue]] = {
    "id": SESSION_EXAMPLE,
    "object": "session",
    "agent": "support.acme",
    "status": "running",
    "created_at": TIME_EXAMPLE,
    "started_at": "2026-01-31T09:30:01.250Z",
    "first_audio_at": None,
    "ended_at": None,
    "failed_at": None,
    "completed_at": "2026-01-31T09:31:03.750Z",
    "end_reason": None,
    "failure": None,
    "usage": {"seconds": 63.0, "frames_in": 0, "frames_out": 0},
    "transport": {
        "type": "websocket",
        "url": "[redacted]",
        "token": "[redacted]",
        "expires_at": "2026-01-31T09:35:00.000Z",
        "carrier": None,
    },
    "idle_timeout_seconds": 30,
    "max_duration_seconds": 3600,
    "metadata": {"ticket": 4711},
}
SESSION_WHOLE: Final[dict[str, JsonValue]] = {
    **SUMMARY_EXAMPLE,
    "call": None,
    "reported_seconds": 62.5,
    "transcript": REPORT_EXAMPLE["transcript"],
    "results": REPORT_EXAMPLE["results"],
}
