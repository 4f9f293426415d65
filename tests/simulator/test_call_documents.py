# SPDX-License-Identifier: BSD-2-Clause
"""A simulated carrier does what the document of its call says."""

from __future__ import annotations

import pytest

from gateway.simulator.call_document import DocumentUnusableError, FetchNext, OpenStream, Step, Wait, steps
from texml.document import Dial, HangUp, Queue, Reject, Stream
from texml.registry import WRITERS

URL = "https://voice.example.com/xml/twilio?agent=support&org=acme"
ODD = {"name": 'Ann & "Bob" <x>', "city": "Zürich"}


def carried_out(carrier: str, text: str) -> list[Step]:
    return list(steps(carrier, text, URL))


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo"])
def test_the_stream_of_a_document_with_its_parameters(carrier: str) -> None:
    url = f"wss://voice.example.com/ws/{carrier}/support.acme/token"
    if carrier != "twilio":
        url += "?serviceHost=support.acme&token=t"
    text = WRITERS[carrier].connect(Stream(url, parameters=ODD), HangUp(), None)
    assert carried_out(carrier, text) == [OpenStream(url, ODD)]


def test_the_stream_of_exotels_answer() -> None:
    url = "wss://voice.example.com/ws/exotel/support.acme/token"
    assert carried_out("exotel", WRITERS["exotel"].connect(Stream(url), HangUp(), None)) == [OpenStream(url)]


def test_a_caller_in_a_queue_waits_and_asks_again() -> None:
    text = WRITERS["twilio"].busy(Queue(), f"{URL}&return=1")
    assert carried_out("twilio", text) == [Wait(3.0), FetchNext(f"{URL}&return=1")]


def test_a_redirect_is_relative_to_its_document() -> None:
    text = '<Response><Redirect method="GET">/other?a=1&amp;b=2</Redirect></Response>'
    assert carried_out("telnyx", text) == [FetchNext("https://voice.example.com/other?a=1&b=2", is_get=True)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WRITERS["twilio"].busy(Reject(), None), "ends the call: <Reject>"),
        (WRITERS["twilio"].busy(Dial("+14155550123"), None), "something else with the call: <Dial>"),
        ("<Response></Response>", "has no stream"),
        ("<Response><Start><Stream url='wss://h/ws'/></Start></Response>", "would hear nothing"),
        ("<Connect/>", "not with <Response>"),
        ("<Response>", "is no XML"),
        ("<!DOCTYPE r [<!ENTITY e 'x'>]><Response>&e;</Response>", "has a DTD"),
        ("<Response>" + " " * 100_000 + "</Response>", "more than 100000 characters"),
    ],
)
def test_a_document_that_leads_to_no_stream(text: str, words: str) -> None:
    with pytest.raises(DocumentUnusableError, match=words):
        carried_out("twilio", text)


def test_a_stream_in_which_the_caller_would_hear_nothing() -> None:
    one_way = "<Response><Stream>wss://h.example/ws</Stream></Response>"
    with pytest.raises(DocumentUnusableError, match="bidirectional"):
        carried_out("plivo", one_way)
    mp3 = '<Response><Connect><Stream url="wss://h.example/ws"/></Connect></Response>'
    with pytest.raises(DocumentUnusableError, match="bidirectionalMode"):
        carried_out("telnyx", mp3)
