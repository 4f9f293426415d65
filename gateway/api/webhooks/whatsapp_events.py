# SPDX-License-Identifier: BSD-2-Clause
"""The calls in an event of WhatsApp (docs/reference/carriers.md §7).

The rest of the event is for the agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.api.framework.errors import bad_json, invalid
from gateway.api.framework.operation import Style
from gateway.api.framework.strict_json import JsonError, parse

MAX_ID_CHARACTERS: Final = 256
MAX_CALLS: Final = 16
"""In one event; the event is forwarded once for each."""


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One event's news of one call. `connects`, `terminates`: the event begins the call, ends it."""

    call_id: str
    from_number: str | None
    to_number: str | None
    connects: bool
    terminates: bool


def read_event(raw: bytes) -> list[CallEvent]:
    """Return the calls of an event's body, in order; none if it is about messages, say.

    Raises ApiError (400).
    """
    try:
        given = parse(raw)
    except JsonError as error:
        raise bad_json(str(error), Style.PCC) from None
    if not isinstance(given, dict):
        raise invalid("The body must be an object", Style.PCC)
    entries: dict[str, list[Mapping[str, Any]]] = {}
    for value in _values(given):
        for call in _objects(value.get("calls")):
            entries.setdefault(_id(call), []).append(call)
        for status in _objects(value.get("statuses")):
            if status.get("type") == "call":
                entries.setdefault(_id(status), []).append(status)
    if len(entries) > MAX_CALLS:
        raise invalid(f"The body is about {len(entries)} calls, {MAX_CALLS} are allowed", Style.PCC)
    return [_call(call_id, of_call) for call_id, of_call in entries.items()]


def _values(given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every `entry[].changes[].value` that is an object."""
    for entry in _objects(given.get("entry")):
        for change in _objects(entry.get("changes")):
            if isinstance(value := change.get("value"), dict):
                yield value


def _objects(given: object) -> Iterator[Mapping[str, Any]]:
    for each in given if isinstance(given, list) else ():
        if isinstance(each, dict):
            yield each


def _id(call: Mapping[str, Any]) -> str:
    call_id = call.get("id")
    valid = isinstance(call_id, str) and 1 <= len(call_id) <= MAX_ID_CHARACTERS and call_id.isprintable()
    if not isinstance(call_id, str) or not valid:
        detail = f"a call's id must be a text of 1 to {MAX_ID_CHARACTERS} characters that can be printed"
        raise invalid(detail, Style.PCC, "id")
    return call_id


def _call(call_id: str, entries: list[Mapping[str, Any]]) -> CallEvent:
    events = {each.get("event") for each in entries if isinstance(each.get("event"), str)}
    return CallEvent(
        call_id=call_id,
        from_number=_number(entries, "from"),
        to_number=_number(entries, "to"),
        connects="connect" in events,
        terminates="terminate" in events,
    )


def _number(entries: list[Mapping[str, Any]], name: str) -> str | None:
    numbers = (each.get(name) for each in entries)
    return next((number for number in numbers if isinstance(number, str) and number), None)
