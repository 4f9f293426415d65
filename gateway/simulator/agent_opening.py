# SPDX-License-Identifier: BSD-2-Clause
"""Recognise the carrier by a stream's opening, as Pipecat does (docs/reference/carriers.md §8.1). No I/O.

This does not use `serializers`, so that the fake agent is independent of the code under test.
"""

from __future__ import annotations

import json
from typing import Any


def as_object(message: str) -> dict[str, Any] | None:
    """Return the JSON object of a text message, or None if the message is not one."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def carrier_of(opening: dict[str, Any]) -> str | None:
    """Return the carrier whose `start` this message is, or None."""
    start = opening.get("start")
    if not isinstance(start, dict):
        return None
    is_start = opening.get("event") == "start"
    if is_start and _has(start, "streamSid", "callSid"):
        return "twilio"
    if _has(opening, "stream_id") and _has(start, "call_control_id"):
        return "telnyx"
    if _has(start, "streamId", "callId"):
        return "plivo"
    if is_start and _has(start, "stream_sid", "call_sid", "account_sid"):
        return "exotel"
    return None


def _has(fields: dict[str, Any], *names: str) -> bool:
    return all(fields.get(name) for name in names)
