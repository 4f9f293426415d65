# SPDX-License-Identifier: BSD-2-Clause
"""docs/documents.md shows the documents that the writers make."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from texml.document import HangUp, Stream
from texml.registry import WRITERS

PAGE = Path(__file__).parents[2] / "docs" / "documents.md"
HOST = "wss://voice.example.com/ws"
CALLER = {"from_number": "+14155550100"}


def test_the_page_shows_what_is_written() -> None:
    blocks = re.findall(r"^```xml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    streams = {
        "twilio": Stream(f"{HOST}/twilio/support.acme/TOKEN", CALLER),
        "plivo": Stream(f"{HOST}/plivo?serviceHost=support.acme&token=TOKEN", CALLER),
    }
    shown = [ElementTree.canonicalize(block, strip_text=True) for block in blocks]
    written = [
        ElementTree.canonicalize(WRITERS[carrier].connect(stream, HangUp(), None))
        for carrier, stream in streams.items()
    ]
    assert shown == written
