# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's documents: Plivo XML (docs/reference/carriers.md §4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote
from xml.etree.ElementTree import Element

from texml.addresses import socket_url
from texml.document import DocumentError, Stream
from texml.xml_writer import (
    Verbs,
    XmlWriter,
    check_characters,
    element,
    parameter_name,
    status_attributes,
)

URL_CHARACTERS = 2048
"""docs/reference/carriers.md §4.1."""

HEADER_BYTES = 512
"""The longest `extraHeaders` (docs/reference/carriers.md §4.4)."""

CONTENT_TYPES = {8000: "audio/x-mulaw;rate=8000", 16000: "audio/x-l16;rate=16000"}
"""By sample rate in Hz.

Always written: Plivo's own pages disagree about the default (docs/reference/carriers.md §4.4).
"""


def _stream(stream: Stream) -> Element:
    socket_url(stream.url, allow_plain=True)
    if len(stream.url) > URL_CHARACTERS:
        raise DocumentError(f"the stream's URL has more than {URL_CHARACTERS} characters")
    if stream.sample_rate not in CONTENT_TYPES:
        raise DocumentError("Plivo's stream has 8000 or 16000 Hz")
    attributes = {
        "bidirectional": "true",  # default false: the caller hears nothing (docs/reference/carriers.md §10)
        "keepCallAlive": "true",  # default false: the XML after it runs at once, and the call ends
        "contentType": CONTENT_TYPES[stream.sample_rate],
        "extraHeaders": extra_headers(stream.parameters),
        **status_attributes(stream, "statusCallbackUrl"),
    }
    return element("Stream", attributes, text=stream.url)


def extra_headers(parameters: Mapping[str, str]) -> str | None:
    """Return `k=v,k2=v2` with percent-encoded names and values, as serializers/plivo.py reads it; None for
    none.
    """
    if not parameters:
        return None
    # Percent-encoding could express any text. What other carriers' documents refuse is refused here too.
    headers = ",".join(
        f"{_encoded(parameter_name(name))}={_encoded(value)}" for name, value in parameters.items()
    )
    if len(headers) > HEADER_BYTES:
        raise DocumentError(f"the custom parameters have more than {HEADER_BYTES} bytes, percent-encoded")
    return headers


def _conference(name: str, action: Mapping[str, str | None], time_limit: str) -> Element:
    """Return Plivo's verb, which stands alone: it is no noun of Dial (docs/reference/carriers.md §4.4)."""
    attributes = {
        "startConferenceOnEnter": "true",
        "endConferenceOnExit": "true",
        "maxMembers": "2",
        "timeLimit": time_limit,
    }
    return element("Conference", {**attributes, **action}, text=name)


def _encoded(text: str) -> str:
    return quote(check_characters(text, "a custom parameter"), safe="")


WRITER = XmlWriter(
    name="plivo",
    verbs=Verbs(say="Speak", pause="Wait", sip="User", reject="Hangup", gather="GetDigits"),
    stream=_stream,
    conference_element=_conference,
    max_bytes=100_000,  # docs/reference/carriers.md §4.4
    max_ring_s=600,  # no limit is documented; this is Twilio's
)
