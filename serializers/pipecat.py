# SPDX-License-Identifier: BSD-2-Clause
"""Agents that speak Pipecat's frames: protobuf in binary messages (docs/reference/translation.md §2).

A `Frame` has one of: text 1, audio 2, transcription 3, message 4, interruption 5. Only sound, messages and
interruptions mean anything on a telephone; the rest is skipped. A Pipecat bot takes a text message, or bytes
that are no frame, for the end of its connection, so none is ever written.

The five messages are read and written here by the wire format of protobuf (its documentation, "Encoding"):
tags of a field number and a type, numbers of seven bits a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serializers import json_fields
from serializers.agent_dialect import ClearAnswer, LinearSound, Message, SoundWriter
from serializers.dialect import DialectError
from serializers.events import AgentEvent, AudioFormat, CarrierEvent, Clear, Dtmf, Media, Start, Unknown

_AUDIO: Final = 2
_MESSAGE: Final = 4
_INTERRUPTION: Final = 5
_SOUND: Final = 3
_SAMPLE_RATE: Final = 4
_CHANNELS: Final = 5
_DATA: Final = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10
KEYPAD: Final = frozenset("0123456789*#")
"""The keys that a bot knows (Pipecat's KeypadEntry)."""


class Pipecat(LinearSound):
    """Pipecat's frames."""

    name = "pipecat"
    frame_ms = None
    clear_answer: ClearAnswer = "nothing"

    def sound_writer(self, start: Start) -> SoundWriter:
        tail = _format_of(start.audio)
        heads: dict[int, bytes] = {}  # by the length of the sound: nearly always one

        def write(sound: bytes, *_: int) -> Message:
            head = heads.get(len(sound))
            if head is None:
                heads.clear()
                inner = _tag(_SOUND, _BYTES) + _varint(len(sound))
                length = len(inner) + len(sound) + len(tail)
                head = heads[len(sound)] = _tag(_AUDIO, _BYTES) + _varint(length) + inner
            return Message(b"%b%b%b" % (head, sound, tail), is_text=False)

        return write

    def read_agent(self, message: Message) -> AgentEvent:
        if message.is_text:
            raise DialectError("a text message is no frame")
        for number, value in _fields(message.data):
            if not isinstance(value, bytes):
                continue
            if number == _AUDIO:
                return _audio_of(value)
            if number == _INTERRUPTION:
                return Clear()
            return Unknown(f"frame {number}")
        return Unknown("empty frame")

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        match event:
            case Media():
                body = _field(_SOUND, event.payload) + _format_of(start.audio)
                return Message(_field(_AUDIO, body), is_text=False)
            case Dtmf() if event.digits in KEYPAD:
                # No frame has a key: a bot with Pipecat's RTVI processor understands this message.
                dtmf = {
                    "label": "rtvi-ai",
                    "type": "dtmf",
                    "id": f"dtmf-{event.sequence or 0}",
                    "data": {"buttons": [event.digits]},
                }
                data = _field(_DATA, json_fields.write_object(dtmf).encode())
                return Message(_field(_MESSAGE, data), is_text=False)
            case _:
                return None


def _audio_of(body: bytes) -> Media | Unknown:
    """Return the sound of an AudioRawFrame; with another rate or number of channels, it says so."""
    sound, rate, channels = b"", 0, 1
    for number, value in _fields(body):
        if number == _SOUND and isinstance(value, bytes):
            sound = value
        elif number == _SAMPLE_RATE and isinstance(value, int):
            rate = value
        elif number == _CHANNELS and isinstance(value, int):
            channels = value
    if channels != 1:
        raise DialectError(f"the frame has {channels} channels")
    return Media(sound, sample_rate=rate or None)


def _format_of(audio: AudioFormat) -> bytes:
    rate = _tag(_SAMPLE_RATE, _VARINT) + _varint(audio.sample_rate)
    return rate + _tag(_CHANNELS, _VARINT) + _varint(audio.channels)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Return number and value of each field, in order. Raises DialectError for what is no message."""
    at, size = 0, len(data)
    while at < size:
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _read_varint(data, at)
        elif kind == _BYTES:
            length, at = _read_varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
            value, at = int.from_bytes(data[at : at + length], "little"), at + length
        else:
            raise DialectError("the frame has a field of no known type")
        if at > size or not number:
            raise DialectError("the frame breaks off")
        yield number, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise DialectError("the frame breaks off")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _field(number: int, value: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(value)) + value


DIALECT = Pipecat()
