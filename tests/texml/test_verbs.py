# SPDX-License-Identifier: BSD-2-Clause
"""The verbs after a stream and in place of one, and transfers."""

from __future__ import annotations

import json
from collections.abc import Callable
from xml.etree.ElementTree import Element

import pytest
from plivo import plivoxml
from twilio.twiml.voice_response import VoiceResponse

from texml.document import (
    Busy,
    Dial,
    DocumentError,
    HangUp,
    OwnXml,
    Play,
    Queue,
    Redirect,
    Reject,
    Say,
    Stream,
    Writer,
)

Canonical = Callable[[str], str]
Parse = Callable[[str], Element]

URL = "wss://voice.example.com/ws/x/support.acme"
NUMBER = "+15559876543"
SIP = "sip:alice@example.com;transport=tls?X-Call=a%20b&X-Other=c"
ACTION = "https://voice.example.com/callbacks/x/s1/dial?a=1&b=2"
SOUND = "https://cdn.example.com/busy.mp3?a=1&b=2"
WORDS = "Alle Plätze sind belegt. <Ruf> später & wieder an."


def outline(elements: list[Element]) -> list[str]:
    """The verbs a caller goes through."""
    return [element.tag for element in elements]


@pytest.mark.parametrize(
    ("after_stream", "verbs"),
    [
        (HangUp(), ["Hangup"]),
        (Redirect(), ["Redirect"]),
        (Dial(NUMBER), ["Dial", "Hangup"]),
        (OwnXml("<A/><B><C/></B>"), ["A", "B"]),
    ],
)
def test_the_verbs_after_the_stream_follow_at_once(
    xml_writer: Writer,
    response: Parse,
    next_url: str,
    after_stream: HangUp | Redirect | Dial | OwnXml,
    verbs: list[str],
) -> None:
    after = list(response(xml_writer.connect(Stream(URL), after_stream, next_url)))[1:]
    assert outline(after) == verbs


def test_a_redirect_asks_the_given_url_with_post(xml_writer: Writer, response: Parse, next_url: str) -> None:
    _, redirect = response(xml_writer.connect(Stream(URL), Redirect(), next_url))
    assert (redirect.text, redirect.attrib) == (next_url, {"method": "POST"})


def test_own_xml_comes_through_as_it_is(texml_writer: Writer, canonical: Canonical, next_url: str) -> None:
    own = (
        '<Say xml:lang="de-DE">Auf <break time="1s"/>Wiederhören &amp; <![CDATA[<tschüß>]]></Say>\n<Hangup/>'
    )
    expected = canonical(f"<Response>{own}</Response>")
    document = texml_writer.connect(Stream(URL), OwnXml(own), next_url)
    assert canonical(document).endswith(expected.removeprefix("<Response>"))


@pytest.mark.parametrize(
    "own",
    [
        "<Say>",
        "</Response><Response>",
        "<a:b/>",
        "<Say>&nothing;</Say>",
        "<Say>\x08</Say>",
        "<Say>&#8;</Say>",
        "<Say>\ud800</Say>",
        '<!DOCTYPE x [<!ENTITY a "b">]><Say/>',
        '<?xml version="1.0"?><Say/>',
        "<a>" * 5000 + "</a>" * 5000,
        f"<Say>{'a' * 100_000}</Say>",
    ],
    ids=range(11),
)
def test_own_xml_that_would_break_the_document_is_refused(xml_writer: Writer, own: str) -> None:
    with pytest.raises(DocumentError):
        xml_writer.connect(Stream(URL), OwnXml(own), None)


def twilio_busy(busy: Busy, next_url: str) -> str:
    theirs = VoiceResponse()
    match busy:
        case Reject():
            theirs.reject(reason="busy")
        case Say(text):
            theirs.say(text)
            theirs.hangup()
        case Play(url):
            theirs.play(url)
            theirs.hangup()
        case Queue():
            theirs.say("Please hold the line.")
            theirs.pause(length=3)
            theirs.redirect(next_url, method="POST")
        case Dial(number):
            theirs.dial().number(number)
            theirs.hangup()
    return str(theirs)


def plivo_busy(busy: Busy, next_url: str) -> str:
    theirs = plivoxml.ResponseElement()
    match busy:
        case Reject():
            theirs.add(plivoxml.HangupElement(reason="busy"))
        case Say(text):
            theirs.add(plivoxml.SpeakElement(text)).add(plivoxml.HangupElement())
        case Play(url):
            theirs.add(plivoxml.PlayElement(url)).add(plivoxml.HangupElement())
        case Queue():
            theirs.add(plivoxml.SpeakElement("Please hold the line."))
            theirs.add(plivoxml.WaitElement(length=3)).add(plivoxml.RedirectElement(next_url, method="POST"))
        case Dial(number):
            theirs.add(plivoxml.DialElement().add(plivoxml.NumberElement(number)))
            theirs.add(plivoxml.HangupElement())
    built: str = theirs.to_string(pretty=False)
    return built


BUSY: list[Busy] = [Reject(), Say(WORDS), Play(SOUND), Queue(), Dial(NUMBER)]


@pytest.mark.parametrize("busy", BUSY)
def test_a_busy_answer_is_what_the_carriers_own_packages_build(
    xml_writer: Writer, canonical: Canonical, next_url: str, busy: Busy
) -> None:
    theirs = plivo_busy(busy, next_url) if xml_writer.name == "plivo" else twilio_busy(busy, next_url)
    assert canonical(xml_writer.busy(busy, next_url)) == canonical(theirs)


@pytest.mark.parametrize("busy", BUSY)
def test_exotel_can_only_be_given_a_socket(exotel: Writer, next_url: str, busy: Busy) -> None:
    with pytest.raises(DocumentError, match="the flow's"):
        exotel.busy(busy, next_url)


def test_a_redirect_without_a_url_is_refused(xml_writer: Writer) -> None:
    with pytest.raises(DocumentError, match="no URL to ask again"):
        xml_writer.busy(Queue(), None)
    with pytest.raises(DocumentError, match="no URL to ask again"):
        xml_writer.connect(Stream(URL), Redirect(), None)


def test_a_transfer_is_what_twilios_own_package_builds(texml_writer: Writer, canonical: Canonical) -> None:
    theirs = VoiceResponse()
    theirs.dial(caller_id=NUMBER, timeout=30, action=ACTION, method="POST").sip(SIP)
    ours = texml_writer.transfer(SIP, caller_id=NUMBER, action=ACTION, timeout_s=30)
    assert canonical(ours) == canonical(str(theirs))

    theirs = VoiceResponse()
    theirs.dial().number(NUMBER)
    theirs.hangup()
    ours = texml_writer.transfer(NUMBER, caller_id=None, action=None, timeout_s=None)
    assert canonical(ours) == canonical(str(theirs))


def test_a_transfer_is_what_plivos_own_package_builds(plivo: Writer, canonical: Canonical) -> None:
    dial = plivoxml.DialElement(caller_id="15559876543", timeout=30, action=ACTION, method="POST")
    theirs = plivoxml.ResponseElement().add(dial.add(plivoxml.UserElement(SIP)))
    ours = plivo.transfer(SIP, caller_id="15559876543", action=ACTION, timeout_s=30)
    assert canonical(ours) == canonical(theirs.to_string(pretty=False))


def test_exotels_connect_applet_gets_a_number(exotel: Writer) -> None:
    """docs/reference/carriers.md §5.3."""
    assert json.loads(exotel.transfer(NUMBER, caller_id=None, action=None, timeout_s=45)) == {
        "destination": {"numbers": [NUMBER]},
        "max_ringing_duration": 45,
        "fetch_after_attempt": False,
    }
    assert json.loads(exotel.transfer(NUMBER, caller_id=None, action=None, timeout_s=None)) == {
        "destination": {"numbers": [NUMBER]},
        "fetch_after_attempt": False,
    }


@pytest.mark.parametrize(
    ("to", "caller_id", "action", "timeout_s"),
    [
        (SIP, None, None, None),
        (NUMBER, NUMBER, None, None),
        (NUMBER, None, ACTION, None),
        (NUMBER, None, None, 0),
        (NUMBER, None, None, 601),
    ],
)
def test_transfers_that_exotels_connect_applet_lacks_are_refused(
    exotel: Writer, to: str, caller_id: str | None, action: str | None, timeout_s: int | None
) -> None:
    with pytest.raises(DocumentError):
        exotel.transfer(to, caller_id=caller_id, action=action, timeout_s=timeout_s)


def test_a_hangup_ends_the_call(xml_writer: Writer, exotel: Writer, response: Parse) -> None:
    assert outline(list(response(xml_writer.hangup()))) == ["Hangup"]
    with pytest.raises(DocumentError, match="close the socket"):
        exotel.hangup()


def test_a_document_in_a_request_has_at_most_4000_characters(texml_writer: Writer) -> None:
    """docs/reference/carriers.md §2.6: 4000 characters."""
    short = texml_writer.hangup()
    assert texml_writer.inline(short) == short
    assert texml_writer.inline_limit == 4000
    parameters = {f"p{number}": "x" * 450 for number in range(9)}
    long = texml_writer.connect(Stream(URL, parameters), HangUp(), None)
    assert len(long) > 4000
    with pytest.raises(DocumentError, match="at most 4000 characters"):
        texml_writer.inline(long)


def test_plivo_and_exotel_accept_no_document_in_a_request(plivo: Writer, exotel: Writer) -> None:
    """docs/reference/carriers.md §4.5, §5.4."""
    for writer in (plivo, exotel):
        assert writer.inline_limit == 0
        with pytest.raises(DocumentError, match="takes no document"):
            writer.inline("<Response/>")
