# SPDX-License-Identifier: BSD-2-Clause
"""The opening of a stream: accepted and refused first messages."""

from __future__ import annotations

import dataclasses
import json

import pytest

from serializers.dialect import DialectError
from serializers.events import Connected, Dtmf, Media, Played, Start
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


EARLY = [
    Media(b"\xff", chunk=1, timestamp_ms=20, sequence=2),
    Dtmf("5", sequence=2),
    Played("a", 2),
]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("event", EARLY, ids=lambda event: type(event).__name__)
def test_what_is_early_is_not_the_opening(carrier, event, calls):
    opening = Opening(DIALECTS[carrier])
    assert opening.feed(written(carrier, event, calls)) is None
    assert opening.feed('{"event":"hello"}') is None
    assert opening.feed(written(carrier, calls[carrier], calls)) == calls[carrier]
    assert (opening.messages, opening.early) == ((2,), 2)


@pytest.mark.parametrize("carrier", WITH_CONNECTED)
def test_connected_is_of_the_opening_wherever_it_came(carrier, calls):
    opening = Opening(DIALECTS[carrier])
    for event in (EARLY[0], Connected(), EARLY[0], Connected(), calls[carrier]):
        start = opening.feed(written(carrier, event, calls))
    assert start == calls[carrier]
    assert (opening.messages, opening.early) == ((1, 4), 3)


def test_plivo_has_no_connected(calls):
    opening = Opening(DIALECTS["plivo"])
    assert opening.feed('{"event":"connected"}') is None
    opening.feed(written("plivo", calls["plivo"], calls))
    assert opening.messages == (1,)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_stream_that_ends_before_it_starts_is_refused(carrier):
    assert_refused(Opening(DIALECTS[carrier]), '{"event":"stop"}', "`stop` came before `start`")


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
        ("plivo", "start", "callId"),
        ("plivo", "start", "streamId"),
        ("exotel", "start", "call_sid"),
    ],
)
@pytest.mark.parametrize("value", [None, "", [], {}, True])
def test_a_start_without_its_ids(carrier, where, key, value, calls):
    message = json.loads(written(carrier, calls[carrier], calls))
    message[where][key] = value
    message.pop(key, None)
    assert_refused(Opening(DIALECTS[carrier]), json.dumps(message), f"`{key}` is")


IDS = {
    "twilio": ("streamSid", "callSid", "accountSid"),
    "telnyx": ("stream_id", "call_control_id", "user_id"),
    "plivo": ("streamId", "callId", "accountId"),
    "exotel": ("stream_sid", "call_sid", "account_sid"),
}


@pytest.mark.parametrize(("carrier", "key"), [(carrier, key) for carrier in IDS for key in IDS[carrier]])
def test_an_id_is_at_the_top_level_or_in_start(carrier, key, calls):
    message = json.loads(written(carrier, calls[carrier], calls))
    value = message.pop(key, None) or message["start"][key]
    for place, other in ((message, message["start"]), (message["start"], message)):
        other.pop(key, None)
        place[key] = value
        assert Opening(DIALECTS[carrier]).feed(json.dumps(message)) == calls[carrier]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_account_that_is_an_empty_text_is_none(carrier, calls):
    message = json.loads(written(carrier, calls[carrier], calls))
    message["start"][IDS[carrier][2]] = ""
    start = Opening(DIALECTS[carrier]).feed(json.dumps(message))
    assert start == dataclasses.replace(calls[carrier], account_id=None)


@pytest.mark.parametrize("value", [None, "", "absent"])
def test_a_telnyx_stream_without_an_id_is_named_by_its_call(value, calls):
    message = json.loads(written("telnyx", calls["telnyx"], calls))
    message["stream_id"] = value
    if value == "absent":
        del message["stream_id"]
    start = Opening(DIALECTS["telnyx"]).feed(json.dumps(message))
    assert start == dataclasses.replace(calls["telnyx"], stream_id=calls["telnyx"].call_id)


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
