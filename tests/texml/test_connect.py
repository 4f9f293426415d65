# SPDX-License-Identifier: BSD-2-Clause
"""The document that connects a call to its stream, beside what the carriers' own packages build."""

from __future__ import annotations

import json
from collections.abc import Callable
from xml.etree.ElementTree import Element

import pytest
from plivo import plivoxml
from twilio.twiml.voice_response import Connect, VoiceResponse
from twilio.twiml.voice_response import Stream as TwilioStream

from serializers.registry import DIALECTS
from texml.document import Dial, HangUp, OwnXml, Redirect, Stream, Writer
from texml.registry import WRITERS

Canonical = Callable[[str], str]
Parse = Callable[[str], Element]

URL = "wss://voice.example.com/ws/twilio/support.acme/a-token"
QUERY_URL = "wss://voice.example.com/ws?serviceHost=support.acme&token=a.b-c_d&body=e30%3D"
STATUS_URL = "https://voice.example.com/callbacks/x/s1/stream?a=1&b=2"
PARAMETERS = {
    "from_number": "+14155550100",
    "to_number": "+14155550199",
    "Name & <Söhne>": '"O\'Hara" \U0001f600',
}


def test_every_carrier_with_a_dialect_has_a_writer() -> None:
    assert set(WRITERS) == set(DIALECTS)
    assert {name: writer.name for name, writer in WRITERS.items()} == {name: name for name in WRITERS}


def test_documents_have_a_content_type(xml_writer: Writer, exotel: Writer) -> None:
    # Plivo takes it too, docs/reference/carriers.md §4.4
    assert xml_writer.content_type == "text/xml; charset=utf-8"
    assert exotel.content_type == "application/json"


def test_twilio_gets_what_its_own_package_builds(twilio: Writer, canonical: Canonical, next_url: str) -> None:
    stream = Stream(URL, PARAMETERS, name="s-1", status_callback=STATUS_URL)
    theirs = VoiceResponse()
    connect = theirs.connect()
    element = connect.stream(url=URL, name="s-1", status_callback=STATUS_URL, status_callback_method="POST")
    for name, value in PARAMETERS.items():
        element.parameter(name=name, value=value)
    theirs.redirect(next_url, method="POST")
    assert canonical(twilio.connect(stream, Redirect(), next_url)) == canonical(str(theirs))


def test_twilio_gets_the_shortest_document(twilio: Writer, canonical: Canonical) -> None:
    theirs = VoiceResponse()
    connect = Connect()
    connect.append(TwilioStream(url=URL))
    theirs.append(connect)
    theirs.hangup()
    assert canonical(twilio.connect(Stream(URL), HangUp(), None)) == canonical(str(theirs))


def test_twilio_gets_no_attribute_but_documented_ones(twilio: Writer, response: Parse) -> None:
    """docs/reference/carriers.md §2.4; the track is left at its default, the only one that <Connect>
    takes.
    """
    stream = Stream(URL, PARAMETERS, name="s-1", status_callback=STATUS_URL)
    connect, _ = response(twilio.connect(stream, HangUp(), None))
    assert not connect.attrib
    (element,) = connect
    assert element.attrib == {
        "url": URL,
        "name": "s-1",
        "statusCallback": STATUS_URL,
        "statusCallbackMethod": "POST",
    }
    assert all(set(parameter.attrib) == {"name", "value"} for parameter in element)


def test_telnyx_gets_the_attributes_with_the_values_that_work(telnyx: Writer, response: Parse) -> None:
    """Every attribute of docs/reference/carriers.md §3.4, but the sampling rate, which PCMU does not
    choose.
    """
    stream = Stream(
        QUERY_URL, PARAMETERS, name="s-1", status_callback=STATUS_URL, codec="PCMU", reconnect=True
    )
    connect, hangup = response(telnyx.connect(stream, HangUp(), None))
    (element,) = connect
    assert [connect.tag, element.tag, hangup.tag] == ["Connect", "Stream", "Hangup"]
    assert element.attrib == {
        "url": QUERY_URL,
        "track": "inbound_track",
        "name": "s-1",
        "codec": "PCMU",
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
        "statusCallback": STATUS_URL,
        "statusCallbackMethod": "POST",
        "enableReconnect": "true",
    }
    assert {child.attrib["name"]: child.attrib["value"] for child in element} == PARAMETERS


def test_telnyx_gets_the_attributes_whose_defaults_do_not_work(telnyx: Writer, response: Parse) -> None:
    """mp3 is silence for the caller; a reconnect may undo the close that ends the stream (§3.1, §10)."""
    ((element,), _) = response(telnyx.connect(Stream(QUERY_URL), HangUp(), None))
    assert element.attrib == {
        "url": QUERY_URL,
        "track": "inbound_track",
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
        "enableReconnect": "false",
    }


def test_telnyx_gets_the_twiml_that_it_shares_with_twilio(
    telnyx: Writer, canonical: Canonical, next_url: str
) -> None:
    theirs = VoiceResponse()
    theirs.connect().stream(
        url=QUERY_URL,
        track="inbound_track",
        bidirectional_mode="rtp",
        bidirectional_codec="PCMU",
        enable_reconnect=False,
    )
    theirs.redirect(next_url, method="POST")
    assert canonical(telnyx.connect(Stream(QUERY_URL), Redirect(), next_url)) == canonical(str(theirs))


@pytest.mark.parametrize(
    ("sample_rate", "content_type"), [(8000, "audio/x-mulaw;rate=8000"), (16000, "audio/x-l16;rate=16000")]
)
def test_plivo_gets_what_its_own_package_builds(
    plivo: Writer, canonical: Canonical, next_url: str, sample_rate: int, content_type: str
) -> None:
    stream = Stream(
        QUERY_URL, {"from_number": "1415", "to_number": "+1"}, None, STATUS_URL, sample_rate=sample_rate
    )
    theirs = plivoxml.ResponseElement()
    theirs.add(
        plivoxml.StreamElement(
            QUERY_URL,
            bidirectional=True,
            keepCallAlive=True,
            contentType=content_type,
            extraHeaders="from_number=1415,to_number=%2B1",
            statusCallbackUrl=STATUS_URL,
            statusCallbackMethod="POST",
        )
    )
    theirs.add(plivoxml.RedirectElement(next_url, method="POST"))
    ours = plivo.connect(stream, Redirect(), next_url)
    assert canonical(ours) == canonical(theirs.to_string(pretty=False))


def test_plivo_gets_the_attributes_whose_defaults_do_not_work(plivo: Writer, response: Parse) -> None:
    """One way only, the call ended, and a sound that its own pages disagree about
    (docs/reference/carriers.md §4.4, §10).
    """
    element, hangup = response(plivo.connect(Stream(QUERY_URL), HangUp(), None))
    assert element.attrib == {
        "bidirectional": "true",
        "keepCallAlive": "true",
        "contentType": "audio/x-mulaw;rate=8000",
    }
    assert element.text == QUERY_URL
    assert hangup.tag == "Hangup"  # without XML after it the call ends with 4010


def test_exotel_gets_json_and_a_rate_only_where_it_is_not_the_default(exotel: Writer) -> None:
    """docs/reference/carriers.md §5.1, §5.3."""
    url = "wss://key:secret@voice.example.com/ws/exotel/support.acme/a-token"
    assert json.loads(exotel.connect(Stream(url), HangUp(), None)) == {"url": url}
    for sample_rate in (16000, 24000):
        faster = Stream(url, sample_rate=sample_rate)
        assert json.loads(exotel.connect(faster, HangUp(), None)) == {
            "url": f"{url}?sample-rate={sample_rate}"
        }
    stream = Stream(f"{url}?serviceHost=support.acme", sample_rate=16000)
    assert json.loads(exotel.connect(stream, HangUp(), None)) == {"url": f"{stream.url}&sample-rate=16000"}
    for spelling in ("sample-rate", "sample_rate"):
        stream = Stream(f"{url}?{spelling}=16000", sample_rate=16000)
        assert json.loads(exotel.connect(stream, HangUp(), None)) == {"url": stream.url}


@pytest.mark.parametrize(
    "after_stream", [HangUp(), Redirect(), Dial("+15559876543"), OwnXml("<Say>Bye</Say>")]
)
def test_what_follows_an_exotel_stream_is_left_to_its_flow(
    exotel: Writer, after_stream: HangUp | Redirect | Dial | OwnXml
) -> None:
    assert json.loads(exotel.connect(Stream(URL), after_stream, None)) == {"url": URL}
