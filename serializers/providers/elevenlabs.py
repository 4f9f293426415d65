# SPDX-License-Identifier: BSD-2-Clause
"""ElevenLabs' agents over a WebSocket (docs/reference/translation.md §4; elevenlabs 2.78.0).

The formats of the sound are configured at ElevenLabs, and its first message has them: until then nothing
of the caller's sound is sent. Sound of before an interruption may come after it, and is dropped.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from serializers import json_fields
from serializers.agent_dialect import AgentMessage, Formats, Message, Problem, Reply, SoundWriter, text
from serializers.dialect import DialectError
from serializers.events import AudioFormat, CarrierEvent, Clear, Dtmf, Encoding, Media, Start, Unknown
from serializers.providers.provider import (
    ProviderDialect,
    ProviderRequest,
    ProviderSettings,
    call_data,
    filled,
)

_RATE_DIGITS: Final = 6
_ENCODINGS: Final[dict[str, Encoding]] = {"pcm": "linear16", "ulaw": "mulaw"}


class ElevenLabs(ProviderDialect):
    """One call's socket at an agent of ElevenLabs."""

    name = "elevenlabs"
    waits_for_formats = True

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._interrupted = -1

    def request(self) -> ProviderRequest:
        agent = quote(self._settings.agent, safe="")
        return ProviderRequest(
            f"/v1/convai/conversation?agent_id={agent}", (("xi-api-key", self._settings.key),)
        )

    def audio(self, sample_rate: int) -> AudioFormat:
        return AudioFormat("linear16", 16000)  # until it says what it is

    def opening(self, start: Start) -> list[Message]:
        agent: dict[str, object] = {}
        if self._settings.instructions:
            agent["prompt"] = {"prompt": filled(self._settings.instructions, start)}
        if self._settings.greeting:
            agent["first_message"] = filled(self._settings.greeting, start)
        override: dict[str, object] = {"agent": agent} if agent else {}
        if self._settings.voice:
            override["tts"] = {"voice_id": self._settings.voice}
        return [
            _json(
                {
                    "type": "conversation_initiation_client_data",
                    "conversation_config_override": override,
                    "custom_llm_extra_body": {},
                    "dynamic_variables": call_data(start),
                }
            )
        ]

    def sound_writer(self, start: Start) -> SoundWriter:
        def write(sound: bytes, *_: int) -> Message:
            audio = json_fields.base64_text(sound)
            return Message(b'{"user_audio_chunk":"%b"}' % audio.encode(), is_text=True)

        return write

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        if isinstance(event, Media):
            return self.sound_writer(start)(event.payload, 0, 0, 0)
        if isinstance(event, Dtmf):
            return _json({"type": "user_message", "text": f"The caller pressed the key {event.digits}."})
        return None

    def read_agent(self, message: Message) -> AgentMessage:
        fields = json_fields.read_object(message.data)
        match kind := json_fields.text(fields, "type"):
            case "audio":
                audio = json_fields.child(fields, "audio_event")
                number = json_fields.optional_integer(audio, "event_id")
                if number is not None and number <= self._interrupted:
                    return Unknown("audio of before an interruption")
                return Media(json_fields.payload({"payload": audio.get("audio_base_64")}))
            case "interruption":
                event = json_fields.optional_child(fields, "interruption_event")
                number = json_fields.optional_integer(event, "event_id")
                self._interrupted = max(self._interrupted, -1 if number is None else number)
                return Clear()
            case "ping":
                ping = json_fields.child(fields, "ping_event")
                return Reply(
                    _json({"type": "pong", "event_id": json_fields.optional_integer(ping, "event_id")})
                )
            case "conversation_initiation_metadata":
                metadata = json_fields.child(fields, "conversation_initiation_metadata_event")
                return _formats(metadata)
            case _:
                return Unknown(kind)


def _formats(metadata: json_fields.Json) -> Formats | Problem:
    try:
        return Formats(
            to_agent=_format(metadata, "user_input_audio_format"),
            from_agent=_format(metadata, "agent_output_audio_format"),
        )
    except DialectError as error:
        return Problem(str(error))


def _format(fields: json_fields.Json, key: str) -> AudioFormat:
    """Return a format as ElevenLabs names it: `pcm_16000`, `ulaw_8000`."""
    name = json_fields.optional_text(fields, key) or "pcm_16000"
    encoding, _, rate = name.partition("_")
    if encoding not in _ENCODINGS or not rate.isdecimal() or len(rate) > _RATE_DIGITS:
        raise DialectError(f"sound in {name} is not translated")
    return AudioFormat(_ENCODINGS[encoding], int(rate))


def _json(value: dict[str, object]) -> Message:
    return text(json_fields.write_object(value))
