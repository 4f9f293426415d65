# SPDX-License-Identifier: BSD-2-Clause
"""The variants of messages that carriers are known to send are read alike.

docs/reference/carriers.md §1, §2.2, §3.2, §4.2, §5.2.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

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
    Unknown,
)
from serializers.registry import DIALECTS

twilio, telnyx, plivo, exotel = (DIALECTS[name] for name in ("twilio", "telnyx", "plivo", "exotel"))


def twilio_start(**start: Any) -> str:
    return json.dumps({"event": "start", "start": {"streamSid": "MZ1", "callSid": "CA1", **start}})


def telnyx_start(**start: Any) -> str:
    return json.dumps({"event": "start", "stream_id": "32DE", "start": {"call_control_id": "v3:1", **start}})


def plivo_start(**message: Any) -> str:
    return json.dumps({"event": "start", "start": {"streamId": "s", "callId": "c"}, **message})


def exotel_start(**start: Any) -> str:
    return json.dumps({"event": "start", "start": {"stream_sid": "s", "call_sid": "c", **start}})


@pytest.mark.parametrize("value", [{}, {"customParameters": None}, {"customParameters": {}}])
def test_twilio_without_parameters(value):
    assert twilio.read_carrier(twilio_start(**value)) == Start("CA1", "MZ1")


def test_parameters_become_texts():
    value = {"age": 7, "vip": True, "none": None, "list": [1, "a"], "name": "Jane"}
    start = twilio.read_carrier(twilio_start(customParameters=value))
    assert start.parameters == {"age": "7", "vip": "true", "list": '[1,"a"]', "name": "Jane"}


@pytest.mark.parametrize("number", [4, "4"])
@pytest.mark.parametrize("carrier", sorted(DIALECTS))
def test_numbers_come_as_numbers_or_texts(carrier, number):
    message = {
        "event": "media",
        "sequenceNumber": number,
        "sequence_number": number,
        "media": {"track": "inbound", "chunk": number, "timestamp": number, "payload": "/w=="},
    }
    event = DIALECTS[carrier].read_carrier(json.dumps(message))
    assert event == Media(b"\xff", "inbound", chunk=4, timestamp_ms=4, sequence=4)


@pytest.mark.parametrize(
    ("written", "track"),
    [
        ("inbound", "inbound"),
        ("inbound_track", "inbound"),
        ("outbound_track", "outbound"),
        ("x", None),
        (5, None),
    ],
)
def test_tracks_have_one_name(written, track):
    message = json.dumps({"event": "media", "media": {"track": written, "payload": ""}})
    assert twilio.read_carrier(message) == Media(b"", track)


@pytest.mark.parametrize("digit", ["5", 5])
def test_digits_come_as_numbers_or_texts(digit):
    assert exotel.read_carrier(json.dumps({"event": "dtmf", "dtmf": {"digit": digit}})) == Dtmf("5")


@pytest.mark.parametrize(
    ("encoding", "ours"),
    [
        ("PCMU", AudioFormat("mulaw")),
        ("audio/x-mulaw", AudioFormat("mulaw")),
        (None, AudioFormat("mulaw")),
        ("PCMA", AudioFormat("alaw")),
        ("L16", AudioFormat("linear16", big_endian=True)),
        ("G722", AudioFormat("g722")),
        ("OPUS", AudioFormat("opus")),
        ("AMR-WB", AudioFormat("amr-wb")),
    ],
)
def test_telnyx_encodings(encoding, ours):
    message = telnyx_start(media_format={"encoding": encoding, "sample_rate": "8000"})
    assert telnyx.read_carrier(message).audio == ours


def test_an_unknown_encoding_is_no_reason_to_lose_a_call():
    assert telnyx.read_carrier(telnyx_start(media_format={"encoding": "MP3"})).audio.encoding == "unknown"


@pytest.mark.parametrize("rate", [0, -8000, 192_001, "fast", [8000], 8000.5, True])
def test_an_invalid_sample_rate_is_refused(rate):
    with pytest.raises(DialectError, match=r"rate|Rate"):
        twilio.read_carrier(twilio_start(mediaFormat={"sampleRate": rate}))


@pytest.mark.parametrize("channels", [0, 9])
def test_an_invalid_number_of_channels_is_refused(channels):
    with pytest.raises(DialectError, match="channels"):
        twilio.read_carrier(twilio_start(mediaFormat={"channels": channels}))


@pytest.mark.parametrize("value", [{"k": "v"}, [{"name": "k", "value": "v"}], '{"k":"v"}', "k=v"])
def test_telnyx_parameters_as_object_or_list(value):
    message = telnyx_start(custom_parameters=value, client_state="aGk=", tags=["T"])
    assert telnyx.read_carrier(message).parameters == {"k": "v"}


@pytest.mark.parametrize("value", [["k"], [{"value": "v"}], 5, True])
def test_parameters_of_no_known_form_are_refused(value):
    with pytest.raises(DialectError, match=r"parameters|name"):
        telnyx.read_carrier(telnyx_start(custom_parameters=value))


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"code": "100003", "title": "malformed_frame"}, Error(100003, "malformed_frame")),
        (None, Error()),
    ],
)
def test_telnyx_errors_may_lack_any_detail(payload, error):
    assert telnyx.read_carrier(json.dumps({"event": "error", "payload": payload})) == error


@pytest.mark.parametrize("when", ["soon", 5, None, "0001-01-01T00:00:00+23:59"])
def test_telnyx_digits_are_read_whatever_their_time(when):
    message = json.dumps({"event": "dtmf", "occurred_at": when, "dtmf": {"digit": "1"}})
    assert telnyx.read_carrier(message).digits == "1"


@pytest.mark.parametrize(
    ("extra_headers", "parameters"),
    [
        ("userId=12345;sessionId=abc-xyz", {"userId": "12345", "sessionId": "abc-xyz"}),
        ("userId=12345,sessionId=abc-xyz", {"userId": "12345", "sessionId": "abc-xyz"}),
        ('{"userId":12345,"sessionId":"abc-xyz"}', {"userId": "12345", "sessionId": "abc-xyz"}),
        ({"userId": "12345"}, {"userId": "12345"}),
        ("name=Jane%20Doe%3B", {"name": "Jane Doe;"}),
        ("url=https://a/?b=c", {"url": "https://a/?b=c"}),
        ("greeting=hello, you; k=v", {"greeting": "hello, you", "k": "v"}),
        ("greeting=hello,you", {"greeting": "hello,you"}),
        ("k=v;", {"k": "v;"}),
        ("{k=v", {"{k": "v"}),
        ("{}", {}),
        ("{X-PH-name: Amal, X-PH-is_vip: true}", {"name": "Amal", "is_vip": "true"}),
        (" {X-PH-greeting: hello, you, X-PH-k: v} ", {"greeting": "hello, you", "k": "v"}),
        ("{x-ph-at: 10:30,url=https://a/?b=c}", {"at": "10:30", "url": "https://a/?b=c"}),
        ("{X-PH-from_number: %2B14155550100}", {"from_number": "+14155550100"}),
        ("{'userId': '12345', \"sessionId\": \"abc\"}", {"userId": "12345", "sessionId": "abc"}),
        ("{a=b;c:d}", {"a": "b", "c": "d"}),
        ("userId:12345,sessionId:abc", {"userId": "12345", "sessionId": "abc"}),
        ("at=10:30,url=sip:a@b.test", {"at": "10:30", "url": "sip:a@b.test"}),
        ('{"X-PH-userId":"1"}', {"userId": "1"}),
        ("X-PH-a=1;a=2;x-ph-b=3;X-PH-=4", {"a": "2", "b": "3", "X-PH-": "4"}),
        ("{{}}", {}),
        ("{", {}),
        ("nothing", {}),
        ("=v", {}),
        ("", {}),
        (None, {}),
    ],
)
def test_plivo_forms_of_extra_headers(extra_headers, parameters):
    assert plivo.read_carrier(plivo_start(extra_headers=extra_headers)).parameters == parameters


def test_extra_headers_inside_of_start():
    message = {"event": "start", "start": {"streamId": "s", "callId": "c", "extra_headers": "{k: v}"}}
    assert plivo.read_carrier(json.dumps(message)).parameters == {"k": "v"}


CALLER, CALLEE = "+14155550100", "sip:support@voice.example.com"


@pytest.mark.parametrize(
    ("parameters", "numbers"),
    [
        ({"from_number": CALLER, "to_number": CALLEE}, (CALLER, CALLEE)),
        ({"from": CALLER, "to": CALLEE}, (CALLER, CALLEE)),
        ({"From": CALLER, "To": CALLEE}, (CALLER, CALLEE)),
        ({"caller": CALLER, "callee": CALLEE}, (CALLER, CALLEE)),
        ({"caller": "1", "From": "2", "from": "3", "from_number": "4"}, ("4", None)),
        ({"caller": "1", "From": "2", "from": "3"}, ("3", None)),
        ({"callee": "1", "To": "2"}, (None, "2")),
        ({"from_number": "", "From": CALLER}, (CALLER, None)),
        ({"from": "newsletter", "From": "client:jane", "to": "you and me"}, ("client:jane", None)),
        ({"From": "anonymous", "to": "", "caller": " (415) 555-0100 "}, ("(415) 555-0100", None)),
        ({"from": "1" * 257}, (None, None)),
    ],
    ids=str,
)
def test_numbers_by_any_name_that_is_in_use(parameters, numbers):
    headers = ";".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    for start in (
        twilio.read_carrier(twilio_start(customParameters=parameters)),
        plivo.read_carrier(plivo_start(extra_headers=headers)),
        telnyx.read_carrier(telnyx_start(custom_parameters=parameters)),
        exotel.read_carrier(exotel_start(custom_parameters=parameters)),
    ):
        assert (start.from_number, start.to_number) == numbers


@pytest.mark.parametrize(("dialect", "start"), [(telnyx, telnyx_start), (exotel, exotel_start)])
def test_the_carriers_own_numbers_count_first(dialect, start):
    message = start(**{"from": "1", "to": "2", "custom_parameters": {"from_number": "3", "to_number": "4"}})
    assert dialect.read_carrier(message).from_number == "1"
    assert dialect.read_carrier(message).to_number == "2"


def test_plivo_numbers_come_from_extra_headers():
    start = plivo.read_carrier(plivo_start(extra_headers="from_number=%2B14155550100;to_number=14155550199"))
    assert (start.from_number, start.to_number) == ("+14155550100", "14155550199")
    assert plivo.read_carrier(plivo_start()).from_number is None


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ({"event": "playedStream", "name": "a"}, Played("a")),
        ({"event": "playedStream", "sequenceNumber": 0, "name": "a"}, Played("a", 0)),
        ({"event": "clearedAudio"}, Cleared()),
        ({"event": "stop"}, Stop()),
        ({"event": "error", "reason": "late"}, Error(title="error", detail="late")),
        ({"event": "playFailed", "reason": "late"}, Error(title="playFailed", detail="late")),
        ({"event": "connected"}, Unknown("connected")),
    ],
)
def test_undocumented_plivo_events_are_read(message, meaning):
    assert plivo.read_carrier(json.dumps(message)) == meaning


@pytest.mark.parametrize("encoding", ["audio/x-raw", "raw", "base64", "audio/x-mulaw", "pcmu", 5, None])
def test_exotel_audio_is_linear16_whatever_its_encoding_is_called(encoding):
    message = exotel_start(media_format={"encoding": encoding, "sample_rate": "16000", "bit_rate": "128kbps"})
    assert exotel.read_carrier(message).audio == AudioFormat("linear16", 16000)


@pytest.mark.parametrize("value", [{"tenant": "acme", "n": 1}, '{"tenant":"acme","n":1}', "tenant=acme&n=1"])
def test_exotel_parameters_as_object_or_text(value):
    assert exotel.read_carrier(exotel_start(custom_parameters=value)).parameters == {
        "tenant": "acme",
        "n": "1",
    }


def test_exotel_in_camel_case():
    message = {
        "event": "start",
        "sequenceNumber": 1,
        "streamSid": "s",
        "start": {
            "callSid": "c",
            "accountSid": "a",
            "from": 9990000105,
            "to": "04440000319",
            "customParameters": {"k": "v"},
            "mediaFormat": {"encoding": "raw", "sampleRate": 24000},
        },
    }
    assert exotel.read_carrier(json.dumps(message)) == Start(
        "c",
        "s",
        "a",
        "9990000105",
        "04440000319",
        AudioFormat("linear16", 24000),
        {"k": "v"},
        sequence=1,
    )


def test_exotel_without_account_or_format():
    assert exotel.read_carrier(exotel_start()) == Start("c", "s", audio=AudioFormat("linear16"))


@pytest.mark.parametrize("carrier", sorted(DIALECTS))
def test_unknown_events_are_passed_on_by_name(carrier):
    dialect = DIALECTS[carrier]
    assert dialect.read_carrier('{"event":"silence"}') == Unknown("silence")
    assert dialect.read_agent('{"event":"transcript"}') == Unknown("transcript")
    for write in (dialect.write_carrier, dialect.write_agent):
        with pytest.raises(DialectError, match="Unknown"):
            write(Unknown("silence"), Start("c", "s"))


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "[]",
        "5",
        "null",
        '"start"',
        '{"event":5}',
        '{"event":""}',
        '{"event":null}',
        '{"start":{}}',
        '{"event":"mark","event":"mark","mark":{"name":"a"}}',
        '{"event":"mark","mark":{"name":"a","n":NaN}}',
        '{"event":"mark","mark":{"name":""}}',
        '{"event":"mark","mark":{"name":"\\ud800"}}',
        '{"event":"media","media":{}}',
        '{"event":"media","media":[]}',
        '{"event":"media","media":{"payload":5}}',
        '{"event":"media","media":{"payload":"****"}}',
        '{"event":"media","media":{"payload":"/w"}}',
        '{"event":"media","media":{"payload":"é"}}',
        '{"event":"media"}',
        "[" * 100_000,
        '{"event":' * 50_000,
        b"\xff",
        '{"event":"mark"}'.encode("utf-16"),
        '{"event":"media","sequenceNumber":' + "9" * 5000 + ',"media":{"payload":""}}',
        '{"event":"media","sequenceNumber":1e999,"media":{"payload":""}}',
    ],
)
def test_broken_messages_are_refused(message):
    with pytest.raises(DialectError):
        twilio.read_carrier(message)


def test_the_refusal_does_not_repeat_the_message():
    with pytest.raises(DialectError) as refusal:
        twilio.read_carrier('{"event":"media","media":{"payload":"+14155550100!"}}')
    assert str(refusal.value) == "`payload` is not base64"
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b'{"event":5}', b"{}", b"[" * 100_000, b"\x88\x02"])
def test_event_of_never_raises(payload):
    assert all(dialect.event_of(payload) is None for dialect in DIALECTS.values())


def test_event_of_recognises_the_agents_audio():
    start = Start("c", "s")
    for dialect in (twilio, telnyx, plivo):
        sound = dialect.write_agent(Media(b"\xff"), start).encode()
        assert dialect.event_of(sound) in dialect.agent_media_events
        for other in (Mark("a"), Clear()):
            assert (
                dialect.event_of(dialect.write_agent(other, start).encode()) not in dialect.agent_media_events
            )
    assert exotel.agent_media_events == {"media"}
    assert twilio.read_carrier('{"event":"connected"}') == Connected()
