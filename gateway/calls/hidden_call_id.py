# SPDX-License-Identifier: BSD-2-Clause
"""The opening as an agent is told it that must not know its carrier's call id (docs/reference/carriers.md
§8.3).

Pipecat's serializers hang a call up through the carrier's REST when their socket closes. With the session's
id in the call id's place that request finds nothing, so a call that is transferred goes on.
"""

from __future__ import annotations

import json
from typing import Any

from gateway.media.leg import Leg
from serializers.dialect import Dialect


def hide_call_id(leg: Leg, dialect: Dialect, call_id: str, session_id: str) -> None:
    """Puts the session's id in the place of the call's, wherever the kept `start` of a held leg says it."""

    def rewrite(message: bytes) -> bytes | None:
        if dialect.event_of(message) != "start":
            return None
        said = _replaced(json.loads(message), call_id, session_id)
        return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    leg.rewrite_buffered(rewrite)


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(each, old, new) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, old, new) for each in value]
    return new if value == old else value
