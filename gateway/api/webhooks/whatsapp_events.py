# SPDX-License-Identifier: BSD-2-Clause
"""The calls in an event of WhatsApp (docs/reference/carriers.md §7).

The rest of the event is for the agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from gateway.api.framework.body_reader import WHOLE_BYTES
from gateway.api.framework.errors import bad_json, invalid
from gateway.api.framework.operation import Style
from gateway.api.framework.strict_json import JsonError, parse, reason_of

MAX_ID_CHARACTERS: Final = 256
MAX_CALLS: Final = 16
"""In one event; the event is forwarded once for each."""
MAX_ENTRIES: Final = 1000
"""Of each list in a large event: Meta gathers up to 1,000 updates in one."""
OUTBOUND_DIRECTIONS: Final = ("BUSINESS_INITIATED", "outbound")
"""The `direction` of a call that the agent placed: Meta's word, and that of Pipecat's models."""


_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class _Session(msgspec.Struct):
    sdp_type: str | None = None


class _Call(msgspec.Struct, omit_defaults=True):
    """The members of a call, or of a call's status, that are read here."""

    id: str
    type: str | None = None
    event: str | None = None
    timestamp: str | int | None = None
    direction: str | None = None
    from_number: str | None = msgspec.field(default=None, name="from")
    to_number: str | None = msgspec.field(default=None, name="to")
    biz_opaque_callback_data: str | None = None
    session: _Session | None = None


class _Value(msgspec.Struct, omit_defaults=True):
    calls: Annotated[list[_Call], msgspec.Meta(max_length=MAX_ENTRIES)] = []
    statuses: Annotated[list[_Call], msgspec.Meta(max_length=MAX_ENTRIES)] = []


class _Change(msgspec.Struct):
    value: _Value = msgspec.field(default_factory=_Value)


class _Entry(msgspec.Struct):
    changes: Annotated[list[_Change], msgspec.Meta(max_length=MAX_ENTRIES)] = []


class _Event(msgspec.Struct):
    entry: Annotated[list[_Entry], msgspec.Meta(max_length=MAX_ENTRIES)] = []


_large_event = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One event's news of one call.

    `connects`, `terminates`: the event begins the call, ends it. `is_outbound`: the agent placed the call.
    `callback_data`: what the agent gave Meta with such a call, `biz_opaque_callback_data`. `at`: when it was,
    in Unix seconds; None if it does not say.
    """

    call_id: str
    from_number: str | None
    to_number: str | None
    connects: bool
    terminates: bool
    is_outbound: bool = False
    callback_data: str | None = None
    at: float | None = None


def read_event(raw: bytes) -> list[CallEvent]:
    """Return the calls of an event's body, in order; none if it is about messages, say.

    Raises ApiError (400).
    """
    given = _parse(raw)
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


def _parse(raw: bytes) -> Any:
    """Parse an event; of a large one only what is read here, so that no sound waits for the rest of it.

    Raises ApiError (400) for what is no JSON, and for a large one that is not as Meta documents it.
    """
    try:
        if len(raw) <= WHOLE_BYTES:
            return parse(raw)
        return msgspec.to_builtins(_large_event.decode(raw))
    except JsonError as error:
        raise bad_json(str(error), Style.PCC) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad_json(reason_of(raw, error), Style.PCC) from None


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
        from_number=_text(entries, "from"),
        to_number=_text(entries, "to"),
        connects="connect" in events,
        terminates="terminate" in events,
        is_outbound=_is_outbound(entries),
        callback_data=_text(entries, "biz_opaque_callback_data"),
        at=_latest(entries),
    )


def _is_outbound(entries: list[Mapping[str, Any]]) -> bool:
    """Return True if the agent placed the call: then Meta sends the answer to its offer, and statuses."""
    sessions = [session for each in entries if isinstance(session := each.get("session"), dict)]
    sdp_types = [session.get("sdp_type") for session in sessions]
    if "offer" in sdp_types:
        return False
    return (
        "answer" in sdp_types
        or any(each.get("direction") in OUTBOUND_DIRECTIONS for each in entries)
        or all("event" not in each for each in entries)
    )


def _latest(entries: list[Mapping[str, Any]]) -> float | None:
    """Return the latest `timestamp`: Unix seconds, as a text in Meta's samples."""
    texts = (str(each.get("timestamp")) for each in entries)
    return max((float(text) for text in texts if _SECONDS.fullmatch(text)), default=None)


def _text(entries: list[Mapping[str, Any]], name: str) -> str | None:
    values = (each.get(name) for each in entries)
    texts = (value for value in values if isinstance(value, str))
    return next((text for text in texts if 1 <= len(text) <= MAX_ID_CHARACTERS), None)
