# SPDX-License-Identifier: BSD-2-Clause
"""Twilio Media Streams (carriers.md §2.2, §2.3)."""

from __future__ import annotations

from serializers import formats, wire
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
    """camelCase; sequence, chunk and timestamp are texts, rates and channels numbers."""

    name = "twilio"
    frame_ms = 20
    says_connected = True
    says_stop = True
    stream_id_field = "streamSid"
    agent_sound_events = frozenset({"media"})

    def read_carrier(self, message: str | bytes) -> CarrierEvent:  # noqa: PLR0911 - one an event
        said = wire.read_object(message)
        sequence = wire.optional_integer(said, "sequenceNumber")
        match event := wire.event_name(said):
            case "connected":
                return Connected(wire.optional_text(said, "protocol"), wire.optional_text(said, "version"))
            case "start":
                return _read_start(wire.child(said, "start"), sequence)
            case "media":
                media = wire.child(said, "media")
                return Media(
                    wire.payload(media),
                    track=formats.read_track(media),
                    chunk=wire.optional_integer(media, "chunk"),
                    timestamp_ms=wire.optional_integer(media, "timestamp"),
                    sequence=sequence,
                )
            case "dtmf":
                return Dtmf(wire.text(wire.child(said, "dtmf"), "digit"), sequence)
            case "mark":
                return Played(wire.text(wire.child(said, "mark"), "name"), sequence)
            case "stop":
                return Stop(sequence=sequence)
            case _:
                return Unknown(event)

    def read_agent(self, message: str | bytes) -> AgentEvent:
        said = wire.read_object(message)
        match event := wire.event_name(said):
            case "media":
                return Media(wire.payload(wire.child(said, "media")))
            case "mark":
                return Mark(wire.text(wire.child(said, "mark"), "name"))
            case "clear":
                return Clear()
            case _:
                return Unknown(event)

    def write_carrier(self, event: CarrierEvent, start: Start) -> str:
        match event:
            case Connected():
                return wire.write_object(
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
                # Alone among the carriers' messages, this one says `inbound_track` and puts the id first.
                return wire.write_object(
                    {
                        "event": "dtmf",
                        "streamSid": start.stream_id,
                        "sequenceNumber": _sequence(event),
                        "dtmf": {"track": "inbound_track", "digit": wire.digits(event.digits)},
                    }
                )
            case Played():
                return wire.write_object(
                    {
                        "event": "mark",
                        "sequenceNumber": _sequence(event),
                        "streamSid": start.stream_id,
                        "mark": {"name": wire.known_text(event.name, "the mark's name")},
                    }
                )
            case Stop():
                name = "stop"
                body = {
                    "accountSid": wire.known_text(start.account_id, "the account id"),
                    "callSid": start.call_id,
                }
            case _:
                raise DialectError(f"Twilio never says {type(event).__name__}")
        return wire.write_object(
            {"event": name, "sequenceNumber": _sequence(event), name: body, "streamSid": start.stream_id}
        )

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        match event:
            case Media():
                body = {"media": {"payload": wire.base64_text(event.payload)}}
                return wire.write_object({"event": "media", "streamSid": start.stream_id, **body})
            case Mark():
                name = wire.known_text(event.name, "the mark's name")
                return wire.write_object(
                    {"event": "mark", "streamSid": start.stream_id, "mark": {"name": name}}
                )
            case Clear():
                return wire.write_object({"event": "clear", "streamSid": start.stream_id})
            case _:
                raise DialectError(f"Twilio has no word for {type(event).__name__}")


def _sequence(event: Media | Dtmf | Played | Stop | Start) -> str:
    return str(wire.known_integer(event.sequence, "the sequence number"))


def _media(event: Media) -> dict[str, str]:
    return {
        "track": event.track or "inbound",
        "chunk": str(wire.known_integer(event.chunk, "the chunk number")),
        "timestamp": str(wire.known_integer(event.timestamp_ms, "the timestamp")),
        "payload": wire.base64_text(event.payload),
    }


def _read_start(start: wire.Json, sequence: int | None) -> Start:
    # Twilio tells neither caller nor callee; pipecat's bots look for them under these names (§8.1).
    parameters = wire.parameters(start.get("customParameters"))
    audio = wire.optional_child(start, "mediaFormat")
    return Start(
        call_id=wire.text(start, "callSid"),
        stream_id=wire.text(start, "streamSid"),
        account_id=wire.optional_text(start, "accountSid"),
        from_number=parameters.get("from_number"),
        to_number=parameters.get("to_number"),
        audio=AudioFormat(
            formats.read_encoding(wire.optional_text(audio, "encoding")),
            formats.read_rate(audio, "sampleRate"),
            formats.read_channels(audio),
        ),
        parameters=parameters,
        tracks=formats.read_tracks(start),
        sequence=sequence,
    )


def _write_start(event: Start) -> str:
    return wire.write_object(
        {
            "event": "start",
            "sequenceNumber": _sequence(event),
            "start": {
                "accountSid": wire.known_text(event.account_id, "the account id"),
                "streamSid": wire.known_text(event.stream_id, "the stream id"),
                "callSid": wire.known_text(event.call_id, "the call id"),
                "tracks": list(event.tracks),
                "mediaFormat": {
                    "encoding": formats.write_encoding(event.audio, _ENCODINGS),
                    "sampleRate": event.audio.sample_rate,
                    "channels": event.audio.channels,
                },
                "customParameters": wire.known_parameters(event.parameters),
            },
            "streamSid": event.stream_id,
        }
    )


DIALECT = Twilio()
