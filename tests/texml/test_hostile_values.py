# SPDX-License-Identifier: BSD-2-Clause
"""Any value reaches the agent unchanged or is refused: no value makes a malformed document."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote
from xml.etree.ElementTree import Element

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serializers.registry import DIALECTS
from texml.document import (
    DocumentError,
    HangUp,
    OwnXml,
    Play,
    Reject,
    Say,
    Stream,
    Writer,
    parse_after_stream,
)
from texml.registry import WRITERS

Parse = Callable[[str], Element]

URL = "wss://voice.example.com/ws/x/support.acme"

# XML 1.0 §2.2: #x9 | #xA | #xD | [#x20-#xD7FF] | [#xE000-#xFFFD] | [#x10000-#x10FFFF]
IMPOSSIBLE = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xFFFE, 0xFFFF]

possible = st.characters(exclude_characters=[chr(code) for code in IMPOSSIBLE], exclude_categories=["Cs"])
awkward = st.sampled_from("<>&\"'\t\n\r ;,=%+#{}[]\x7f\x85\u2028äß漢\U0001f600]]>")
values = st.text(possible | awkward, max_size=40)
names = st.text(possible | awkward, min_size=1, max_size=12)
parameters = st.dictionaries(names, values, max_size=4)


@given(parameters=parameters, name=names)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_parameter_is_delivered_unchanged(
    texml_writer: Writer, response: Parse, parameters: dict[str, str], name: str
) -> None:
    ((stream,), _) = response(texml_writer.connect(Stream(URL, parameters, name=name), HangUp(), None))
    assert [(child.attrib["name"], child.attrib["value"]) for child in stream] == list(parameters.items())
    assert stream.attrib["name"] == name


@given(parameters=parameters)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_plivos_start_has_every_parameter_unchanged(
    plivo: Writer, response: Parse, parameters: dict[str, str]
) -> None:
    """The headers go into Plivo's `start` as they are (docs/reference/carriers.md §4.2)."""
    size = len(
        "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items())
    )
    if size > 512:
        with pytest.raises(DocumentError, match="512 bytes"):
            plivo.connect(Stream(URL, parameters), HangUp(), None)
        return
    document = plivo.connect(Stream(URL, parameters), HangUp(), None)
    headers = response(document)[0].attrib.get("extraHeaders")
    assert (headers is None) == (not parameters)
    message = {"start": {"callId": "c", "streamId": "s"}, "event": "start", "extra_headers": headers}
    start = DIALECTS["plivo"].read_carrier(json.dumps(message))
    assert getattr(start, "parameters") == parameters  # noqa: B009 - of Start, among many events
    if headers is not None:
        assert headers.isascii()
        assert len(headers) == size


@given(text=st.text(possible | awkward, min_size=1, max_size=200).filter(lambda text: text.strip() != ""))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_sentence_is_spoken_as_it_was_written(xml_writer: Writer, response: Parse, text: str) -> None:
    say, _ = response(xml_writer.busy(Say(text), None))
    assert say.text == text


@given(text=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_own_xml_breaks_a_document(xml_writer: Writer, response: Parse, text: str) -> None:
    try:
        document = xml_writer.connect(Stream(URL), OwnXml(f"<Say>{text}</Say>"), None)
    except DocumentError:
        return
    assert response(document)[-1].tag is not None


@pytest.mark.parametrize("code", IMPOSSIBLE, ids=hex)
def test_a_character_that_xml_cannot_express_is_refused_everywhere(xml_writer: Writer, code: int) -> None:
    bad = f"a{chr(code)}b"
    with pytest.raises(DocumentError, match="cannot hold"):
        xml_writer.connect(Stream(URL, {"name": bad}), HangUp(), None)
    with pytest.raises(DocumentError, match="cannot hold"):
        xml_writer.connect(Stream(URL, {bad: "value"}), HangUp(), None)
    with pytest.raises(DocumentError, match="cannot hold"):
        xml_writer.busy(Say(bad), None)


def test_a_stream_name_that_xml_cannot_express_is_refused(texml_writer: Writer) -> None:
    with pytest.raises(DocumentError, match="cannot hold"):
        texml_writer.connect(Stream(URL, name="a\x00"), HangUp(), None)


def test_a_parameter_without_a_name_is_refused(xml_writer: Writer) -> None:
    with pytest.raises(DocumentError, match="no name"):
        xml_writer.connect(Stream(URL, {"": "value"}), HangUp(), None)


def test_no_refusal_repeats_what_may_be_secret(xml_writer: Writer) -> None:
    secret = "t0ken"
    for stream in (
        Stream(f"http://{secret}.example.com/"),
        Stream(URL, {secret: f"{secret}\x00"}),
        Stream(URL, status_callback=f"/{secret}"),
    ):
        with pytest.raises(DocumentError) as refused:
            xml_writer.connect(stream, HangUp(), None)
        assert secret not in str(refused.value)


def test_twilios_parameters_stay_under_500_characters(twilio: Writer, response: Parse) -> None:
    """Name and value together (docs/reference/carriers.md §2.4); characters, not bytes."""
    ((stream,), _) = response(twilio.connect(Stream(URL, {"name": "ü" * 495}), HangUp(), None))
    assert stream[0].attrib["value"] == "ü" * 495
    with pytest.raises(DocumentError, match="fewer than 500 characters"):
        twilio.connect(Stream(URL, {"name": "ü" * 496}), HangUp(), None)


def test_plivos_headers_stay_within_512_bytes(plivo: Writer, response: Parse) -> None:
    """As they are sent: a percent-encoded ü has six (docs/reference/carriers.md §4.4)."""
    stream, _ = response(plivo.connect(Stream(URL, {"name": "a" * 507}), HangUp(), None))
    assert len(stream.attrib["extraHeaders"]) == 512
    for value in ("a" * 508, "ü" * 85):
        with pytest.raises(DocumentError, match="512 bytes"):
            plivo.connect(Stream(URL, {"name": value}), HangUp(), None)


def test_plivos_url_stays_within_2048_characters(plivo: Writer) -> None:
    """docs/reference/carriers.md §4.1."""
    longest = f"{URL}?body=".ljust(2048, "a")
    assert longest in plivo.connect(Stream(longest), HangUp(), None)
    with pytest.raises(DocumentError, match="2048 characters"):
        plivo.connect(Stream(f"{longest}a"), HangUp(), None)


def test_exotels_url_stays_within_600_characters_rate_included(exotel: Writer) -> None:
    """docs/reference/carriers.md §5.1."""
    longest = f"{URL}/".ljust(600, "a")
    assert longest in exotel.connect(Stream(longest), HangUp(), None)
    for stream in (Stream(f"{longest}a"), Stream(longest, sample_rate=16000)):
        with pytest.raises(DocumentError, match="600 characters"):
            exotel.connect(stream, HangUp(), None)


@pytest.mark.parametrize(
    "stream",
    [
        Stream(URL, {"a": "b"}),
        Stream(f"{URL}?a=1&b=2&c=3&d=4"),
        Stream(f"{URL}?a={'x' * 255}"),
        Stream(URL, sample_rate=11025),
        Stream(f"{URL}?sample-rate=24000", sample_rate=16000),
        Stream(f"{URL}?sample_rate=16000"),
    ],
)
def test_parameters_that_exotel_would_not_deliver_are_refused(exotel: Writer, stream: Stream) -> None:
    """Three parameters, 256 characters, one rate (docs/reference/carriers.md §5.1)."""
    with pytest.raises(DocumentError):
        exotel.connect(stream, HangUp(), None)


def test_exotel_delivers_three_parameters_of_256_characters(exotel: Writer) -> None:
    url = f"{URL}?a=1&b=2&c=".ljust(len(URL) + 1 + 256, "x")
    assert json.loads(exotel.connect(Stream(url, sample_rate=16000), HangUp(), None))["url"].startswith(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "voice.example.com",
        "/ws/twilio",
        "https://voice.example.com/ws",
        "wss:///ws",
        "wss://voice.example.com/a b",
        "wss://voice.example.com/ä",
        "wss://voice.example.com/\n",
        "wss://voice.example.com:0/",
        "wss://voice.example.com:99999/",
        "wss://[::1/",
        "wss://voice.example.com/#part",
        "\ud800",
    ],
)
@pytest.mark.parametrize("carrier", WRITERS)
def test_a_url_that_is_not_a_websocket_url_is_refused(carrier: str, url: str) -> None:
    with pytest.raises(DocumentError, match="URL"):
        WRITERS[carrier].connect(Stream(url), HangUp(), None)


def test_twilio_gets_no_query_which_it_would_drop(twilio: Writer) -> None:
    """docs/reference/carriers.md §2.1."""
    for url in (f"{URL}?a=b", f"{URL}?"):
        with pytest.raises(DocumentError, match="query"):
            twilio.connect(Stream(url), HangUp(), None)


@pytest.mark.parametrize(
    ("carrier", "far"), [("twilio", False), ("telnyx", True), ("plivo", True), ("exotel", False)]
)
def test_a_plain_socket_only_where_the_carrier_dials_it_or_on_this_machine(carrier: str, far: bool) -> None:
    """docs/reference/carriers.md §1, §2.1, §3.4."""
    for host in ("127.0.0.1:8080", "[::1]:8080", "localhost"):
        assert f"ws://{host}/ws" in WRITERS[carrier].connect(Stream(f"ws://{host}/ws"), HangUp(), None)
    plain = Stream("ws://voice.example.com/ws")
    if far:
        assert plain.url in WRITERS[carrier].connect(plain, HangUp(), None)
    else:
        with pytest.raises(DocumentError, match="wss://"):
            WRITERS[carrier].connect(plain, HangUp(), None)


@pytest.mark.parametrize("sample_rate", [0, 8001, 24000, 48000])
def test_a_rate_that_the_xml_carriers_do_not_have_is_refused(xml_writer: Writer, sample_rate: int) -> None:
    with pytest.raises(DocumentError, match="Hz"):
        xml_writer.connect(Stream(URL, sample_rate=sample_rate), HangUp(), None)


def test_sixteen_kilohertz_only_where_it_is_documented(texml_writer: Writer) -> None:
    with pytest.raises(DocumentError, match="8000 Hz"):
        texml_writer.connect(Stream(URL, sample_rate=16000), HangUp(), None)


def test_a_codec_that_telnyx_does_not_have_is_refused(telnyx: Writer) -> None:
    with pytest.raises(DocumentError, match="codec"):
        telnyx.connect(Stream(URL, codec="mp3"), HangUp(), None)


@pytest.mark.parametrize(
    "url", ["", "/relative", "wss://a.example/", "https://a.example/ä", "https://:1/", "\x00"]
)
def test_a_callback_must_be_an_absolute_url(xml_writer: Writer, url: str) -> None:
    """A relative one is Twilio's 11100 (docs/reference/carriers.md §2.4)."""
    with pytest.raises(DocumentError, match="absolute"):
        xml_writer.connect(Stream(URL, status_callback=url), HangUp(), None)
    with pytest.raises(DocumentError, match="absolute"):
        xml_writer.busy(Play(url), None)
    with pytest.raises(DocumentError, match="absolute"):
        xml_writer.transfer("+15559876543", caller_id=None, action=url, timeout_s=None)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "5559876543",
        "+0559876543",
        "+1555",
        "+1555987654321098",
        "+1555\u0665876543",
        "+15559876543\n",
        "tel:+15559876543",
        "sip:",
        "sip:a b@example.com",
        'sip:"a"@example.com',
        "sip:<a>@example.com",
        "sip:ä@example.com",
        f"sip:{'a' * 300}@example.com",
    ],
)
@pytest.mark.parametrize("carrier", WRITERS)
def test_a_call_goes_only_to_a_number_or_a_sip_address(carrier: str, to: str) -> None:
    with pytest.raises(DocumentError, match="only go to"):
        WRITERS[carrier].transfer(to, caller_id=None, action=None, timeout_s=None)


@pytest.mark.parametrize("caller_id", ["", "anonymous", "sip:a@example.com", "+1 555", "1" * 16, "+1\n"])
def test_a_caller_id_is_a_number(xml_writer: Writer, caller_id: str) -> None:
    with pytest.raises(DocumentError, match="caller id"):
        xml_writer.transfer("+15559876543", caller_id=caller_id, action=None, timeout_s=None)


@pytest.mark.parametrize(
    ("carrier", "shortest", "longest"), [("twilio", 1, 600), ("telnyx", 5, 120), ("plivo", 1, 600)]
)
def test_a_call_rings_within_the_carriers_limits(carrier: str, shortest: int, longest: int) -> None:
    writer = WRITERS[carrier]
    for timeout_s in (shortest, longest):
        document = writer.transfer("+15559876543", caller_id=None, action=None, timeout_s=timeout_s)
        assert f'timeout="{timeout_s}"' in document
    for timeout_s in (shortest - 1, longest + 1, -1):
        with pytest.raises(DocumentError, match=f"{shortest} to {longest} seconds"):
            writer.transfer("+15559876543", caller_id=None, action=None, timeout_s=timeout_s)


def test_a_sentence_that_is_too_long_is_refused(xml_writer: Writer) -> None:
    for text in ("", " ", "a" * 1001):
        with pytest.raises(DocumentError, match="1 to 1000 characters"):
            xml_writer.busy(Say(text), None)


def test_a_document_that_is_too_long_is_refused(xml_writer: Writer) -> None:
    """Plivo: 100 KB (docs/reference/carriers.md §4.4)."""
    with pytest.raises(DocumentError, match="bytes"):
        xml_writer.connect(Stream(URL), OwnXml(f"<Say>{'ä' * 60_000}</Say>"), None)


def test_an_undeclared_prefix_is_refused_in_the_configuration() -> None:
    with pytest.raises(ValueError, match="well-formed"):
        parse_after_stream("<a:b/>")
    assert parse_after_stream('<Say xml:lang="de-DE">Tschüß</Say>') == OwnXml(
        '<Say xml:lang="de-DE">Tschüß</Say>'
    )


def test_a_rejection_needs_nothing(xml_writer: Writer, response: Parse) -> None:
    (reject,) = response(xml_writer.busy(Reject(), None))
    assert reject.attrib == {"reason": "busy"}
