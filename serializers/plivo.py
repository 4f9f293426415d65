# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's dialect: audio streaming (docs/reference/carriers.md §4.2, §4.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from serializers import json_fields
from serializers.call_numbers import numbers_in
from serializers.dialect import Dialect, DialectError
from serializers.events import (
    AgentEvent,
    AudioFormat,
    CarrierEvent,
    Clear,
    Cleared,
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

_ENCODINGS: dict[Encoding, str] = {"mulaw": "audio/x-mulaw", "linear16": "audio/x-l16"}
_PREFIXED: Final = re.compile(r"X-PH-(?=.)", re.IGNORECASE | re.DOTALL)


class Plivo(Dialect):
    """Plivo's messages: camelCase except `extra_headers`; sequence and chunk are numbers, timestamps are
    texts.
    """

    name = "plivo"
    frame_ms = 20
    sends_connected = False
    sends_stop = False
    stream_id_field = "streamId"
    agent_media_events = frozenset({"playAudio"})

    def read_carrier(self, message: str | bytes) -> CarrierEvent:  # noqa: PLR0911 - one per event
        fields = json_fields.read_object(message)
        sequence = json_fields.optional_integer(fields, "sequenceNumber")
        match event := json_fields.event_name(fields):
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
                when = json_fields.optional_integer(dtmf, "timestamp")
                return Dtmf(json_fields.text(dtmf, "digit"), sequence, timestamp_ms=when)
            case "playedStream":
                return Played(json_fields.text(fields, "name"), sequence)
            case "clearedAudio":
                return Cleared(sequence)
            case "stop":  # not documented, but Plivo's own pre-flight check sends it (§4.2)
                return Stop(json_fields.optional_text(fields, "reason"), sequence)
            case "error" | "playFailed":  # not documented, but Plivo's own code reads them (§4.2)
                return Error(title=event, detail=json_fields.optional_text(fields, "reason"))
            case _:
                return Unknown(event)

    def read_agent(self, message: str | bytes) -> AgentEvent:
        fields = json_fields.read_object(message)
        match event := json_fields.event_name(fields):
            case "playAudio":
                return Media(json_fields.payload(json_fields.child(fields, "media")))
            case "checkpoint":
                return Mark(json_fields.text(fields, "name"))
            case "clearAudio":
                return Clear()
            case "sendDTMF":
                return Dtmf(json_fields.text(fields, "dtmf"))
            case _:
                return Unknown(event)

    def write_carrier(self, event: CarrierEvent, start: Start) -> str:
        message: dict[str, object]
        stream = {"streamId": start.stream_id}
        match event:
            case Start():
                message = {**_start(event), **_extra_headers(event.parameters)}
            case Media():
                message = {
                    "event": "media",
                    "sequenceNumber": _sequence(event),
                    **stream,
                    "media": {
                        "track": event.track or "inbound",
                        "timestamp": str(json_fields.known_integer(event.timestamp_ms, "the timestamp")),
                        "chunk": json_fields.known_integer(event.chunk, "the chunk number"),
                        "payload": json_fields.base64_text(event.payload),
                    },
                    **_extra_headers(start.parameters),
                }
            case Dtmf():
                when = {} if event.timestamp_ms is None else {"timestamp": str(event.timestamp_ms)}
                message = {
                    "event": "dtmf",
                    "sequenceNumber": _sequence(event),
                    **stream,
                    "dtmf": {"track": "inbound", "digit": json_fields.digits(event.digits), **when},
                    **_extra_headers(start.parameters),
                }
            case Played():
                message = {
                    "event": "playedStream",
                    "sequenceNumber": _sequence(event),
                    **stream,
                    "name": json_fields.known_text(event.name, "the checkpoint's name"),
                }
            case Cleared():
                message = {"event": "clearedAudio", "sequenceNumber": _sequence(event), **stream}
            case _:
                raise DialectError(f"Plivo never sends {type(event).__name__}")
        return json_fields.write_object(message)

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        match event:
            case Media():
                media = {
                    "contentType": json_fields.write_encoding(start.audio, _ENCODINGS),
                    "sampleRate": start.audio.sample_rate,
                    "payload": json_fields.base64_text(event.payload),
                }
                return json_fields.write_object({"event": "playAudio", "media": media})
            case Mark():
                name = json_fields.known_text(event.name, "the checkpoint's name")
                return json_fields.write_object(
                    {"event": "checkpoint", "streamId": start.stream_id, "name": name}
                )
            case Clear():
                return json_fields.write_object({"event": "clearAudio", "streamId": start.stream_id})
            case Dtmf():
                return json_fields.write_object(
                    {"event": "sendDTMF", "dtmf": json_fields.digits(event.digits, None)}
                )
            case _:
                raise DialectError(f"Plivo has no message for {type(event).__name__}")

    def agent_audio(self, start: Start, *, own_document: bool = False) -> AudioFormat | None:
        # Its linear16 is little-endian, as is what Vobiz plays (§4.3). It has no name for any other codec.
        return start.audio if start.audio.encoding in _ENCODINGS else None


def _sequence(event: Media | Dtmf | Played | Cleared | Start) -> int:
    return json_fields.known_integer(event.sequence, "the sequence number")


def _extra_headers(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the field with `k=v;k2=v2`, percent-encoded; no field if there are no parameters."""
    if not parameters:
        return {}
    if "" in parameters:
        raise DialectError("a custom parameter has no name")
    try:
        pairs = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items()]
    except UnicodeEncodeError:
        raise DialectError("a custom parameter holds half a character") from None
    return {"extra_headers": ";".join(pairs)}


def _read_start(fields: json_fields.Json, sequence: int | None) -> Start:
    start = json_fields.child(fields, "start")
    # Plivo sends neither number. The answer document may have put them into the parameters.
    parameters = _read_extra_headers(fields, start)
    from_number, to_number = numbers_in(parameters)
    audio = json_fields.optional_child(start, "mediaFormat")
    places = start, fields
    return Start(
        call_id=json_fields.text_in(places, "callId"),
        stream_id=json_fields.text_in(places, "streamId"),
        account_id=json_fields.optional_text_in(places, "accountId"),
        from_number=from_number,
        to_number=to_number,
        audio=AudioFormat(
            json_fields.read_encoding(json_fields.optional_text(audio, "encoding")),
            json_fields.read_rate(audio, "sampleRate"),
        ),
        parameters=parameters,
        tracks=json_fields.read_tracks(start),
        sequence=sequence,
    )


def _read_extra_headers(fields: json_fields.Json, start: json_fields.Json) -> dict[str, str]:
    """Return the custom parameters, without the `X-PH-` that Plivo and Vobiz put before each name (§4.2).

    A name that was sent without it counts first.
    """
    sent = fields.get("extra_headers")
    sent = json_fields.parameters(start.get("extra_headers") if sent is None else sent)
    named = {name: value for name, value in sent.items() if not _PREFIXED.match(name)}
    return {_PREFIXED.sub("", name): value for name, value in sent.items()} | named


def _start(event: Start) -> dict[str, object]:
    return {
        "event": "start",
        "sequenceNumber": _sequence(event),
        "start": {
            "callId": json_fields.known_text(event.call_id, "the call id"),
            "streamId": json_fields.known_text(event.stream_id, "the stream id"),
            "accountId": json_fields.known_text(event.account_id, "the account id"),
            "tracks": list(event.tracks),
            "mediaFormat": {
                "encoding": json_fields.write_encoding(json_fields.mono(event.audio), _ENCODINGS),
                "sampleRate": event.audio.sample_rate,
            },
        },
    }


DIALECT = Plivo()
