# SPDX-License-Identifier: BSD-2-Clause
"""Writers and parsers for the tests of the documents."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from texml.document import Writer
from texml.registry import WRITERS

NEXT_URL = "https://voice.example.com/xml/next?agent=support&org=acme"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'


@pytest.fixture
def next_url() -> str:
    """A URL with what XML must escape."""
    return NEXT_URL


@pytest.fixture(params=["twilio", "telnyx", "plivo"])
def xml_writer(request: pytest.FixtureRequest) -> Writer:
    """Each carrier that speaks XML."""
    return WRITERS[request.param]


@pytest.fixture(params=["twilio", "telnyx"])
def texml_writer(request: pytest.FixtureRequest) -> Writer:
    """Those whose stream stands under `<Connect>`."""
    return WRITERS[request.param]


@pytest.fixture
def twilio() -> Writer:
    return WRITERS["twilio"]


@pytest.fixture
def telnyx() -> Writer:
    return WRITERS["telnyx"]


@pytest.fixture
def plivo() -> Writer:
    return WRITERS["plivo"]


@pytest.fixture
def exotel() -> Writer:
    return WRITERS["exotel"]


@pytest.fixture(scope="session")
def canonical() -> Callable[[str], str]:
    """What an XML parser makes of a document, whatever the order of attributes and the style of escapes."""
    return ElementTree.canonicalize


@pytest.fixture(scope="session")
def response() -> Callable[[str], ElementTree.Element]:
    """The parsed document of an answer, which must begin with its declaration and be UTF-8 text."""

    def parse(document: str) -> ElementTree.Element:
        assert document.startswith(
            DECLARATION + "<Response>"
        )  # white space before it: 12100, docs/reference/carriers.md §2.4
        root = ElementTree.fromstring(document.encode("utf-8"))
        assert root.tag == "Response"
        assert not root.attrib
        return root

    return parse
