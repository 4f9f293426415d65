# SPDX-License-Identifier: BSD-2-Clause
"""Every carrier's documents are well formed, or are refused without repeating what may be secret."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from gateway.carriers.registry import CARRIERS
from tests.carriers.case import Case
from tests.carriers.cases import CASES
from texml.document import Dial, DocumentError, HangUp, OwnXml, Play, Queue, Redirect, Reject, Say, Stream

NUMBER, SIP = "+15559876543", "sip:alice@example.com"
NEXT_URL = "https://gw.example.com/xml/next?agent=support&org=acme"
ACTION = "https://gw.example.com/callbacks/action"
SECRET = "t0ken"
BUSY = [Reject(), Say("Please call again."), Play("https://a.test/busy.mp3"), Queue(), Dial(NUMBER)]

every_document = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.documents is not None], ids=str
)


def assert_well_formed(case: Case, document: str) -> None:
    """The document is what its content type says."""
    content_type = CARRIERS[case.name].documents.content_type
    if "json" in content_type:
        assert isinstance(json.loads(document), dict)
    else:
        assert "xml" in content_type
        assert document.startswith('<?xml version="1.0" encoding="UTF-8"?><Response>')
        ElementTree.fromstring(document.encode())


def cannot(case: Case, part: str) -> bool:
    assert case.documents is not None
    return part in case.documents.cannot


def stream(case: Case, **more: Any) -> Stream:
    assert case.documents is not None
    return Stream(case.documents.stream_url, **more)


@every_document
@pytest.mark.parametrize("after", [HangUp(), Redirect(), Dial(NUMBER), OwnXml("<Say>Bye</Say>")], ids=str)
def test_a_call_is_connected_and_goes_on_afterwards(case: Case, after: Any) -> None:
    writer = CARRIERS[case.name].documents
    document = writer.connect(stream(case), after, NEXT_URL)
    assert_well_formed(case, document)
    assert case.documents is not None
    url = case.documents.stream_url
    assert url in document.replace("&amp;", "&")


@every_document
def test_custom_parameters_are_delivered_or_refused(case: Case) -> None:
    writer = CARRIERS[case.name].documents
    parameters = {"from_number": "+14155550100", "note": "a & b"}
    if cannot(case, "parameters"):
        with pytest.raises(DocumentError):
            writer.connect(stream(case, parameters=parameters), HangUp(), None)
        return
    document = writer.connect(stream(case, parameters=parameters), HangUp(), None)
    assert_well_formed(case, document)
    assert "+14155550100" in document or quote("+14155550100", safe="") in document


@every_document
@pytest.mark.parametrize(
    "busy",
    [Reject(), Say("Please call again."), Play("https://a.test/busy.mp3"), Queue(), Dial(NUMBER)],
    ids=str,
)
def test_a_caller_whom_nobody_can_take_gets_a_document_or_none(case: Case, busy: Any) -> None:
    writer = CARRIERS[case.name].documents
    if cannot(case, "busy"):
        with pytest.raises(DocumentError):
            writer.busy(busy, NEXT_URL)
        return
    assert_well_formed(case, writer.busy(busy, NEXT_URL))


@every_document
def test_a_call_is_transferred(case: Case) -> None:
    writer = CARRIERS[case.name].documents
    plain: dict[str, Any] = {"caller_id": None, "action": None, "timeout_s": None}
    document = writer.transfer(NUMBER, **plain)
    assert_well_formed(case, document)
    assert NUMBER in document
    assert_well_formed(case, writer.transfer(NUMBER, **{**plain, "timeout_s": 30}))
    for part, target, more in (
        ("sip", SIP, {}),
        ("caller_id", NUMBER, {"caller_id": NUMBER}),
        ("action", NUMBER, {"action": ACTION}),
    ):
        if cannot(case, part):
            with pytest.raises(DocumentError):
                writer.transfer(target, **(plain | more))
        else:
            assert_well_formed(case, writer.transfer(target, **(plain | more)))


@every_document
@pytest.mark.parametrize("target", ["", "15559876543", "+1", "tel:+15559876543", "sip:a b", f"+1{SECRET}"])
def test_a_call_is_not_transferred_to_what_is_no_address(case: Case, target: str) -> None:
    writer = CARRIERS[case.name].documents
    with pytest.raises(DocumentError) as caught:
        writer.transfer(target, caller_id=None, action=None, timeout_s=None)
    assert SECRET not in str(caught.value)


@every_document
def test_a_call_is_ended(case: Case) -> None:
    writer = CARRIERS[case.name].documents
    if cannot(case, "hangup"):
        with pytest.raises(DocumentError):
            writer.hangup()
    else:
        assert_well_formed(case, writer.hangup())


@every_document
def test_a_document_in_a_request_is_no_longer_than_the_carrier_accepts(case: Case) -> None:
    writer = CARRIERS[case.name].documents
    for length in (1, 4000, 100_000):
        if length <= writer.inline_limit:
            assert writer.inline("x" * length) == "x" * length
        else:
            with pytest.raises(DocumentError):
                writer.inline("x" * length)


@every_document
@pytest.mark.parametrize(
    "url",
    [f"https://{SECRET}.example.com", f"/{SECRET}", f"wss://a.test/{SECRET}#x", "", f"wss://a b/{SECRET}"],
)
def test_a_stream_url_that_cannot_be_dialed_is_refused(case: Case, url: str) -> None:
    writer = CARRIERS[case.name].documents
    with pytest.raises(DocumentError) as caught:
        writer.connect(Stream(url), HangUp(), None)
    assert SECRET not in str(caught.value)


@every_document
@pytest.mark.parametrize("sample_rate", [0, 7999, 44_100])
def test_a_sample_rate_that_the_carrier_lacks_is_refused(case: Case, sample_rate: int) -> None:
    writer = CARRIERS[case.name].documents
    with pytest.raises(DocumentError):
        writer.connect(stream(case, sample_rate=sample_rate), HangUp(), None)
