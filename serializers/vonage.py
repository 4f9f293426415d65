# SPDX-License-Identifier: BSD-2-Clause
"""Vonage's dialect, for agents that are written for it: JSON in text messages and linear16 in binary ones
(docs/reference/more-carriers.md §1.2).
"""

from __future__ import annotations

from typing import Final

from serializers import json_fields
from serializers.agent_dialect import ClearAnswer, LinearSound, Message, text
from serializers.dialect import DialectError
from serializers.events import (
    AgentEvent,
    CarrierEvent,
    Clear,
    Cleared,
    Dtmf,
    Mark,
    Media,
    Played,
    Start,
    Unknown,
)

FRAME_MS: Final = 20
"""Milliseconds of sound in a message: no more and no less, both ways."""

DTMF_MS: Final = 260
"""The duration of a key whose carrier does not say it, as in Vonage's example."""

_RESERVED: Final = frozenset({"event", "content-type"})
"""Keys of the first message that a custom parameter must not replace: all of them are at its top."""


class Vonage(LinearSound):
    """Vonage's messages as an agent sees them."""

    name = "vonage"
    frame_ms = FRAME_MS
    clear_answer: ClearAnswer = "cleared"

    def read_agent(self, message: Message) -> AgentEvent:
        if not message.is_text:
            return Media(message.data)
        fields = json_fields.read_object(message.data)
        match json_fields.text(fields, "action"):
            case "clear":
                return Clear()
            case "notify":
                payload = json_fields.child(fields, "payload")
                is_name = set(payload) == {"name"} and isinstance(payload["name"], str)
                return Mark(json_fields.text(payload, "name") if is_name else _whole(payload))
            case action:
                return Unknown(action)

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        body: dict[str, object]
        match event:
            case Start():
                custom = {name: value for name, value in event.parameters.items() if name not in _RESERVED}
                numbers = {"from": event.from_number, "to": event.to_number}
                body = {
                    "event": "websocket:connected",
                    "content-type": f"audio/l16;rate={event.audio.sample_rate}",
                    **{name: value for name, value in numbers.items() if value},
                    **custom,
                }
            case Media():
                return Message(event.payload, is_text=False)
            case Dtmf():
                body = {
                    "event": "websocket:dtmf",
                    "digit": event.digits,
                    "duration": event.duration_ms or DTMF_MS,
                }
            case Played():
                body = {"event": "websocket:notify", "payload": _payload_of(event.name)}
            case Cleared():
                body = {"event": "websocket:cleared"}
            case _:
                return None
        return text(json_fields.write_object(body))


def _whole(payload: json_fields.Json) -> str:
    """Return a payload that is no mere name as one: the agent gets it back as it sent it."""
    return json_fields.write_object(payload)


def _payload_of(name: str) -> json_fields.Json:
    if name.startswith("{"):
        try:
            return json_fields.read_object(name)
        except DialectError:
            pass
    return {"name": name}


DIALECT = Vonage()
