# SPDX-License-Identifier: BSD-2-Clause
"""Every carrier's own requests are accepted, and no other request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.carriers.registry import CARRIERS
from gateway.carriers.signatures import (
    FORM,
    MAX_BODY_BYTES,
    MAX_URL_CHARS,
    AuthenticationFailed,
    SignedRequest,
)
from tests.carriers.case import Case
from tests.carriers.cases import CASES


def authenticate(case: Case, request: SignedRequest, credentials: Any = None) -> None:
    assert case.auth is not None
    check = CARRIERS[case.name].authenticate
    assert check is not None
    check(case.account(case.auth.credentials if credentials is None else credentials), request)


def reason_of(case: Case, request: SignedRequest, credentials: Any = None) -> str:
    """Why the request is refused. The reason repeats no secret."""
    with pytest.raises(AuthenticationFailed) as caught:
        authenticate(case, request, credentials)
    assert case.auth is not None
    assert caught.value.reason.isprintable()
    for secret in secrets_of(case):
        assert secret not in caught.value.reason
    return caught.value.reason


def secrets_of(case: Case) -> list[str]:
    assert case.auth is not None
    tables = (case.auth.credentials, case.auth.others)
    return [text for table in tables for name in table if name.endswith("tokens") for text in table[name]]


every_signed_request = pytest.mark.parametrize(
    ("case", "request_"),
    [(case, each) for case in CASES.values() if case.auth is not None for each in case.auth.requests],
    ids=lambda value: str(value) if isinstance(value, Case) else f"{value.method} {value.urls[0][:5]}",
)
every_authentication = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.auth is not None], ids=str
)


@every_signed_request
def test_the_carriers_own_request_is_accepted(case: Case, request_: SignedRequest) -> None:
    authenticate(case, request_)


@every_signed_request
def test_a_request_of_another_account_is_refused(case: Case, request_: SignedRequest) -> None:
    assert case.auth is not None
    reason_of(case, request_, case.auth.others)


@every_signed_request
def test_an_account_without_credentials_accepts_nothing(case: Case, request_: SignedRequest) -> None:
    reason_of(case, request_, {})


@every_signed_request
@pytest.mark.parametrize("value", [None, "", " ", "x", "\ud800", "ä", "A" * 100_000])
def test_a_request_without_its_headers_is_refused(
    case: Case, request_: SignedRequest, value: str | None
) -> None:
    assert case.auth is not None
    for name in case.auth.headers:
        headers = {**request_.headers, name: value}
        present = {key: text for key, text in headers.items() if text is not None}
        reason_of(case, replace(request_, headers=present))


@every_signed_request
def test_a_header_that_was_sent_twice_is_refused(case: Case, request_: SignedRequest) -> None:
    assert case.auth is not None
    for name in case.auth.headers:
        if name in case.auth.lists:
            continue
        twice = f"{request_.headers[name]}, {request_.headers[name]}"
        reason_of(case, replace(request_, headers={**request_.headers, name: twice}))


@every_signed_request
def test_no_character_of_its_headers_can_change(case: Case, request_: SignedRequest) -> None:
    assert case.auth is not None
    for name in case.auth.headers:
        value = request_.headers[name]
        begin = value.find(" ") + 1  # a scheme such as "Basic" has no case
        for index in range(begin, len(value)):
            for other in {chr(ord(value[index]) ^ 1), "A", "0"} - {value[index]}:
                changed = value[:index] + other + value[index + 1 :]
                reason_of(case, replace(request_, headers={**request_.headers, name: changed}))


@every_signed_request
def test_a_request_that_is_too_large_is_refused(case: Case, request_: SignedRequest) -> None:
    long_url = request_.urls[0] + "a" * MAX_URL_CHARS
    assert "URL" in reason_of(case, replace(request_, urls=(long_url,)))
    large_body = b"a" * (MAX_BODY_BYTES + 1)
    assert "body" in reason_of(case, replace(request_, method="POST", body=large_body))


# Values that authentication looks at occur often. Any text may be in them, even lone surrogates.
anything = st.text(st.characters(), max_size=40) | st.text("abcAZ09+/=,.:;%&? ", max_size=90)
header_values = anything | st.sampled_from(
    [
        FORM,
        f"{FORM}; charset=utf-8",
        "application/json",
        "1756000000",
        "algorithm=HMAC_SHA256",
        "Basic a2V5OnRva2Vu",
        "AAAA",
        86 * "A" + "==",
    ]
)
urls = st.lists(
    anything
    | st.sampled_from(["https://", "wss://h:99999/", "wss://[/", "https://h/?bodySHA256=0&bodySHA256"])
    | anything.map(lambda text: f"https://gw.example.com/{text}")
    | anything.map(lambda text: f"wss://gw.example.com/?bodySHA256={text}"),
    max_size=3,
)


def garbled_requests(case: Case) -> st.SearchStrategy[SignedRequest]:
    assert case.auth is not None
    names = st.sampled_from(
        [
            *case.auth.headers,
            "authorization",
            "content-type",
            "upgrade",
            "x-twilio-webhooks-signature-settings",
        ]
    )
    return st.builds(
        SignedRequest,
        method=st.sampled_from(["GET", "POST", "PUT", ""]) | anything,
        urls=urls.map(tuple),
        headers=st.dictionaries(names | anything, header_values, max_size=8),
        body=st.binary(max_size=60) | anything.map(lambda text: text.encode("utf-8", "replace")),
        address=anything | st.sampled_from(["198.51.100.1", "::1", ""]),
        now=st.floats() | st.just(1_756_000_000.0),
    )


@every_authentication
@given(data=st.data())
def test_a_garbled_request_is_refused_and_raises_nothing_else(case: Case, data: st.DataObject) -> None:
    reason_of(case, data.draw(garbled_requests(case)))
