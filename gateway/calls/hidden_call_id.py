# SPDX-License-Identifier: BSD-2-Clause
"""The session's id in place of the carrier's call id, for agents that would hang the call up themselves."""

from __future__ import annotations

import json
from typing import Any

from gateway.media.leg import Leg
from serializers.dialect import Dialect


def hide_call_id(leg: Leg, dialect: Dialect, call_id: str, session_id: str) -> None:
    """Replace the carrier's call id with the session id in the `start` that is buffered on the leg.

    Pipecat's serializers hang a call up through the carrier's REST API when their socket closes. With the
    session id that request finds no call, so a call that is transferred goes on (docs/reference/carriers.md
    §8.3).
    """

    def rewrite(message: bytes) -> bytes | None:
        if dialect.event_of(message) != "start":
            return None
        start = _replaced(json.loads(message), call_id, session_id)
        return json.dumps(start, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    leg.rewrite_buffered(rewrite)


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(item, old, new) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return new if value == old else value
