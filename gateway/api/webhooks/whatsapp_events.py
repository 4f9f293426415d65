# SPDX-License-Identifier: BSD-2-Clause
"""Which calls an event of WhatsApp is about (docs/reference/carriers.md §7). All else in it is for the
agent.
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
"""In one event: each is passed on for itself."""


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What one body says of one call. `connects`, `terminates`: whether it begins in it, and ends."""

    call_id: str
    from_number: str | None
    to_number: str | None
    connects: bool
    terminates: bool


def read_event(raw: bytes) -> list[CallEvent]:
    """The calls of a body, in their order; none where it is about messages, say. Raises ApiError."""
    try:
        given = parse(raw)
    except JsonError as error:
        raise bad_json(str(error), Style.PCC) from None
    if not isinstance(given, dict):
        raise invalid("The body must be an object", Style.PCC)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for value in _values(given):
        for call in _objects(value.get("calls")):
            found.setdefault(_id(call), []).append(call)
        for status in _objects(value.get("statuses")):
            if status.get("type") == "call":
                found.setdefault(_id(status), []).append(status)
    if len(found) > MAX_CALLS:
        raise invalid(f"The body is about {len(found)} calls, {MAX_CALLS} are allowed", Style.PCC)
    return [_call(call_id, told) for call_id, told in found.items()]


def _values(given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """`entry[].changes[].value`."""
    for entry in _objects(given.get("entry")):
        for change in _objects(entry.get("changes")):
            if isinstance(value := change.get("value"), dict):
                yield value


def _objects(given: object) -> Iterator[Mapping[str, Any]]:
    for each in given if isinstance(given, list) else ():
        if isinstance(each, dict):
            yield each


def _id(call: Mapping[str, Any]) -> str:
    found = call.get("id")
    if not isinstance(found, str) or not 1 <= len(found) <= MAX_ID_CHARACTERS or not found.isprintable():
        detail = f"a call's id must be a text of 1 to {MAX_ID_CHARACTERS} characters that can be printed"
        raise invalid(detail, Style.PCC, "id")
    return found


def _call(call_id: str, told: list[Mapping[str, Any]]) -> CallEvent:
    events = {each.get("event") for each in told if isinstance(each.get("event"), str)}
    return CallEvent(
        call_id=call_id,
        from_number=_number(told, "from"),
        to_number=_number(told, "to"),
        connects="connect" in events,
        terminates="terminate" in events,
    )


def _number(told: list[Mapping[str, Any]], name: str) -> str | None:
    numbers = (each.get(name) for each in told)
    return next((number for number in numbers if isinstance(number, str) and number), None)
