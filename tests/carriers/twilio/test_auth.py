# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's signature: what Twilio's own package signs is accepted, and nothing that differs in a byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.datastructures import ImmutableMultiDict
from twilio.request_validator import HMAC_SHA256, RequestValidator

from gateway.carriers.signatures import MAX_BODY_BYTES, AuthenticationFailed, SignedRequest, read_form
from gateway.carriers.twilio.auth import authenticate, respelled_queries
from gateway.config import CarrierAccount

TOKEN = "12345"
FORM = "application/x-www-form-urlencoded"
WEBHOOK = "https://gw.example.com/twilio/voice?tenant=acme"
SOCKET = "wss://gw.example.com/ws/twilio/tok_abc"
JSON_URL = (
    "https://gw.example.com/twilio/json"
    "?bodySHA256=015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
)
FIELDS = [
    ("AccountSid", "AC" + 31 * "0" + "1"),
    ("ApiVersion", "2010-04-01"),
    ("CallSid", "CA" + 31 * "0" + "1"),
    ("CallStatus", "ringing"),
    ("Direction", "inbound"),
    ("From", "+14155550100"),
    ("To", "+14155550199"),
]
# docs/reference/carriers.md §9.1
WEBHOOK_SHA1 = "64Makt0HK7qxBPNsZo0KYW/bow4="
WEBHOOK_SHA256 = "PusMYBKQctk0QJNMivvIAteGIMNC78PL96WHs00mBWw="
SOCKET_SHA1 = "OQjCs9PhErWNdZQB5oKwjPkt+x4="
JSON_SHA1 = "cMtaOxxoAk7b8o37sPvzbLizE7E="
SHARED = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def account(*tokens: str, shared: tuple[str, ...] = ()) -> CarrierAccount:
    values: dict[str, Any] = {"carrier": "twilio", "auth_tokens": tokens, "signing_keys": shared}
    return CarrierAccount(**values)


def request_with(
    url: str | tuple[str, ...],
    signature: str | None,
    *,
    method: str = "POST",
    body: bytes = b"",
    content_type: str | None = FORM,
    settings: str | None = None,
) -> SignedRequest:
    headers = {
        "x-twilio-signature": signature,
        "content-type": content_type,
        "x-twilio-webhooks-signature-settings": settings,
    }
    return SignedRequest(
        method=method,
        urls=(url,) if isinstance(url, str) else url,
        headers={name: value for name, value in headers.items() if value is not None},
        body=body,
        address="203.0.113.7",
        now=1_756_000_000.0,
    )


def upgrade(url: str, signature: str | None) -> SignedRequest:
    return request_with(url, signature, method="GET", content_type=None)


def voice(signature: str | None = WEBHOOK_SHA1, **changes: Any) -> SignedRequest:
    values: dict[str, Any] = {"url": WEBHOOK, "body": urlencode(FIELDS).encode(), **changes}
    return request_with(values.pop("url"), signature, **values)


def document(signature: str = JSON_SHA1, **changes: Any) -> SignedRequest:
    values: dict[str, Any] = {"body": b'{"a":1}', "content_type": "application/json", **changes}
    return request_with(values.pop("url", JSON_URL), signature, **values)


def assert_authenticated(signed: SignedRequest, of: CarrierAccount | None = None) -> None:
    authenticate(of or account(TOKEN), signed)


def reason_of(signed: SignedRequest, of: CarrierAccount | None = None) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        assert_authenticated(signed, of)
    return caught.value.reason


def changed_texts(text: str) -> Iterator[str]:
    """The text with each of its characters changed, in several ways."""
    for index, character in enumerate(text):
        for other in {chr(ord(character) ^ 1), chr(ord(character) ^ 32), *"aZ0%&=+#/?:. "} - {character}:
            yield text[:index] + other + text[index + 1 :]


def test_the_documented_signatures_are_accepted() -> None:
    assert_authenticated(voice())
    assert_authenticated(voice(WEBHOOK_SHA256, settings=SHARED), account(shared=(TOKEN,)))
    assert_authenticated(upgrade(SOCKET, SOCKET_SHA1))
    assert_authenticated(document())


def test_the_documented_signatures_are_those_of_twilios_package() -> None:
    signer = RequestValidator(TOKEN)
    assert signer.compute_signature(WEBHOOK, dict(FIELDS)) == WEBHOOK_SHA1
    assert signer.compute_signature(WEBHOOK, dict(FIELDS), HMAC_SHA256) == WEBHOOK_SHA256
    assert signer.compute_signature(SOCKET, {}) == SOCKET_SHA1
    assert signer.compute_signature(JSON_URL, {}) == JSON_SHA1


def test_no_byte_of_a_url_may_change() -> None:
    for url in changed_texts(WEBHOOK):
        reason_of(voice(url=url))
    for url in changed_texts(SOCKET):
        reason_of(upgrade(url, SOCKET_SHA1))
    for url in changed_texts(JSON_URL):
        reason_of(document(url=url))


def test_no_byte_of_a_signature_may_change() -> None:
    for signature in changed_texts(WEBHOOK_SHA1):
        reason_of(voice(signature))
    for signature in changed_texts(WEBHOOK_SHA256):
        reason_of(voice(signature, settings=SHARED), account(shared=(TOKEN,)))
    for signature in changed_texts(SOCKET_SHA1):
        reason_of(upgrade(SOCKET, signature))


def test_no_byte_of_a_body_may_change() -> None:
    whole = urlencode(FIELDS)
    for text in changed_texts(whole):
        try:
            means_the_same = read_form(FORM, text.encode()) == FIELDS  # %2B and %2b
        except AuthenticationFailed:
            means_the_same = False
        if not means_the_same:
            reason_of(voice(body=text.encode()))
    for text in changed_texts('{"a":1}'):
        assert "bodySHA256" in reason_of(document(body=text.encode()))


def test_no_field_may_be_added_or_taken_away() -> None:
    reason_of(voice(body=urlencode(FIELDS[1:]).encode()))
    reason_of(voice(body=urlencode([*FIELDS, ("To", "+14155550198")]).encode()))
    reason_of(voice(body=b""))
    reason_of(voice(method="GET", body=b""))


def test_a_body_that_the_signature_does_not_cover_is_refused() -> None:
    signature = RequestValidator(TOKEN).compute_signature("https://gw.example.com/twilio/json", {})
    plain = "https://gw.example.com/twilio/json"
    assert_authenticated(document(signature, url=plain, body=b""))
    assert "neither a form" in reason_of(document(signature, url=plain))
    assert "a GET has a body" in reason_of(document(signature, url=plain, method="GET"))
    assert "a GET has a body" in reason_of(voice(method="GET"))
    assert "bodySHA256" in reason_of(document(body=b"")), "a signed body was taken away"
    assert "bodySHA256" in reason_of(document(body=b"", method="GET"))
    assert "bodySHA256" in reason_of(document(body=b"", content_type=FORM))


def test_a_hash_given_twice_is_refused() -> None:
    twice = f"{JSON_URL}&bodySHA256={hashlib.sha256(b'other').hexdigest()}"
    signature = RequestValidator(TOKEN).compute_signature(twice, {})
    for body in (b'{"a":1}', b"other"):
        assert "bodySHA256" in reason_of(document(signature, url=twice, body=body))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "get", ""])
def test_other_methods_are_refused(method: str) -> None:
    reason_of(request_with(SOCKET, SOCKET_SHA1, method=method))


@pytest.mark.parametrize(
    ("configured", "signed"),
    [
        ("https://gw.example.com/a", "https://gw.example.com:443/a"),
        ("https://gw.example.com:443/a", "https://gw.example.com/a"),
        ("https://gw.example.com:8443/a", "https://gw.example.com/a"),
        ("http://gw.example.com/a", "http://gw.example.com:80/a"),
        ("wss://gw.example.com/a", "wss://gw.example.com:443/a"),
        ("wss://gw.example.com:443/a", "wss://gw.example.com/a"),
        ("wss://[2001:db8::1]/a", "wss://[2001:db8::1]:443/a"),
        ("wss://[2001:db8::1]:443/a", "wss://[2001:db8::1]/a"),
        ("wss://gw.example.com/a", "wss://gw.example.com/a/"),
    ],
)
def test_the_port_may_be_signed_or_not(configured: str, signed: str) -> None:
    assert_authenticated(upgrade(configured, RequestValidator(TOKEN).compute_signature(signed, {})))


SPELLINGS = {
    "apostrophe": ["Caller=Sull'Adda", "Caller=Sull%27Adda"],
    "apostrophe beside a space": ["To=D'Arcy+O'Hara", "To=D%27Arcy+O%27Hara", "To=D%27Arcy%20O%27Hara"],
    "marks": ["a=(!*~)", "a=%28%21%2A%7E%29", "a=%28%21*%7E%29", "a=%28%21%2A~%29", "a=%28%21%2a%7e%29"],
    "space": ["a=b+c", "a=b%20c"],
    "plus sign": ["From=%2B14155550100", "From=%2b14155550100"],
    "SIP address": [
        "Caller=sip%3A15559876543%40example.com",
        "Caller=sip:15559876543@example.com",
        "Caller=sip%3a15559876543%40example.com",
    ],
    "another alphabet": ["a=Gr%C3%BC%C3%9Fe+%E6%97%A5", "a=Gr%c3%bc%c3%9fe%20%e6%97%a5"],
    "no value": ["a=&b&c=%27", "a=&b&c='"],
}


@pytest.mark.parametrize("port", ["", ":443"])
@pytest.mark.parametrize(
    ("received", "signed"),
    [(received, signed) for group in SPELLINGS.values() for received in group for signed in group],
)
def test_a_query_may_be_signed_in_another_spelling(received: str, signed: str, port: str) -> None:
    twilio = RequestValidator(TOKEN)
    url = f"https://gw.example.com{port}/twilio/voice?{signed}"
    signature = twilio.compute_signature(url, dict(FIELDS))
    assert twilio.validate(f"https://gw.example.com/twilio/voice?{signed}", dict(FIELDS), signature)
    assert_authenticated(voice(signature, url=f"https://gw.example.com/twilio/voice?{received}"))


@pytest.mark.parametrize(
    ("received", "signed"),
    [
        ("a=%26b=c", "a=&b=c"),
        ("a%3Db=c", "a=b=c"),
        ("a=%2B", "a=+"),
        ("a=%252B", "a=%2B"),
        ("a=%23b", "a=#b"),
        ("a=b&c=d", "c=d&a=b"),
        ("a=A", "a=a"),
        ("a='", "a=`"),
    ],
)
def test_a_query_that_decodes_to_something_else_is_refused(received: str, signed: str) -> None:
    for one, other in ((received, signed), (signed, received)):
        signature = RequestValidator(TOKEN).compute_signature(
            f"https://gw.example.com/x?{other}", dict(FIELDS)
        )
        reason_of(voice(signature, url=f"https://gw.example.com/x?{one}"))


@given(st.text(st.sampled_from("ab&=+% '~@:;/?%27%2B%3d%zé()*!"), max_size=40))
def test_every_spelling_decodes_to_the_query_that_was_received(query: str) -> None:
    def decoded(text: str) -> list[tuple[str, str]]:
        return parse_qsl(text, keep_blank_values=True, errors="surrogateescape")

    spellings = respelled_queries(f"https://gw.example.com/x?{query}")
    assert len(spellings) <= 18
    for url in spellings:
        address, _, spelling = url.partition("?")
        assert address == "https://gw.example.com/x"
        assert decoded(spelling) == decoded(query)


def test_a_query_that_is_too_long_is_not_spelt_in_other_ways() -> None:
    assert respelled_queries("https://gw.example.com/x?a='" + 4090 * "b")
    assert not respelled_queries("https://gw.example.com/x?a='" + 4094 * "b")


@pytest.mark.parametrize(
    "signed",
    [
        SOCKET.replace("wss", "https"),
        SOCKET.replace("wss", "ws"),
        SOCKET.replace("gw.", "gw.example.com."),
        SOCKET.replace("com", "com:8443"),
        SOCKET.replace("com", "com:80"),
        SOCKET + "?serviceHost=support.acme",
        SOCKET.replace("tok_abc", "tok_abd"),
        SOCKET.replace("example", "EXAMPLE"),
    ],
)
def test_another_url_is_refused(signed: str) -> None:
    reason_of(upgrade(SOCKET, RequestValidator(TOKEN).compute_signature(signed, {})))


def test_any_of_the_public_urls_will_do() -> None:
    urls = ("wss://gw.example.com/ws/twilio/x", "wss://eu-central.gw.example.com/ws/twilio/x")
    for url in urls:
        signature = RequestValidator(TOKEN).compute_signature(url, {})
        assert_authenticated(request_with(urls, signature, method="GET"))


def test_without_a_public_url_every_request_is_refused() -> None:
    assert "public_url" in reason_of(request_with((), SOCKET_SHA1, method="GET"))


def test_any_of_several_tokens_is_accepted() -> None:
    for token in ("old", "new"):
        signature = RequestValidator(token).compute_signature(WEBHOOK, dict(FIELDS))
        assert_authenticated(voice(signature), account("old", "new"))
        assert_authenticated(voice(signature), account("new", "old"))
        reason_of(voice(signature), account("another"))
        shared = RequestValidator(token).compute_signature(WEBHOOK, dict(FIELDS), HMAC_SHA256)
        assert_authenticated(voice(shared, settings=SHARED), account("another", shared=("new", "old")))


def test_a_token_signs_with_sha1_and_a_shared_key_with_sha256() -> None:
    reason_of(voice(WEBHOOK_SHA256), account(TOKEN, shared=(TOKEN,)))
    reason_of(voice(WEBHOOK_SHA1, settings=SHARED), account(TOKEN, shared=(TOKEN,)))
    assert "no secret" in reason_of(voice(WEBHOOK_SHA256, settings=SHARED), account(TOKEN))
    assert "no secret" in reason_of(voice(), account(shared=(TOKEN,)))


@pytest.mark.parametrize("settings", ["", "key=k", "key=k,algorithm=HMAC_SHA1", "algorithm=hmac_sha1, key=k"])
def test_the_settings_may_say_sha1(settings: str) -> None:
    assert_authenticated(voice(settings=settings))


@pytest.mark.parametrize(
    "settings", ["algorithm=none", "algorithm=", f"{SHARED},{SHARED}", "algorithm=HMAC_MD5"]
)
def test_other_settings_are_refused(settings: str) -> None:
    both = account(TOKEN, shared=(TOKEN,))
    assert "algorithm" in reason_of(voice(settings=settings), both)
    assert "algorithm" in reason_of(voice(WEBHOOK_SHA256, settings=settings), both)


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        " ",
        WEBHOOK_SHA1 + ", " + WEBHOOK_SHA1,
        WEBHOOK_SHA1 + "," + WEBHOOK_SHA1,
        WEBHOOK_SHA1 + "\n",
        "ä" + WEBHOOK_SHA1,
        "\ud800",
        9999 * "A",
    ],
)
def test_what_is_no_signature_is_refused(signature: str | None) -> None:
    assert WEBHOOK_SHA1 not in reason_of(voice(signature))


def test_no_secret_and_no_signature_is_in_the_reason() -> None:
    detail = reason_of(voice("AAAA" + WEBHOOK_SHA1[4:]), account("a-secret-token"))
    assert "a-secret-token" not in detail
    assert "AAAA" not in detail


def test_a_form_that_is_too_long_is_refused_unread() -> None:
    assert "bytes" in reason_of(voice(body=b"a=" + MAX_BODY_BYTES * b"b"))


@pytest.mark.parametrize(
    "fields",
    [
        [("Digits", "1"), ("Digits", "2"), ("Digits", "1")],
        [("SpeechResult", ""), ("From", "")],
        [("SpeechResult", "Grüße 日本 👋"), ("Ü", "ä")],
        [("From", "+1 415 555"), ("SpeechResult", "1+1=2 & 100%")],
        [("lower", "1"), ("Upper", "2"), ("UPPER", "3")],
        [("SpeechResult", "a\r\nb")],
        [],
    ],
)
def test_forms_as_twilio_signs_them(fields: list[tuple[str, str]]) -> None:
    signature = RequestValidator(TOKEN).compute_signature(WEBHOOK, ImmutableMultiDict(fields))
    assert_authenticated(voice(signature, body=urlencode(fields).encode()))
    assert_authenticated(voice(signature, body=urlencode(fields[::-1]).encode()))
    assert_authenticated(
        voice(signature, body=urlencode(fields).encode(), content_type=f"{FORM}; charset=UTF-8")
    )


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]))
@example([("a", "b"), ("a", "b")], "HMAC_SHA1")
def test_any_form_that_twilio_signs_is_accepted(fields: list[tuple[str, str]], algorithm: str) -> None:
    signature = RequestValidator(TOKEN).compute_signature(WEBHOOK, ImmutableMultiDict(fields), algorithm)
    signed = voice(signature, body=urlencode(fields).encode(), settings=f"key=k,algorithm={algorithm}")
    assert_authenticated(signed, account(TOKEN, shared=(TOKEN,)))


@given(st.binary(max_size=60))
def test_any_json_that_twilio_signs_is_accepted(body: bytes) -> None:
    url = f"https://gw.example.com/j?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = RequestValidator(TOKEN).compute_signature(url, {})
    assert_authenticated(document(signature, url=url, body=body))
    reason_of(document(signature, url=url, body=body + b" "))
