# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's dialect: media streaming (docs/reference/carriers.md §3.2, §3.3)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

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
    Error,
    Mark,
    Media,
    Played,
    Start,
    Stop,
    Unknown,
)
from serializers.transforms import ToAgentInOrder, ToCarrier, Transform

_ENCODINGS: dict[Encoding, str] = {
    "mulaw": "PCMU",
    "alaw": "PCMA",
    "linear16": "L16",
    "g722": "G722",
    "opus": "OPUS",
    "amr-wb": "AMR-WB",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Telnyx(Dialect):
    """Telnyx's messages: snake_case; sequence, chunk and timestamp are texts; `stream_id` is at the top level
    only.
    """

    name = "telnyx"
    frame_ms = 20
    sends_connected = True
    sends_stop = True
    stream_id_field = "stream_id"
    agent_media_events = frozenset({"media"})
    returns_marks = True
    needs_audio = True  # within 1.6 s, as observed (§3.3)

    def transforms(self) -> tuple[Transform, Transform]:
        return ToAgentInOrder(), ToCarrier()

    def read_carrier(self, message: str | bytes) -> CarrierEvent:  # noqa: PLR0911 - one per event
        fields = json_fields.read_object(message)
        sequence = json_fields.optional_integer(fields, "sequence_number")
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
                digit = json_fields.text(json_fields.child(fields, "dtmf"), "digit")
                return Dtmf(digit, sequence, timestamp_ms=_read_time(fields.get("occurred_at")))
            case "mark":
                return Played(json_fields.text(json_fields.child(fields, "mark"), "name"), sequence)
            case "stop":
                return Stop(sequence=sequence)
            case "error":
                # The details are under "payload", not under "error" (§3.2).
                error = json_fields.optional_child(fields, "payload")
                return Error(
                    json_fields.optional_integer(error, "code"),
                    json_fields.optional_text(error, "title"),
                    json_fields.optional_text(error, "detail"),
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
        message: dict[str, object]
        match event:
            case Connected():
                message = {"event": "connected", "version": event.version or "1.0.0"}
            case Start():
                message = _start(event)
            case Media():
                message = {
                    "event": "media",
                    "sequence_number": _sequence(event),
                    "media": {
                        "track": event.track or "inbound",
                        "chunk": str(json_fields.known_integer(event.chunk, "the chunk number")),
                        "timestamp": str(json_fields.known_integer(event.timestamp_ms, "the timestamp")),
                        "payload": json_fields.base64_text(event.payload),
                    },
                    "stream_id": start.stream_id,
                }
            case Dtmf():
                message = {
                    "event": "dtmf",
                    "stream_id": start.stream_id,
                    **({} if event.timestamp_ms is None else {"occurred_at": _time(event.timestamp_ms)}),
                    "sequence_number": _sequence(event),
                    "dtmf": {"digit": json_fields.digits(event.digits)},
                }
            case Played():
                message = {
                    "event": "mark",
                    "sequence_number": _sequence(event),
                    "stream_id": start.stream_id,
                    "mark": {"name": json_fields.known_text(event.name, "the mark's name")},
                }
            case Stop():
                message = {
                    "event": "stop",
                    "sequence_number": _sequence(event),
                    "stop": {
                        "user_id": json_fields.known_text(start.account_id, "the account id"),
                        "call_control_id": start.call_id,
                    },
                    "stream_id": start.stream_id,
                }
            case Error():
                message = {
                    "event": "error",
                    "payload": {
                        "code": json_fields.known_integer(event.code, "the error's code"),
                        "title": json_fields.known_text(event.title, "the error's title"),
                        "detail": json_fields.known_text(event.detail, "the error's detail"),
                    },
                    "stream_id": start.stream_id,
                }
            case _:
                raise DialectError(f"Telnyx never sends {type(event).__name__}")
        return json_fields.write_object(message)

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        match event:
            case Media():
                return json_fields.write_object(
                    {"event": "media", "media": {"payload": json_fields.base64_text(event.payload)}}
                )
            case Mark():
                name = json_fields.known_text(event.name, "the mark's name")
                return json_fields.write_object({"event": "mark", "mark": {"name": name}})
            case Clear():
                return json_fields.write_object({"event": "clear"})
            case _:
                raise DialectError(f"Telnyx has no message for {type(event).__name__}")

    def agent_audio(self, start: Start, *, own_document: bool = False) -> AudioFormat | None:
        # `start` describes the caller's codec alone, and the other direction has that of `bidirectionalCodec`
        # (§3.3). Our documents and requests set PCMU, which is also what Telnyx uses if nobody sets it: a
        # British call arrives as PCMA, and plays PCMU. Where the caller's codec is none of G.711 and the
        # document is another's, that may have set anything.
        if own_document or start.audio.encoding in ("mulaw", "alaw"):
            return AudioFormat()
        return None

    def silent_audio(self, start: Start, *, own_document: bool = False) -> AudioFormat | None:
        audio = self.agent_audio(start, own_document=own_document)
        # Silence of linear16 is the same in either byte order, and no sound in PCMU either.
        return start.audio if audio is None and start.audio.encoding == "linear16" else audio


def _sequence(event: Media | Dtmf | Played | Stop | Start) -> str:
    return str(json_fields.known_integer(event.sequence, "the sequence number"))


def _read_time(value: object) -> int | None:
    """Return milliseconds since 1970, or None if the value cannot be read: no call may fail because of it."""
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (when - _EPOCH) // timedelta(milliseconds=1)


def _time(timestamp_ms: int) -> str:
    try:
        when = _EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        raise DialectError("the timestamp is no date") from None
    return when.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _read_start(fields: json_fields.Json, sequence: int | None) -> Start:
    start = json_fields.child(fields, "start")
    places = start, fields
    audio = json_fields.optional_child(start, "media_format")
    encoding = json_fields.read_encoding(json_fields.optional_text(audio, "encoding"))
    # Key and form are not documented (§3.2). Both forms that were observed are read.
    parameters = json_fields.parameters(start.get("custom_parameters"))
    from_number, to_number = numbers_in(parameters)
    call_id = json_fields.text_in(places, "call_control_id")
    return Start(
        call_id=call_id,
        # No message to Telnyx needs it, so a stream without one is named by its call.
        stream_id=json_fields.optional_text_in((fields, start), "stream_id") or call_id,
        account_id=json_fields.optional_text_in(places, "user_id"),
        from_number=json_fields.optional_text(start, "from") or from_number,
        to_number=json_fields.optional_text(start, "to") or to_number,
        audio=AudioFormat(
            encoding,
            json_fields.read_rate(audio, "sample_rate"),
            json_fields.read_channels(audio),
            # Not verified on a call. Telnyx documents the payload as that of RTP, whose L16 is in network
            # byte order (RFC 3551 §4.5.11), and other implementations assume the same (§3.3).
            big_endian=encoding == "linear16",
        ),
        parameters=parameters,
        sequence=sequence,
    )


def _start(event: Start) -> dict[str, object]:
    if event.audio.big_endian != (event.audio.encoding == "linear16"):
        raise DialectError("Telnyx sends linear16, and nothing else, in network byte order")
    call_id = json_fields.known_text(event.call_id, "the call id")
    start: dict[str, object] = {
        "user_id": json_fields.known_text(event.account_id, "the account id"),
        "call_control_id": call_id,
        # No event contains the session's id. It must be a UUID, and the same for the same call.
        "call_session_id": str(uuid.uuid5(uuid.NAMESPACE_URL, call_id)),
        "from": json_fields.known_text(event.from_number, "the caller's number"),
        "to": json_fields.known_text(event.to_number, "the called number"),
    }
    if event.parameters:
        start["custom_parameters"] = json_fields.known_parameters(event.parameters)
    start["media_format"] = {
        "encoding": json_fields.write_encoding(event.audio, _ENCODINGS),
        "sample_rate": event.audio.sample_rate,
        "channels": event.audio.channels,
    }
    return {
        "event": "start",
        "sequence_number": _sequence(event),
        "start": start,
        "stream_id": json_fields.known_text(event.stream_id, "the stream id"),
    }


DIALECT = Telnyx()
