# SPDX-License-Identifier: BSD-2-Clause
"""OpenAI's Realtime API over a WebSocket (docs/reference/translation.md §3; openai 3.57.0, `types/realtime`).

It sends speech much faster than it is played. When the caller speaks, what was not played is discarded, and
the API is told how much of each item was heard, so that its own record of the talk is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from serializers import json_fields
from serializers.agent_dialect import AgentMessage, Message, Problem, SoundWriter, text
from serializers.events import AudioFormat, CarrierEvent, Clear, Dtmf, Media, Start, Unknown
from serializers.providers.provider import ProviderDialect, ProviderRequest, ProviderSettings, filled

DEFAULT_MODEL: Final = "gpt-realtime"

WIDE_RATE_HZ: Final = 24_000
"""The one rate of its linear sound; any other rate means μ-law of 8 kHz, as telephones have it."""

MAX_ITEMS: Final = 50
"""Items of speech that are remembered, the latest ones: of earlier ones nothing is left to be played."""

_AUDIO_EVENTS: Final = frozenset({"response.output_audio.delta", "response.audio.delta"})


@dataclass(slots=True)
class _Item:
    """One piece of the agent's speech. `sound_bytes`: as much as has come."""

    id: str
    content_index: int
    sound_bytes: int = 0


class OpenAiRealtime(ProviderDialect):
    """One call's socket at the Realtime API."""

    name = "openai-realtime"

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._audio = AudioFormat("mulaw", 8000)
        self._items: list[_Item] = []

    def request(self) -> ProviderRequest:
        model = quote(self._settings.model or DEFAULT_MODEL, safe="")
        return ProviderRequest(
            f"/v1/realtime?model={model}", (("Authorization", f"Bearer {self._settings.key}"),)
        )

    def audio(self, sample_rate: int) -> AudioFormat:
        if sample_rate == WIDE_RATE_HZ:
            self._audio = AudioFormat("linear16", WIDE_RATE_HZ)
        return self._audio

    def opening(self, start: Start) -> list[Message]:
        is_wide = self._audio.encoding == "linear16"
        format_ = {"type": "audio/pcm", "rate": WIDE_RATE_HZ} if is_wide else {"type": "audio/pcmu"}
        output: dict[str, object] = {"format": format_}
        if self._settings.voice:
            output["voice"] = self._settings.voice
        session: dict[str, object] = {
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {
                "input": {"format": format_, "turn_detection": {"type": "server_vad"}},
                "output": output,
            },
        }
        if self._settings.instructions:
            session["instructions"] = filled(self._settings.instructions, start)
        messages = [_json({"type": "session.update", "session": session})]
        if self._settings.greeting:
            say = f"Say to the caller, word for word: {filled(self._settings.greeting, start)}"
            messages.append(_json({"type": "response.create", "response": {"instructions": say}}))
        return messages

    def sound_writer(self, start: Start) -> SoundWriter:
        def write(sound: bytes, *_: int) -> Message:
            audio = json_fields.base64_text(sound)
            return Message(
                b'{"type":"input_audio_buffer.append","audio":"%b"}' % audio.encode(), is_text=True
            )

        return write

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        if isinstance(event, Media):
            return self.sound_writer(start)(event.payload, 0, 0, 0)
        if not isinstance(event, Dtmf):
            return None
        content = [{"type": "input_text", "text": f"The caller pressed the key {event.digits}."}]
        item = {"type": "message", "role": "user", "content": content}
        return _json({"type": "conversation.item.create", "item": item})

    def after(self, event: CarrierEvent) -> list[Message]:
        return [_json({"type": "response.create"})] if isinstance(event, Dtmf) else []

    def read_agent(self, message: Message) -> AgentMessage:
        fields = json_fields.read_object(message.data)
        kind = json_fields.text(fields, "type")
        if kind in _AUDIO_EVENTS:
            sound = json_fields.payload({"payload": fields.get("delta")})
            self._note(fields, len(sound))
            return Media(sound)
        if kind == "input_audio_buffer.speech_started":
            return Clear()
        if kind == "error":
            error = json_fields.optional_child(fields, "error")
            return Problem(json_fields.optional_text(error, "message") or "an error without a message")
        return Unknown(kind)

    def _note(self, fields: json_fields.Json, sound_bytes: int) -> None:
        item_id = json_fields.optional_text(fields, "item_id")
        if item_id is None:
            return
        if not self._items or self._items[-1].id != item_id:
            index = json_fields.optional_integer(fields, "content_index") or 0
            self._items.append(_Item(item_id, index))
            del self._items[:-MAX_ITEMS]
        self._items[-1].sound_bytes += sound_bytes

    def cleared(self, unplayed_ms: int) -> list[Message]:
        messages = []
        per_ms = self._audio.sample_rate * (2 if self._audio.encoding == "linear16" else 1) // 1000
        while self._items and unplayed_ms > 0:
            item = self._items.pop()
            length_ms = item.sound_bytes // per_ms
            heard_ms = max(0, length_ms - unplayed_ms)
            messages.append(
                _json(
                    {
                        "type": "conversation.item.truncate",
                        "item_id": item.id,
                        "content_index": item.content_index,
                        "audio_end_ms": heard_ms,
                    }
                )
            )
            unplayed_ms -= length_ms
        self._items.clear()
        return messages[::-1]


def _json(value: dict[str, object]) -> Message:
    return text(json_fields.write_object(value))
