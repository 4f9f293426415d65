# SPDX-License-Identifier: BSD-2-Clause
"""Times as the API writes them: RFC 3339, UTC, with milliseconds, as in "2026-11-21T12:00:00.000Z"."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(at: float) -> str:
    """Unix seconds as text, rounded down to the millisecond."""
    return utc_text(datetime.fromtimestamp(at, UTC))


def utc_text(moment: datetime) -> str:
    """A moment that knows its offset as such text."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def rfc3339_or_none(at: float | None) -> str | None:
    """The same; None stays None."""
    return None if at is None else rfc3339(at)
