# SPDX-License-Identifier: BSD-2-Clause
"""Exotel Voicebot and AgentStream (docs/reference/carriers.md §5.2)."""

from __future__ import annotations

from serializers import json_fields
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
from serializers.transforms import EXOTEL_LEAST_BYTES, EXOTEL_STEP_BYTES


class Exotel(Dialect):
    """snake_case, with a camelCase variant that is read too; everything, rates included, is text.

    Whatever `encoding` says ("audio/x-raw", "raw", "base64"), the sound is linear16: never branch on it.
    """

    name = "exotel"
    frame_ms = 100
    says_connected = True
    says_stop = True
    stream_id_field = "stream_sid"
    agent_sound_events = frozenset({"media"})
    least_sound_bytes = EXOTEL_LEAST_BYTES
    sound_step_bytes = EXOTEL_STEP_BYTES

    def read_carrier(self, message: str | bytes) -> CarrierEvent:  # noqa: PLR0911 - one an event
        said = json_fields.read_object(message)
        sequence = json_fields.optional_integer(said, "sequence_number", "sequenceNumber")
        match event := json_fields.event_name(said):
            case "connected":
                return Connected(
                    json_fields.optional_text(said, "protocol"), json_fields.optional_text(said, "version")
                )
            case "start":
                return _read_start(said, sequence)
            case "media":
                media = json_fields.child(said, "media")
                return Media(
                    json_fields.payload(media),
                    track=json_fields.read_track(media),
                    chunk=json_fields.optional_integer(media, "chunk"),
                    timestamp_ms=json_fields.optional_integer(media, "timestamp"),
                    sequence=sequence,
                )
            case "dtmf":
                dtmf = json_fields.child(said, "dtmf")
                duration = json_fields.optional_integer(dtmf, "duration")
                return Dtmf(json_fields.text(dtmf, "digit"), sequence, duration_ms=duration)
            case "mark":
                return Played(json_fields.text(json_fields.child(said, "mark"), "name"), sequence)
            case "stop":
                return Stop(
                    json_fields.optional_text(json_fields.optional_child(said, "stop"), "reason"), sequence
                )
            case _:
                return Unknown(event)

    def read_agent(self, message: str | bytes) -> AgentEvent:
        said = json_fields.read_object(message)
        match event := json_fields.event_name(said):
            case "media":
                return Media(json_fields.payload(json_fields.child(said, "media")))
            case "mark":
                return Mark(json_fields.text(json_fields.child(said, "mark"), "name"))
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
                raise DialectError(f"Exotel never says {type(event).__name__}")
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
                raise DialectError(f"Exotel has no word for {type(event).__name__}")


def _read_start(said: json_fields.Json, sequence: int | None) -> Start:
    start = json_fields.child(said, "start")
    audio = json_fields.optional_child(start, "media_format", "mediaFormat")
    parameters = start.get("custom_parameters")
    if parameters is None:
        parameters = start.get("customParameters")
    stream_id = json_fields.optional_text(start, "stream_sid", "streamSid")
    return Start(
        call_id=json_fields.text(start, "call_sid", "callSid"),
        stream_id=stream_id or json_fields.text(said, "stream_sid", "streamSid"),
        account_id=json_fields.optional_text(start, "account_sid", "accountSid"),
        from_number=json_fields.optional_text(start, "from"),
        to_number=json_fields.optional_text(start, "to"),
        audio=AudioFormat("linear16", json_fields.read_rate(audio, "sample_rate", "sampleRate")),
        # They come out of the URL's query (§5.1), so as text they can only be one.
        parameters=json_fields.parameters(parameters, separators="&"),
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
    if event.parameters:  # the key is absent when there are none (§1)
        start["custom_parameters"] = json_fields.known_parameters(event.parameters)
    start["media_format"] = {
        "encoding": "audio/x-raw",
        "sample_rate": str(json_fields.mono(event.audio).sample_rate),
        "bit_rate": "16",
    }
    return start


DIALECT = Exotel()
