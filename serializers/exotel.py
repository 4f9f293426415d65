# SPDX-License-Identifier: BSD-2-Clause
"""Exotel's dialect: Voicebot and AgentStream (docs/reference/carriers.md §5.2)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

import msgspec

from serializers import json_fields
from serializers.call_numbers import numbers_in
from serializers.dialect import Dialect, DialectError
from serializers.events import (
    AgentEvent,
    AudioFormat,
    CarrierEvent,
    Clear,
    Connected,
    Dtmf,
    Mark,
    Media,
    Played,
    Start,
    Stop,
    Unknown,
)
from serializers.transforms import NOTHING, UNCHANGED, UNREADABLE, Audio, ToAgent, Transform

MIN_MEDIA_BYTES: Final = 3200
MEDIA_STEP_BYTES: Final = 320
"""Exotel plays audio without gaps in multiples of 320 bytes, at least 3,200 at a time
(docs/reference/carriers.md §5.2).
"""

MAX_MEDIA_BYTES: Final = 96_000
"""A multiple of the step, and below the 100,000 bytes from which on Exotel reports timeouts."""


class Exotel(Dialect):
    """Exotel's messages: snake_case, or camelCase when read; all values are texts, even rates.

    The audio is linear16, whatever `encoding` says ("audio/x-raw", "raw", "base64"): never branch on it.
    """

    name = "exotel"
    frame_ms = 100
    sends_connected = True
    sends_stop = True
    stream_id_field = "stream_sid"
    agent_media_events = frozenset({"media"})
    min_media_bytes = MIN_MEDIA_BYTES
    media_step_bytes = MEDIA_STEP_BYTES

    def transforms(self) -> tuple[Transform, Transform]:
        return ToAgent(), ChunkAudio()

    def read_carrier(self, message: str | bytes) -> CarrierEvent:  # noqa: PLR0911 - one per event
        fields = json_fields.read_object(message)
        sequence = json_fields.optional_integer(fields, "sequence_number", "sequenceNumber")
        match event := json_fields.event_name(fields):
            case "connected":
                return Connected(
                    json_fields.optional_text(fields, "protocol"),
                    json_fields.optional_text(fields, "version"),
                )
            case "start":
                return _read_start(fields, sequence)
            case "media":
                media = json_fields.child(fields, "media")
                return Media(
                    json_fields.payload(media),
                    track=json_fields.read_track(media),
                    chunk=json_fields.optional_integer(media, "chunk"),
                    timestamp_ms=json_fields.optional_integer(media, "timestamp"),
                    sequence=sequence,
                )
            case "dtmf":
                dtmf = json_fields.child(fields, "dtmf")
                duration = json_fields.optional_integer(dtmf, "duration")
                return Dtmf(json_fields.text(dtmf, "digit"), sequence, duration_ms=duration)
            case "mark":
                return Played(json_fields.text(json_fields.child(fields, "mark"), "name"), sequence)
            case "stop":
                return Stop(
                    json_fields.optional_text(json_fields.optional_child(fields, "stop"), "reason"), sequence
                )
            case _:
                return Unknown(event)

    def read_agent(self, message: str | bytes) -> AgentEvent:
        fields = json_fields.read_object(message)
        match event := json_fields.event_name(fields):
            case "media":
                return Media(json_fields.payload(json_fields.child(fields, "media")))
            case "mark":
                return Mark(json_fields.text(json_fields.child(fields, "mark"), "name"))
            case "clear":
                return Clear()
            case _:
                return Unknown(event)

    def write_carrier(self, event: CarrierEvent, start: Start) -> str:
        match event:
            case Connected():
                return json_fields.write_object({"event": "connected"})
            case Start():
                stream_id, name, body = event.stream_id, "start", _start(event)
            case Media():
                stream_id, name = start.stream_id, "media"
                body = {
                    "chunk": str(json_fields.known_integer(event.chunk, "the chunk number")),
                    "timestamp": str(json_fields.known_integer(event.timestamp_ms, "the timestamp")),
                    "payload": json_fields.base64_text(event.payload),
                }
            case Dtmf():
                stream_id, name = start.stream_id, "dtmf"
                body = {"digit": json_fields.digits(event.digits)}
                if event.duration_ms is not None:
                    body["duration"] = str(event.duration_ms)
            case Played():
                stream_id, name = start.stream_id, "mark"
                body = {"name": json_fields.known_text(event.name, "the mark's name")}
            case Stop():
                stream_id, name = start.stream_id, "stop"
                body = {
                    "call_sid": start.call_id,
                    "account_sid": json_fields.known_text(start.account_id, "the account id"),
                    "reason": event.reason or "callended",
                }
            case _:
                raise DialectError(f"Exotel never sends {type(event).__name__}")
        sequence = str(json_fields.known_integer(event.sequence, "the sequence number"))
        return json_fields.write_object(
            {"event": name, "sequence_number": sequence, "stream_sid": stream_id, name: body}
        )

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        match event:
            case Media():
                body = {"media": {"payload": json_fields.base64_text(event.payload)}}
                return json_fields.write_object({"event": "media", "stream_sid": start.stream_id, **body})
            case Mark():
                name = json_fields.known_text(event.name, "the mark's name")
                return json_fields.write_object(
                    {"event": "mark", "stream_sid": start.stream_id, "mark": {"name": name}}
                )
            case Clear():
                return json_fields.write_object({"event": "clear", "stream_sid": start.stream_id})
            case _:
                raise DialectError(f"Exotel has no message for {type(event).__name__}")


def _read_start(fields: json_fields.Json, sequence: int | None) -> Start:
    start = json_fields.child(fields, "start")
    audio = json_fields.optional_child(start, "media_format", "mediaFormat")
    sent = start.get("custom_parameters")
    if sent is None:
        sent = start.get("customParameters")
    # They come from the URL's query (§5.1), so a text can only be a query.
    parameters = json_fields.parameters(sent, separators="&")
    from_number, to_number = numbers_in(parameters)
    places = start, fields
    return Start(
        call_id=json_fields.text_in(places, "call_sid", "callSid"),
        stream_id=json_fields.text_in(places, "stream_sid", "streamSid"),
        account_id=json_fields.optional_text_in(places, "account_sid", "accountSid"),
        from_number=json_fields.optional_text(start, "from") or from_number,
        to_number=json_fields.optional_text(start, "to") or to_number,
        audio=AudioFormat("linear16", json_fields.read_rate(audio, "sample_rate", "sampleRate")),
        parameters=parameters,
        sequence=sequence,
    )


def _start(event: Start) -> dict[str, object]:
    if event.audio.encoding != "linear16" or event.audio.big_endian:
        raise DialectError("Exotel sends little-endian linear16 only")
    start: dict[str, object] = {
        "stream_sid": json_fields.known_text(event.stream_id, "the stream id"),
        "call_sid": json_fields.known_text(event.call_id, "the call id"),
        "account_sid": json_fields.known_text(event.account_id, "the account id"),
        "from": json_fields.known_text(event.from_number, "the caller's number"),
        "to": json_fields.known_text(event.to_number, "the called number"),
    }
    if event.parameters:  # without parameters there is no such key (§1)
        start["custom_parameters"] = json_fields.known_parameters(event.parameters)
    start["media_format"] = {
        "encoding": "audio/x-raw",
        "sample_rate": str(json_fields.mono(event.audio).sample_rate),
        "bit_rate": "16",
    }
    return start


class _AgentMessage(msgspec.Struct, frozen=True):
    event: str
    stream_sid: str = ""
    media: Audio | None = None


_decode = msgspec.json.Decoder(_AgentMessage).decode
_encode = msgspec.json.Encoder().encode


class ChunkAudio:
    """Agent to Exotel: drops what is no message, and cuts audio into sizes that Exotel plays without gaps."""

    def __init__(self) -> None:
        self._audio = bytearray()
        self._stream_sid = ""

    @property
    def has_buffered(self) -> bool:
        """Whether audio is buffered."""
        return bool(self._audio)

    def feed(self, message: bytes) -> Sequence[bytes] | None:
        """Return UNCHANGED for a message that Exotel plays well, else the messages that are complete now."""
        try:
            parsed = _decode(message.decode())
        except UNREADABLE:
            return NOTHING
        if parsed.event == "clear":
            self._audio.clear()  # the agent wants all audio discarded that was not played yet
            return UNCHANGED
        if parsed.event != "media":
            # A mark must follow the audio that was sent before it.
            return [*self.flush(), message]
        audio = _audio_of(parsed)
        if not self._audio and _plays_well(len(audio)):
            return UNCHANGED
        self._stream_sid = parsed.stream_sid
        self._audio += audio
        return self._complete_messages()

    def flush(self) -> Sequence[bytes]:
        """Return the buffered audio, padded with silence to a size that Exotel plays without gaps."""
        if not self._audio:
            return NOTHING
        missing = max(MIN_MEDIA_BYTES - len(self._audio), -len(self._audio) % MEDIA_STEP_BYTES)
        self._audio += bytes(missing)
        return self._complete_messages()

    def _complete_messages(self) -> list[bytes]:
        messages = []
        while len(self._audio) >= MIN_MEDIA_BYTES:
            size = min(len(self._audio), MAX_MEDIA_BYTES)
            size -= size % MEDIA_STEP_BYTES
            payload = base64.b64encode(self._audio[:size]).decode()
            del self._audio[:size]
            messages.append(
                _encode({"event": "media", "stream_sid": self._stream_sid, "media": {"payload": payload}})
            )
        return messages


def _audio_of(message: _AgentMessage) -> bytes:
    """Return the audio of a media message, empty if it has none that can be decoded."""
    try:
        return base64.b64decode(message.media.payload or "", validate=True) if message.media else b""
    except ValueError:
        return b""


def _plays_well(size: int) -> bool:
    return MIN_MEDIA_BYTES <= size <= MAX_MEDIA_BYTES and size % MEDIA_STEP_BYTES == 0


DIALECT = Exotel()
