# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's documents: TeXML (docs/reference/carriers.md §3.4)."""

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

CODECS = frozenset({"PCMU", "PCMA", "G722", "OPUS", "AMR-WB", "default"})
SAMPLE_RATE = 8000
"""Of PCMU, which is what Pipecat's agents send (docs/reference/carriers.md §8.2)."""


def _connect(stream: Stream) -> Element:
    socket_url(stream.url, allow_plain=True)
    if stream.sample_rate != SAMPLE_RATE:
        raise DocumentError("Telnyx's stream is PCMU here, which has 8000 Hz")
    if stream.codec is not None and stream.codec not in CODECS:
        raise DocumentError("Telnyx has no such codec")
    attributes = {
        "url": stream.url,
        "name": stream.name,
        "track": "inbound_track",
        "codec": stream.codec,
        # With mp3, the default, the caller hears nothing (docs/reference/carriers.md §10).
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
        # The default is true. It is not documented whether our close then ends <Connect> (§3.1).
        "enableReconnect": "true" if stream.reconnect else "false",
        **status_attributes(stream, "statusCallback"),
    }
    return element("Connect", children=[element("Stream", attributes, children=parameter_elements(stream))])


WRITER = XmlWriter(
    name="telnyx",
    verbs=Verbs(say="Say", pause="Pause", sip="Sip", reject="Reject"),
    stream=_connect,
    conference_element=dialed_conference,
    max_bytes=65_536,  # no limit is documented; this is Twilio's, whose XML TeXML mirrors
    min_ring_s=5,  # TeXML's page on Dial: 5 to 120
    max_ring_s=120,
    min_call_s=60,
    # `Texml` (docs/reference/carriers.md §3.5) mirrors Twilio's `Twiml`; Telnyx documents no limit.
    inline_limit=4000,
)
