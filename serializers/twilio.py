# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's dialect: Media Streams (docs/reference/carriers.md §2.2, §2.3)."""

from __future__ import annotations

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
    Encoding,
    Mark,
    Media,
    Played,
    Start,
    Stop,
    Unknown,
)

_ENCODINGS: dict[Encoding, str] = {"mulaw": "audio/x-mulaw"}


class Twilio(Dialect):
    """Twilio's messages, in camelCase.

    Sequence, chunk and timestamp are texts; rates and channels are not.
    """

    name = "twilio"
    frame_ms = 20
    sends_connected = True
    sends_stop = True
    stream_id_field = "streamSid"
    agent_media_events = frozenset({"media"})
    returns_marks = True

    def read_carrier(self, message: str | bytes) -> CarrierEvent:  # noqa: PLR0911 - one per event
        fields = json_fields.read_object(message)
        sequence = json_fields.optional_integer(fields, "sequenceNumber")
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
                return Dtmf(json_fields.text(json_fields.child(fields, "dtmf"), "digit"), sequence)
            case "mark":
                return Played(json_fields.text(json_fields.child(fields, "mark"), "name"), sequence)
            case "stop":
                return Stop(sequence=sequence)
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
                return json_fields.write_object(
                    {
                        "event": "connected",
                        "protocol": event.protocol or "Call",
                        "version": event.version or "1.0.0",
                    }
                )
            case Start():
                return _write_start(event)
            case Media():
                name, body = "media", _media(event)
            case Dtmf():
                # Unlike Twilio's other messages, this one has `inbound_track`, and the id comes first.
                return json_fields.write_object(
                    {
                        "event": "dtmf",
                        "streamSid": start.stream_id,
                        "sequenceNumber": _sequence(event),
                        "dtmf": {"track": "inbound_track", "digit": json_fields.digits(event.digits)},
                    }
                )
            case Played():
                return json_fields.write_object(
                    {
                        "event": "mark",
                        "sequenceNumber": _sequence(event),
                        "streamSid": start.stream_id,
                        "mark": {"name": json_fields.known_text(event.name, "the mark's name")},
                    }
                )
            case Stop():
                name = "stop"
                body = {
                    "accountSid": json_fields.known_text(start.account_id, "the account id"),
                    "callSid": start.call_id,
                }
            case _:
                raise DialectError(f"Twilio never sends {type(event).__name__}")
        return json_fields.write_object(
            {"event": name, "sequenceNumber": _sequence(event), name: body, "streamSid": start.stream_id}
        )

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        match event:
            case Media():
                body = {"media": {"payload": json_fields.base64_text(event.payload)}}
                return json_fields.write_object({"event": "media", "streamSid": start.stream_id, **body})
            case Mark():
                name = json_fields.known_text(event.name, "the mark's name")
                return json_fields.write_object(
                    {"event": "mark", "streamSid": start.stream_id, "mark": {"name": name}}
                )
            case Clear():
                return json_fields.write_object({"event": "clear", "streamSid": start.stream_id})
            case _:
                raise DialectError(f"Twilio has no message for {type(event).__name__}")

    def agent_audio(self, start: Start, *, own_document: bool = False) -> AudioFormat | None:
        # Twilio has μ-law alone. Others that speak its dialect have linear16 too, in a byte order that they
        # do not document: in the wrong one it is noise.
        return start.audio if start.audio.encoding in ("mulaw", "alaw") else None


def _sequence(event: Media | Dtmf | Played | Stop | Start) -> str:
    return str(json_fields.known_integer(event.sequence, "the sequence number"))


def _media(event: Media) -> dict[str, str]:
    return {
        "track": event.track or "inbound",
        "chunk": str(json_fields.known_integer(event.chunk, "the chunk number")),
        "timestamp": str(json_fields.known_integer(event.timestamp_ms, "the timestamp")),
        "payload": json_fields.base64_text(event.payload),
    }


def _read_start(fields: json_fields.Json, sequence: int | None) -> Start:
    start = json_fields.child(fields, "start")
    # Twilio sends neither number. Pipecat's bots look for them among the parameters (§8.1).
    parameters = json_fields.parameters(start.get("customParameters"))
    from_number, to_number = numbers_in(parameters)
    audio = json_fields.optional_child(start, "mediaFormat")
    places = start, fields  # others that speak Twilio's dialect have ids in one of both places
    return Start(
        call_id=json_fields.text_in(places, "callSid"),
        stream_id=json_fields.text_in(places, "streamSid"),
        account_id=json_fields.optional_text_in(places, "accountSid"),
        from_number=from_number,
        to_number=to_number,
        audio=AudioFormat(
            json_fields.read_encoding(json_fields.optional_text(audio, "encoding")),
            json_fields.read_rate(audio, "sampleRate"),
            json_fields.read_channels(audio),
        ),
        parameters=parameters,
        tracks=json_fields.read_tracks(start),
        sequence=sequence,
    )


def _write_start(event: Start) -> str:
    return json_fields.write_object(
        {
            "event": "start",
            "sequenceNumber": _sequence(event),
            "start": {
                "accountSid": json_fields.known_text(event.account_id, "the account id"),
                "streamSid": json_fields.known_text(event.stream_id, "the stream id"),
                "callSid": json_fields.known_text(event.call_id, "the call id"),
                "tracks": list(event.tracks),
                "mediaFormat": {
                    "encoding": json_fields.write_encoding(event.audio, _ENCODINGS),
                    "sampleRate": event.audio.sample_rate,
                    "channels": event.audio.channels,
                },
                "customParameters": json_fields.known_parameters(event.parameters),
            },
            "streamSid": event.stream_id,
        }
    )


DIALECT = Twilio()
