# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's documents: TwiML (docs/reference/carriers.md §2.4)."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from texml.addresses import socket_url
from texml.document import DocumentError, Stream
from texml.xml_writer import (
    Verbs,
    XmlWriter,
    dialed_conference,
    element,
    parameter_elements,
    status_attributes,
)

PARAMETER_CHARACTERS = 500
"""Name and value of one parameter together must be shorter (docs/reference/carriers.md §2.4)."""

SAMPLE_RATE = 8000


def _connect(stream: Stream) -> Element:
    if socket_url(stream.url, allow_plain=False).query or "?" in stream.url:
        raise DocumentError("Twilio drops the query of a stream's URL")  # docs/reference/carriers.md §2.1
    if stream.sample_rate != SAMPLE_RATE:
        raise DocumentError("Twilio's stream has 8000 Hz")
    for name, value in stream.parameters.items():
        if len(name) + len(value) >= PARAMETER_CHARACTERS:
            raise DocumentError(
                f"a parameter must have fewer than {PARAMETER_CHARACTERS} characters, name and value together"
            )
    attributes = {"url": stream.url, "name": stream.name, **status_attributes(stream, "statusCallback")}
    return element("Connect", children=[element("Stream", attributes, children=parameter_elements(stream))])


WRITER = XmlWriter(
    name="twilio",
    verbs=Verbs(say="Say", pause="Pause", sip="Sip", reject="Reject"),
    stream=_connect,
    conference_element=dialed_conference,
    max_bytes=65_536,  # Twilio's error 11750
    max_ring_s=600,
    inline_limit=4000,  # docs/reference/carriers.md §2.6, `Twiml`
)
