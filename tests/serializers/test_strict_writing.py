# SPDX-License-Identifier: BSD-2-Clause
"""An event is written completely or not at all; an event that the carrier does not have is never written."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from serializers.dialect import DialectError
from serializers.events import (
    AudioFormat,
    Clear,
    Cleared,
    Connected,
    Dtmf,
    Error,
    Mark,
    Media,
    Played,
    Start,
    Stop,
)
from serializers.registry import DIALECTS

CARRIERS = sorted(DIALECTS)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    "event",
    [
        Media(b"\xff", "inbound", chunk=1, timestamp_ms=20),
        Media(b"\xff", "inbound", chunk=1, sequence=1),
        Media(b"\xff", "inbound", timestamp_ms=20, sequence=1),
        Media(b"\xff", "inbound", chunk=10**18, timestamp_ms=20, sequence=1),
        Dtmf("1"),
        Dtmf("12", sequence=1),
        Dtmf("E", sequence=1),
        Dtmf("", sequence=1),
        Played("", sequence=1),
        Played("\ud800", sequence=1),
        Played("a"),
        Stop("callended"),
        Cleared(),
        Error(code=100004),
    ],
)
def test_incomplete_events_are_not_written(carrier, event, calls):
    with pytest.raises(DialectError):
        DIALECTS[carrier].write_carrier(event, calls[carrier])


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("field", ["call_id", "stream_id", "account_id", "sequence"])
def test_a_start_without_its_ids_is_not_written(carrier, field, calls):
    start = replace(calls[carrier], **{field: None})
    with pytest.raises(DialectError, match="not given"):
        DIALECTS[carrier].write_carrier(start, start)


@pytest.mark.parametrize("carrier", ["telnyx", "exotel"])
@pytest.mark.parametrize("field", ["from_number", "to_number"])
def test_a_carrier_that_sends_numbers_always_sends_them(carrier, field, calls):
    start = replace(calls[carrier], **{field: None})
    with pytest.raises(DialectError, match="number is not given"):
        DIALECTS[carrier].write_carrier(start, start)


@pytest.mark.parametrize(
    ("carrier", "audio"),
    [
        ("twilio", AudioFormat("alaw")),
        ("twilio", AudioFormat("linear16")),
        ("telnyx", AudioFormat("linear16")),
        ("telnyx", AudioFormat("mulaw", big_endian=True)),
        ("plivo", AudioFormat("alaw")),
        ("plivo", AudioFormat("mulaw", channels=2)),
        ("exotel", AudioFormat("mulaw")),
        ("exotel", AudioFormat("linear16", big_endian=True)),
        ("exotel", AudioFormat("linear16", channels=2)),
    ],
)
def test_no_carrier_announces_audio_that_it_does_not_send(carrier, audio, calls):
    start = replace(calls[carrier], audio=audio)
    with pytest.raises(DialectError, match=r"send"):
        DIALECTS[carrier].write_carrier(start, start)


@pytest.mark.parametrize(
    ("carrier", "event"),
    [
        ("twilio", Cleared(1)),
        ("twilio", Error(1, "a", "b")),
        ("telnyx", Cleared(1)),
        ("plivo", Connected()),
        ("plivo", Stop("callended", 1)),
        ("plivo", Error(1, "a", "b")),
        ("exotel", Cleared(1)),
        ("exotel", Error(1, "a", "b")),
    ],
)
def test_an_event_that_the_carrier_does_not_have_is_refused(carrier, event, calls):
    with pytest.raises(DialectError, match="never sends"):
        DIALECTS[carrier].write_carrier(event, calls[carrier])


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "exotel"])
def test_only_plivo_accepts_digits_from_an_agent(carrier, calls):
    with pytest.raises(DialectError, match="Dtmf"):
        DIALECTS[carrier].write_agent(Dtmf("1"), calls[carrier])


@pytest.mark.parametrize("digits", ["", "w1", "1 2", "1234#\n"])
def test_plivo_accepts_only_keys_of_a_telephone(digits, calls):
    with pytest.raises(DialectError, match="keys"):
        DIALECTS["plivo"].write_agent(Dtmf(digits), calls["plivo"])


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_mark_without_a_name_is_not_written(carrier, calls):
    with pytest.raises(DialectError, match="name"):
        DIALECTS[carrier].write_agent(Mark(""), calls[carrier])


@pytest.mark.parametrize("parameters", [{"": "v"}, {"k": "\ud800"}, {"\ud800": "v"}])
def test_parameters_that_plivos_form_cannot_express_are_refused(parameters, calls):
    start = replace(calls["plivo"], parameters=parameters)
    with pytest.raises(DialectError, match="parameter"):
        DIALECTS["plivo"].write_carrier(start, start)


def test_a_timestamp_that_is_no_date_is_not_written(calls):
    with pytest.raises(DialectError, match="date"):
        DIALECTS["telnyx"].write_carrier(Dtmf("1", 1, timestamp_ms=10**17), calls["telnyx"])


def test_optional_values_are_written_as_the_carrier_usually_sends_them(calls):
    """Connected's version, the track and the reason are the carrier's habit, not the caller's to know."""
    sound = Media(b"\xff", chunk=1, timestamp_ms=20, sequence=2)

    def written(carrier, event):
        return json.loads(DIALECTS[carrier].write_carrier(event, calls[carrier]))

    assert written("twilio", Connected()) == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert written("telnyx", Connected()) == {"event": "connected", "version": "1.0.0"}
    assert written("exotel", Connected("Call", "1.0.0")) == {"event": "connected"}
    assert written("exotel", Stop(sequence=3))["stop"]["reason"] == "callended"
    assert [
        written(carrier, sound)["media"].get("track") for carrier in ("twilio", "telnyx", "plivo", "exotel")
    ] == [
        "inbound",
        "inbound",
        "inbound",
        None,
    ]


def test_plivo_repeats_its_extra_headers_on_every_media_message(calls):
    start = replace(calls["plivo"], parameters={"name": "Jane Doe; & co", "k": "v"})
    for event in (start, Media(b"\xff", chunk=1, timestamp_ms=20, sequence=2), Dtmf("5", 3)):
        written = json.loads(DIALECTS["plivo"].write_carrier(event, start))
        assert written["extra_headers"] == "name=Jane%20Doe%3B%20%26%20co;k=v"
    assert "extra_headers" not in json.loads(
        DIALECTS["plivo"].write_carrier(replace(start, parameters={}), start)
    )


def test_plivo_play_audio_has_the_streams_format(calls):
    start = replace(calls["plivo"], audio=AudioFormat("linear16", 16000))
    written = json.loads(DIALECTS["plivo"].write_agent(Media(b"\0\0"), start))
    assert written == {
        "event": "playAudio",
        "media": {"contentType": "audio/x-l16", "sampleRate": 16000, "payload": "AAA="},
    }


def test_telnyx_messages_of_one_call_have_one_session_id(calls):
    def session(start: Start) -> str:
        return json.loads(DIALECTS["telnyx"].write_carrier(start, start))["start"]["call_session_id"]

    start = calls["telnyx"]
    assert uuid.UUID(session(start))
    assert session(start) == session(replace(start, stream_id="another"))
    assert session(start) != session(replace(start, call_id="another"))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_messages_are_compact_ascii(carrier, calls):
    dialect, start = DIALECTS[carrier], calls[carrier]
    for text in (dialect.write_carrier(start, start), dialect.write_agent(Mark("grüß"), start)):
        assert text.isascii()
        assert text == json.dumps(json.loads(text), separators=(",", ":"))
    assert dialect.read_agent(dialect.write_agent(Clear(), start)) == Clear()
