# SPDX-License-Identifier: BSD-2-Clause
"""Agents that speak raw sound: binary messages of linear16, little-endian, one channel.

With JSON beside it, if the agent wants a start message: `{"event":"start",…}` first, then `dtmf`, `mark` (a
mark that was played) and `stop`; from the agent `{"event":"clear"}` and `{"event":"mark","name":"…"}`, which
are read in any case.
"""

from __future__ import annotations

from serializers import json_fields
from serializers.agent_dialect import ClearAnswer, LinearSound, Message, text
from serializers.events import (
    AgentEvent,
    CarrierEvent,
    Clear,
    Dtmf,
    Mark,
    Media,
    Played,
    Start,
    Stop,
    Unknown,
)


class Pcm16(LinearSound):
    """Raw sound. `tells_events`: whether the agent gets JSON beside it."""

    name = "pcm16"
    frame_ms = None

    def __init__(self, *, tells_events: bool) -> None:
        self._tells_events = tells_events
        self.clear_answer: ClearAnswer = "marks" if tells_events else "nothing"

    def read_agent(self, message: Message) -> AgentEvent:
        if not message.is_text:
            return Media(message.data)
        fields = json_fields.read_object(message.data)
        match event := json_fields.event_name(fields):
            case "clear":
                return Clear()
            case "mark":
                return Mark(json_fields.text(fields, "name"))
            case _:
                return Unknown(event)

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        if isinstance(event, Media):
            return Message(event.payload, is_text=False)
        if not self._tells_events:
            return None
        body = _body_of(event)
        return None if body is None else text(json_fields.write_object(body))


def _body_of(event: CarrierEvent) -> dict[str, object] | None:
    match event:
        case Start():
            body = {
                "event": "start",
                "call_id": event.call_id,
                "stream_id": event.stream_id,
                "from": event.from_number,
                "to": event.to_number,
                "encoding": "linear16",
                "sample_rate": event.audio.sample_rate,
                "parameters": dict(event.parameters),
            }
            return {name: value for name, value in body.items() if value is not None}
        case Dtmf():
            return {"event": "dtmf", "digit": event.digits}
        case Played():
            return {"event": "mark", "name": event.name}
        case Stop():
            return {"event": "stop"}
        case _:
            return None


PLAIN = Pcm16(tells_events=False)
WITH_EVENTS = Pcm16(tells_events=True)
