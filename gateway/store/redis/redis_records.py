# SPDX-License-Identifier: BSD-2-Clause
"""Sessions as hashes of Redis, and back: every column as text, those that are None left out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from gateway.model.lifecycle import SessionState, terminal_state
from gateway.model.reasons import Party, Reason
from gateway.model.session import (
    CallDetails,
    LiveTraffic,
    SessionOptions,
    SessionRecord,
    SessionResult,
    SlotLimits,
    Traffic,
)
from gateway.store.redis.redis_values import clean

_FIELDS: Final = {
    ("id" if field.name == "session_id" else field.name): field
    for field in fields(SessionRecord)
    if field.name != "queued"
}
"""The columns that are stored. Whether a session is queued is seen from the queue (redis_lists.py)."""

COLUMNS: Final = tuple(_FIELDS)
BRIEF_COLUMNS: Final = tuple(name for name in COLUMNS if name not in ("transcript", "results"))
"""Without the reports, which may have a megabyte each."""

_INTEGERS: Final = frozenset(name for name, field in _FIELDS.items() if "int" in str(field.type))
_FLOATS: Final = frozenset(name for name, field in _FIELDS.items() if "float" in str(field.type))
_AS_WRITTEN: Final = frozenset({"idle_timeout", "max_duration", "reported_seconds"})
"""Numbers that were given by others, and are given back as they were."""
_ZERO: Final = frozenset({"frames_in", "bytes_in", "frames_out", "bytes_out"})


_READ: Final[dict[str, Callable[[str], Any]]] = {
    **dict.fromkeys(_INTEGERS, int),
    **dict.fromkeys(_FLOATS, float),
    "state": SessionState,
    "side": Party,
}


def text_of(value: str | float | None) -> str | None:
    """Return a column's value as it is stored."""
    if value is None or isinstance(value, str):
        return clean(value)
    return repr(value)


def pairs(columns: Mapping[str, str | float | None]) -> list[str]:
    """Return names and values, one after the other, without those that are None."""
    found: list[str] = []
    for name, value in columns.items():
        stored = text_of(value)
        if stored is not None:
            found += (name, stored)
    return found


def details_pairs(details: CallDetails) -> list[str]:
    """Return the columns of a call, the agent as the first and the organization as the second."""
    return pairs(
        {
            "agent": details.agent,
            "organization": details.organization,
            "region": details.region,
            "carrier": details.carrier,
            "call_id": details.call_id,
            "stream_id": details.stream_id,
            "from_number": details.from_number,
            "to_number": details.to_number,
        }
    )


def option_pairs(options: SessionOptions) -> list[str]:
    """Return the columns of a session's options."""
    return pairs(
        {
            "transport": options.transport,
            "start_type": options.start_type,
            "metadata": options.metadata,
            "idle_timeout": options.idle_timeout,
            "max_duration": options.max_duration,
        }
    )


def result_pairs(result: SessionResult) -> list[str]:
    """Return the columns of an end, without its time."""
    return pairs(
        {
            "reason": result.reason,
            "side": str(result.side),
            "detail": result.detail,
            "close_code": result.close_code,
            "completion_status": result.completion_status,
            **_traffic_columns(result.traffic),
            "first_agent_sound_at": result.first_agent_sound_at,
        }
    )


def live_pairs(live: LiveTraffic) -> list[str]:
    """Return the columns of what a running session has passed."""
    return pairs({**_traffic_columns(live.traffic), "first_agent_sound_at": live.first_agent_sound_at})


def _traffic_columns(traffic: Traffic) -> dict[str, int | None]:
    return {
        "frames_in": traffic.frames_in,
        "bytes_in": traffic.bytes_in,
        "frames_out": traffic.frames_out,
        "bytes_out": traffic.bytes_out,
        "heard_ms": traffic.heard_ms,
    }


def reason_pairs(reason: Reason, detail: str) -> list[str]:
    """Return the columns of an end that this store writes."""
    return pairs(
        {
            "reason": reason.code,
            "side": str(reason.party),
            "detail": detail,
            "close_code": reason.close_code,
        }
    )


def terminal_states(result: SessionResult) -> tuple[str, str]:
    """Return the terminal state of a session that did not run, and of one that did."""
    return terminal_state(False, result.state).value, terminal_state(True, result.state).value


def record(found: Iterable[str | None], columns: tuple[str, ...] = COLUMNS) -> SessionRecord | None:
    """Return the record of a hash's values, None if there is none."""
    texts = dict(zip(columns, found, strict=True))
    if texts["id"] is None:
        return None
    return SessionRecord(**{_FIELDS[name].name: _value(name, texts.get(name)) for name in COLUMNS})


def _value(name: str, stored: str | None) -> Any:
    if stored is None:
        default = _FIELDS[name].default
        if name in _ZERO:
            return 0
        return None if default is MISSING else default
    if name in _AS_WRITTEN and stored.lstrip("-").isdecimal():
        return int(stored)
    return _READ.get(name, str)(stored)


def rule_of(limits: SlotLimits) -> list[str | int]:
    """Return the rule of admission as the scripts take it."""
    rule: list[str | int] = [limits.per_instance, limits.max_instances, limits.reserved, limits.limit]
    for instance, rank in limits.instances:
        rule += (instance, int(rank))  # an enumeration of numbers is no number to hiredis
    return rule


def end_arguments(result: SessionResult, condition: str) -> tuple[str, ...]:
    """Return the arguments of the script that ends a session, behind its id. `condition`: see there."""
    return (
        uuid.uuid4().hex,
        *terminal_states(result),
        repr(float(result.ended_at)),
        condition,
        *result_pairs(result),
    )
