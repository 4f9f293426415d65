# SPDX-License-Identifier: BSD-2-Clause
"""Deepgram's Voice Agent API (docs/reference/translation.md §5; deepgram-sdk 7.17.0, `agent/v1/types`).

Nothing of the caller's sound is sent before the settings are accepted.
"""

from __future__ import annotations

from typing import Final

from serializers import json_fields
from serializers.agent_dialect import AgentMessage, Formats, Message, Problem, SoundWriter, text
from serializers.events import AudioFormat, CarrierEvent, Clear, Dtmf, Media, Start, Unknown
from serializers.providers.provider import ProviderDialect, ProviderRequest, ProviderSettings, filled

LISTEN_MODEL: Final = "nova-3"
THINK_PROVIDER: Final = "open_ai"
THINK_MODEL: Final = "gpt-4o-mini"
VOICE: Final = "aura-2-thalia-en"


class Deepgram(ProviderDialect):
    """One call's socket at the Voice Agent API."""

    name = "deepgram"
    waits_for_formats = True

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._audio = AudioFormat("mulaw", 8000)

    def request(self) -> ProviderRequest:
        return ProviderRequest("/v1/agent/converse", (("Authorization", f"Token {self._settings.key}"),))

    def audio(self, sample_rate: int) -> AudioFormat:
        return self._audio

    def opening(self, start: Start) -> list[Message]:
        sound = {"encoding": "mulaw", "sample_rate": self._audio.sample_rate}
        provider, _, model = (self._settings.model or f"{THINK_PROVIDER}/{THINK_MODEL}").rpartition("/")
        think: dict[str, object] = {"provider": {"type": provider or THINK_PROVIDER, "model": model}}
        if self._settings.instructions:
            think["prompt"] = filled(self._settings.instructions, start)
        agent: dict[str, object] = {
            "listen": {"provider": {"type": "deepgram", "model": LISTEN_MODEL}},
            "think": think,
            "speak": {"provider": {"type": "deepgram", "model": self._settings.voice or VOICE}},
        }
        if self._settings.greeting:
            agent["greeting"] = filled(self._settings.greeting, start)
        audio = {"input": sound, "output": {**sound, "container": "none"}}
        return [text(json_fields.write_object({"type": "Settings", "audio": audio, "agent": agent}))]

    def sound_writer(self, start: Start) -> SoundWriter:
        return lambda sound, *_: Message(sound, is_text=False)

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        if isinstance(event, Media):
            return Message(event.payload, is_text=False)
        if isinstance(event, Dtmf):
            content = f"I pressed the key {event.digits}."
            return text(json_fields.write_object({"type": "InjectUserMessage", "content": content}))
        return None

    def read_agent(self, message: Message) -> AgentMessage:
        if not message.is_text:
            return Media(message.data)
        fields = json_fields.read_object(message.data)
        match kind := json_fields.text(fields, "type"):
            case "SettingsApplied":
                return Formats(self._audio, self._audio)
            case "UserStartedSpeaking":
                return Clear()
            case "Error":
                code = json_fields.optional_text(fields, "code")
                return Problem(f"{code}: {json_fields.optional_text(fields, 'description')}")
            case _:
                return Unknown(kind)
