# SPDX-License-Identifier: BSD-2-Clause
"""Plivo's V3 signature: what Plivo's own package signs is accepted, and nothing that differs in a byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plivo.utils.signature_v3 import (
    construct_get_url,
    construct_post_url,
    get_signature_v3,
    validate_v3_signature,
)

from gateway.carriers.plivo.auth import authenticate
from gateway.carriers.signatures import AuthenticationFailed, SignedRequest, read_form
from gateway.config import CarrierAccount

TOKEN = "my_auth_token"
NONCE = "12345"
FORM = "application/x-www-form-urlencoded"
ANSWER = "https://gw.example.com/plivo/answer"
WITH_QUERY = f"{ANSWER}?tenant=acme"
SOCKET = "wss://gw.example.com/ws/plivo/tok_abc"
PLAIN_SOCKET = "https://gw.example.com/ws/plivo/tok_abc"
FIELDS = [
    ("CallUUID", "97ceeb52-58b6-11e1-86da-77300b68f8bb"),
    ("Direction", "inbound"),
    ("Event", "StartApp"),
    ("From", "+14155550100"),
    ("To", "+14155550199"),
]
# docs/reference/carriers.md §9.3
POSTED_WITH_QUERY = "294jQ01L1k7Me0aFdB7bu4wwpKpeFlkeUFZ6t8vZ1lo="
POSTED = "tcwLD1+pklxthDafqR6wtg+D34FCPUvgZk7gQm1CM3E="
SOCKET_SIGNED = "H3ejSMeblTcLX1iNiQnBD5Af1hbdtJ1fo4d/KaD7Rjw="
PLAIN_SOCKET_SIGNED = "k+WHNIHGQViAxegH4DVQ/faSgg/PZsyu5xco9jFxwHw="
SIGNED_V2 = "luM6tlTr69X6DAEMjIkwbkr9JDNJtRRBk3mNkb8qqpk="

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ASCII = st.text(st.characters(max_codepoint=126, exclude_categories=["Cc"]), max_size=12)


def account(*tokens: str) -> CarrierAccount:
    values: dict[str, Any] = {"carrier": "plivo", "auth_tokens": tokens}
    return CarrierAccount(**values)


def request_with(
    url: str,
    signature: str | None,
    *,
    method: str = "GET",
    body: bytes = b"",
    nonce: str | None = NONCE,
    of_main_account: str | None = None,
    content_type: str = FORM,
) -> SignedRequest:
    headers = {
        "x-plivo-signature-v3": signature,
        "x-plivo-signature-ma-v3": of_main_account,
        "x-plivo-signature-v3-nonce": nonce,
        "content-type": content_type,
    }
    return SignedRequest(
        method=method,
        urls=(url,) if url else (),
        headers={name: value for name, value in headers.items() if value is not None},
        body=body,
        address="203.0.113.7",
        now=1_756_000_000.0,
    )


def posted(url: str = WITH_QUERY, signature: str | None = POSTED_WITH_QUERY, **changes: Any) -> SignedRequest:
    values: dict[str, Any] = {"method": "POST", "body": urlencode(FIELDS).encode(), **changes}
    return request_with(url, signature, **values)


def assert_authenticated(signed: SignedRequest, *tokens: str) -> None:
    authenticate(account(*(tokens or (TOKEN,))), signed)


def reason_of(signed: SignedRequest, *tokens: str) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        assert_authenticated(signed, *tokens)
    return caught.value.reason


def plivo_signs(
    method: str, url: str, fields: list[tuple[str, str]], token: str = TOKEN, nonce: str = NONCE
) -> str:
    """As Plivo's package makes it. (Its validator takes no wss://, but what it is made of does.)"""
    together: dict[str, list[str]] = defaultdict(list)
    for name, value in fields:
        together[name].append(value)
    made = construct_get_url(url, {}) if method == "GET" else construct_post_url(url, together)
    return str(get_signature_v3(token.encode(), made.decode(), nonce).decode())


def changed_texts(text: str) -> Iterator[str]:
    """The text with each of its characters changed, in several ways."""
    for index, character in enumerate(text):
        for other in {chr(ord(character) ^ 1), chr(ord(character) ^ 32), *"aZ0%&=+#/?:. "} - {character}:
            yield text[:index] + other + text[index + 1 :]


def test_the_documented_signatures_are_accepted() -> None:
    assert_authenticated(posted())
    assert_authenticated(posted(ANSWER, POSTED))
    assert_authenticated(request_with(SOCKET, SOCKET_SIGNED))
    assert_authenticated(request_with(SOCKET, PLAIN_SOCKET_SIGNED))
    assert_authenticated(request_with(PLAIN_SOCKET, PLAIN_SOCKET_SIGNED))


def test_the_vectors_are_what_plivo_signs() -> None:
    assert plivo_signs("POST", WITH_QUERY, FIELDS) == POSTED_WITH_QUERY
    assert plivo_signs("POST", ANSWER, FIELDS) == POSTED
    assert plivo_signs("GET", SOCKET, []) == SOCKET_SIGNED
    assert validate_v3_signature("POST", ANSWER, NONCE, TOKEN, POSTED, dict(FIELDS))
    assert validate_v3_signature("GET", PLAIN_SOCKET, NONCE, TOKEN, PLAIN_SOCKET_SIGNED)


def test_a_socket_that_is_signed_as_such_proves_no_webhook() -> None:
    reason_of(request_with(PLAIN_SOCKET, SOCKET_SIGNED))


def test_no_byte_of_a_url_may_change() -> None:
    for url in changed_texts(WITH_QUERY):
        reason_of(posted(url))
    for url in changed_texts(ANSWER):
        reason_of(posted(url, POSTED))
    for url in changed_texts(SOCKET):
        reason_of(request_with(url, SOCKET_SIGNED))


def test_no_byte_of_a_signature_or_a_nonce_may_change() -> None:
    for signature in changed_texts(POSTED):
        reason_of(posted(ANSWER, signature))
    for signature in changed_texts(SOCKET_SIGNED):
        reason_of(request_with(SOCKET, signature))
    for nonce in changed_texts(NONCE):
        reason_of(posted(nonce=nonce))
        reason_of(request_with(SOCKET, SOCKET_SIGNED, nonce=nonce))


def test_no_byte_of_a_body_may_change() -> None:
    for text in changed_texts(urlencode(FIELDS)):
        try:
            means_the_same = read_form(FORM, text.encode()) == FIELDS  # %2B and %2b
        except AuthenticationFailed:
            means_the_same = False
        if not means_the_same:
            reason_of(posted(body=text.encode()))
            reason_of(posted(ANSWER, POSTED, body=text.encode()))


def test_no_field_may_be_added_or_taken_away() -> None:
    reason_of(posted(body=urlencode(FIELDS[1:]).encode()))
    reason_of(posted(body=urlencode([*FIELDS, FIELDS[-1]]).encode()))
    reason_of(posted(body=b""))
    reason_of(posted(method="GET", body=b""))
    reason_of(posted(method="GET"))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "get", ""])
def test_other_methods_are_refused(method: str) -> None:
    reason_of(request_with(SOCKET, SOCKET_SIGNED, method=method))


def test_what_is_no_form_is_refused() -> None:
    for content_type in ("application/json", "multipart/form-data; boundary=x", "text/plain", ""):
        assert FORM in reason_of(posted(content_type=content_type))


def test_a_header_may_hold_the_signatures_of_several_tokens() -> None:
    wrong = plivo_signs("GET", SOCKET, [], token="another")
    assert_authenticated(request_with(SOCKET, f"{wrong},{SOCKET_SIGNED}"))
    assert_authenticated(request_with(SOCKET, f"{SOCKET_SIGNED}, {wrong}"))
    reason_of(request_with(SOCKET, f"{wrong},{wrong}"))
    assert "more than 16" in reason_of(request_with(SOCKET, ",".join([wrong] * 16 + [SOCKET_SIGNED])))


def test_the_main_account_may_have_signed_alone() -> None:
    assert_authenticated(request_with(SOCKET, None, of_main_account=SOCKET_SIGNED))
    assert_authenticated(
        request_with(SOCKET, plivo_signs("GET", SOCKET, [], token="sub"), of_main_account=SOCKET_SIGNED)
    )
    reason_of(request_with(SOCKET, None, of_main_account=plivo_signs("GET", SOCKET, [], token="sub")))


def test_any_of_several_tokens_is_accepted() -> None:
    for token in ("old", "new"):
        signature = plivo_signs("POST", ANSWER, FIELDS, token=token)
        assert_authenticated(posted(ANSWER, signature), "old", "new")
        assert_authenticated(posted(ANSWER, signature), "new", "old")
        reason_of(posted(ANSWER, signature), "another")


def test_v2_proves_nothing() -> None:
    headers = {"x-plivo-signature-v2": SIGNED_V2, "x-plivo-signature-v2-nonce": NONCE, "content-type": FORM}
    signed = SignedRequest("POST", (ANSWER,), headers, urlencode(FIELDS).encode(), "203.0.113.7", 0.0)
    assert "x-plivo-signature-v3" in reason_of(signed)
    reason_of(posted(ANSWER, SIGNED_V2))


@pytest.mark.parametrize("signature", [None, "", ",", " ", ",,", "ä", "\ud800", POSTED[:-1], 9999 * "A"])
def test_what_is_no_signature_is_refused(signature: str | None) -> None:
    reason_of(posted(ANSWER, signature))


@pytest.mark.parametrize("nonce", [None, "", "12345, 12345", "12345,12345", "1.2", "ä", "1\n", 200 * "1"])
def test_what_is_no_nonce_is_refused(nonce: str | None) -> None:
    assert "nonce" in reason_of(posted(nonce=nonce))


def test_the_end_of_a_field_cannot_pass_as_the_nonce() -> None:
    """It would be the same text: `Tox.1.2` and a nonce, or `Tox` and a nonce that begins with `1.2`."""
    fields = [("To", "x.1.2")]
    signature = plivo_signs("POST", ANSWER, fields)
    assert_authenticated(posted(ANSWER, signature, body=urlencode(fields).encode()))
    reason_of(posted(ANSWER, signature, body=urlencode([("To", "x")]).encode(), nonce=f"1.2.{NONCE}"))


def test_without_a_public_url_every_request_is_refused() -> None:
    assert "public_url" in reason_of(request_with("", SOCKET_SIGNED))


def test_a_token_in_the_query_is_covered() -> None:
    url = "wss://gw.example.com/ws/plivo?serviceHost=support.acme&token=a-b_c&body=eyJhIjoxfQ%3D%3D"
    signature = plivo_signs("GET", url, [])
    assert_authenticated(request_with(url, signature))
    reason_of(request_with(url.replace("a-b_c", "a-b_d"), signature))
    reason_of(request_with(url.replace("support", "billing"), signature))
    reason_of(request_with(f"{url}&x=1", signature))


@pytest.mark.parametrize(
    "query",
    ["b=%20x&foo=bar", "foo=bar&b=+x", "b=2&b=1&a=", "flag&x", "&&", "a=%26b%3D1", "%62=1", "a=1&a=1"],
)
@pytest.mark.parametrize("fields", [[], FIELDS])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_queries_as_plivo_signs_them(query: str, fields: list[tuple[str, str]], method: str) -> None:
    url, sent = f"{ANSWER}?{query}", fields if method == "POST" else []
    signature = plivo_signs(method, url, sent)
    assert_authenticated(request_with(url, signature, method=method, body=urlencode(sent).encode()))


@pytest.mark.parametrize("query", ["a=%ff", "a=%C3", "&".join(["a=1"] * 2000)])
def test_a_query_that_cannot_be_read_is_refused(query: str) -> None:
    assert "query" in reason_of(request_with(f"{ANSWER}?{query}", POSTED))


def test_a_fragment_is_not_signed() -> None:
    """It tunes timeouts at Plivo (docs/reference/carriers.md §4.4) and never comes with a request."""
    assert_authenticated(posted(f"{ANSWER}#ct=2000&rt=40000", POSTED))


@pytest.mark.parametrize(
    "fields",
    [
        [("Digits", "1"), ("Digits", "2"), ("Digits", "1")],
        [("Speech", ""), ("From", "")],
        [("Speech", "Grüße 日本 👋"), ("Ü", "ä")],
        [("From", "+1 415 555"), ("Speech", "1+1=2 & 100%")],
        [("lower", "1"), ("Upper", "2"), ("UPPER", "3")],
        [],
    ],
)
@pytest.mark.parametrize("url", [ANSWER, WITH_QUERY])
def test_forms_as_plivo_signs_them(fields: list[tuple[str, str]], url: str) -> None:
    signature = plivo_signs("POST", url, fields)
    assert_authenticated(posted(url, signature, body=urlencode(fields).encode()))
    assert_authenticated(posted(url, signature, body=urlencode(fields[::-1]).encode()))


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), st.lists(st.tuples(ASCII, ASCII), max_size=4))
def test_any_request_that_plivo_signs_is_accepted(
    fields: list[tuple[str, str]], query: list[tuple[str, str]]
) -> None:
    url = f"{ANSWER}?{urlencode(query)}" if query else ANSWER
    assert_authenticated(posted(url, plivo_signs("POST", url, fields), body=urlencode(fields).encode()))
    assert_authenticated(request_with(url, plivo_signs("GET", url, [])))
