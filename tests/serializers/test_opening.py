# SPDX-License-Identifier: BSD-2-Clause
"""The opening of a stream: accepted and refused first messages."""

from __future__ import annotations

import json

import pytest

from serializers.dialect import DialectError
from serializers.events import Connected, Media, Played, Start
from serializers.opening import SERVICE_HOST_PARAMETERS, Opening
from serializers.registry import DIALECTS

CARRIERS = sorted(DIALECTS)
WITH_CONNECTED = [name for name in CARRIERS if DIALECTS[name].sends_connected]


def written(carrier, event, calls):
    return DIALECTS[carrier].write_carrier(event, calls[carrier])


def assert_refused(opening, message, reason):
    with pytest.raises(DialectError, match=reason):
        opening.feed(message)


@pytest.mark.parametrize("carrier", WITH_CONNECTED)
def test_connected_then_start(carrier, calls):
    opening = Opening(DIALECTS[carrier])
    assert opening.feed(written(carrier, Connected(), calls)) is None
    assert opening.feed(written(carrier, calls[carrier], calls)) == calls[carrier]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_start_alone(carrier, calls):
    assert Opening(DIALECTS[carrier]).feed(written(carrier, calls[carrier], calls)) == calls[carrier]


def test_plivo_begins_with_start_or_not_at_all():
    assert_refused(Opening(DIALECTS["plivo"]), '{"event":"connected"}', "unknown event came before `start`")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Media(b"\xff", chunk=1, timestamp_ms=20, sequence=2), "`media` came before `start`"),
        (Played("a", 2), "`played` came before `start`"),
    ],
)
def test_nothing_comes_before_start(carrier, event, reason, calls):
    assert_refused(Opening(DIALECTS[carrier]), written(carrier, event, calls), reason)
    opening = Opening(DIALECTS[carrier])
    if DIALECTS[carrier].sends_connected:
        opening.feed(written(carrier, Connected(), calls))
    assert_refused(opening, written(carrier, event, calls), reason)


@pytest.mark.parametrize("carrier", WITH_CONNECTED)
def test_a_stream_has_opened_after_two_messages(carrier, calls):
    opening = Opening(DIALECTS[carrier])
    opening.feed(written(carrier, Connected(), calls))
    assert_refused(opening, written(carrier, Connected(), calls), "twice")
    opening = Opening(DIALECTS[carrier])
    opening.feed(written(carrier, Connected(), calls))
    assert_refused(opening, '{"event":"hello"}', "unknown event came before `start`")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", "not JSON"),
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "`event` is missing"),
        ('{"event":"start"}', "is missing"),
        ('{"event":"start","start":{}}', "is missing"),
        ('{"event":"start","start":null}', "is missing"),
        (b'{"event":"connected"}', "binary"),
        (b"", "binary"),
    ],
)
def test_a_message_that_cannot_open_a_stream_is_refused(carrier, message, reason):
    assert_refused(Opening(DIALECTS[carrier]), message, reason)


@pytest.mark.parametrize(
    ("carrier", "where", "key"),
    [
        ("twilio", "start", "callSid"),
        ("twilio", "start", "streamSid"),
        ("telnyx", "start", "call_control_id"),
        ("telnyx", "top", "stream_id"),
        ("plivo", "start", "callId"),
        ("plivo", "start", "streamId"),
        ("exotel", "start", "call_sid"),
    ],
)
@pytest.mark.parametrize("value", [None, "", [], {}, True])
def test_a_start_without_its_ids(carrier, where, key, value, calls):
    message = json.loads(written(carrier, calls[carrier], calls))
    (message if where == "top" else message["start"])[key] = value
    assert_refused(Opening(DIALECTS[carrier]), json.dumps(message), f"`{key}` is")


def test_exotels_stream_id_is_at_the_top_level_or_in_start(calls):
    message = json.loads(written("exotel", calls["exotel"], calls))
    del message["stream_sid"]
    assert Opening(DIALECTS["exotel"]).feed(json.dumps(message)) == calls["exotel"]
    message["start"].pop("stream_sid")
    assert_refused(Opening(DIALECTS["exotel"]), json.dumps(message), "`stream_sid` is missing")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_stream_of_another_carrier(carrier, calls):
    for other in CARRIERS:
        if {carrier, other} == {"twilio", "exotel"}:
            continue  # Exotel is known to speak camelCase, and then tells what Twilio tells
        if carrier != other:
            with pytest.raises(DialectError):
                Opening(DIALECTS[carrier]).feed(written(other, calls[other], calls))


def test_a_stream_opens_once(calls):
    opening = Opening(DIALECTS["twilio"])
    opening.feed(written("twilio", calls["twilio"], calls))
    assert_refused(opening, written("twilio", calls["twilio"], calls), "open already")


def test_parameters_that_name_the_agent(calls):
    start = Start("c", "s", parameters={"serviceHost": "b.acme", "_pipecatCloudServiceHost": "a.acme"})
    named = [start.parameters[name] for name in SERVICE_HOST_PARAMETERS if name in start.parameters]
    assert named == ["a.acme", "b.acme"]
