# SPDX-License-Identifier: BSD-2-Clause
"""Agents that are written for a carrier with JSON: its messages, with ids of its kind."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Final

from serializers.agent_dialect import AgentDialect, ClearAnswer, Message, SoundWriter, text
from serializers.dialect import Dialect, DialectError
from serializers.events import NO_PARAMETERS, AgentEvent, AudioFormat, CarrierEvent, Connected, Media, Start
from serializers.translation.media_text import MediaText, read_sound

UNKNOWN_NUMBER: Final = "anonymous"
"""The number that stands for one that is not known, where the dialect must have one (RFC 3323 §4.1)."""

MakeId = Callable[[str, str], str]
"""Makes an id from a kind (`account`, `call`, `stream`) and the carrier's own id."""


def twilio_id(kind: str, known: str) -> str:
    """Return an id as Twilio's: two letters, 32 hexadecimal digits (docs/reference/translation.md §6.3)."""
    prefix = {"account": "AC", "call": "CA", "stream": "MZ"}[kind]
    return prefix + hex_id(kind, known)


def hex_id(kind: str, known: str) -> str:
    """Return 32 hexadecimal digits, the same for the same id."""
    return sha256(f"{kind} {known}".encode()).hexdigest()[:32]


def uuid_id(kind: str, known: str) -> str:
    """Return a UUID, the same for the same id."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {known}"))


class CarrierStyle(AgentDialect):
    """An agent that is written for a carrier."""

    def __init__(
        self,
        dialect: Dialect,
        audio: AudioFormat,
        make_id: MakeId,
        clear_answer: ClearAnswer,
        *,
        numbers_as_parameters: bool = False,
    ) -> None:
        """`numbers_as_parameters`: the carrier has no field for the numbers, and agents look for them among
        the custom parameters (docs/reference/translation.md §6.1).
        """
        self._dialect = dialect
        self._audio = audio
        self._make_id = make_id
        self._numbers_as_parameters = numbers_as_parameters
        self.name = dialect.name
        self.frame_ms: int | None = dialect.frame_ms
        self.clear_answer: ClearAnswer = clear_answer

    def audio(self, sample_rate: int) -> AudioFormat:
        return self._audio

    def start_of(self, start: Start, audio: AudioFormat) -> Start:
        parameters = dict(start.parameters)
        if self._numbers_as_parameters:
            numbers = {"from_number": start.from_number, "to_number": start.to_number}
            parameters |= {name: number for name, number in numbers.items() if number}
        return replace(
            start,
            call_id=self._make_id("call", start.call_id),
            stream_id=self._make_id("stream", start.stream_id),
            account_id=self._make_id("account", start.account_id or start.call_id),
            from_number=start.from_number or UNKNOWN_NUMBER,
            to_number=start.to_number or UNKNOWN_NUMBER,
            audio=audio,
            parameters=parameters or NO_PARAMETERS,
            tracks=("inbound",),
        )

    def sound_writer(self, start: Start) -> SoundWriter:
        media = MediaText(lambda event: self._dialect.write_carrier(event, start))

        def write(sound: bytes, sequence: int, chunk: int, timestamp_ms: int) -> Message:
            return Message(media.write(sound, sequence, chunk, timestamp_ms), is_text=True)

        return write

    def read_agent(self, message: Message) -> AgentEvent:
        if not message.is_text:
            raise DialectError("a binary message is none of this dialect")
        sound = read_sound(message.data, self._dialect.agent_media_events)
        if sound is not None:
            return Media(sound)
        return self._dialect.read_agent(message.data)

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        if isinstance(event, Connected) and not self._dialect.sends_connected:
            return None
        try:
            return text(self._dialect.write_carrier(event, start))
        except DialectError:  # the carrier never sends such a message
            return None
