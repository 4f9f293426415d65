# SPDX-License-Identifier: BSD-2-Clause
"""Whatever comes, a proof says "not proven" and nothing else; and forms are read in one way only."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.carriers.daily.auth import authenticate_dialin
from gateway.carriers.registry import CARRIERS
from gateway.carriers.signatures import (
    MAX_FIELDS,
    MAX_URL_CHARS,
    AuthenticationFailed,
    SignedRequest,
    read_form,
)
from gateway.carriers.whatsapp.auth import authenticate_event
from gateway.config import CarrierAccount

FORM = "application/x-www-form-urlencoded"
KEY = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
SECRETS = ("a-very-secret-token", "another-secret-token")

WHOLE: dict[str, dict[str, Any]] = {
    "twilio": {"auth_tokens": SECRETS, "signing_keys": SECRETS},
    "telnyx": {"public_keys": [KEY]},
    "plivo": {"auth_tokens": SECRETS},
    "exotel": {"auth_id": "key", "auth_tokens": SECRETS, "allow": ["192.0.2.0/24", "2001:db8::/32"]},
}
ACCOUNTS = {
    carrier: CarrierAccount.model_validate({"carrier": carrier, **WHOLE[carrier]}) for carrier in WHOLE
}


def authenticate(carrier: str, account: CarrierAccount, signed: SignedRequest) -> None:
    checked = CARRIERS[carrier].authenticate
    assert checked is not None
    checked(account, signed)


# What a proof looks at comes often; anything may be in it, lone surrogates too.
ANYTHING = st.text(st.characters(), max_size=40) | st.text("abcAZ09+/=,.:;%&? ", max_size=90)
NAMES = st.sampled_from(
    [
        "authorization",
        "content-type",
        "telnyx-signature-ed25519",
        "telnyx-timestamp",
        "upgrade",
        "x-plivo-signature-ma-v3",
        "x-plivo-signature-v3",
        "x-plivo-signature-v3-nonce",
        "x-twilio-signature",
        "x-twilio-webhooks-signature-settings",
    ]
)
VALUES = ANYTHING | st.sampled_from(
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
URLS = st.lists(
    ANYTHING
    | st.sampled_from(["https://", "wss://h:99999/", "wss://[/", "https://h/?bodySHA256=0&bodySHA256"])
    | ANYTHING.map(lambda text: f"https://gw.example.com/{text}")
    | ANYTHING.map(lambda text: f"wss://gw.example.com/?bodySHA256={text}"),
    max_size=3,
)
BODIES = st.binary(max_size=60) | ANYTHING.map(lambda text: text.encode("utf-8", "replace"))
REQUESTS = st.builds(
    SignedRequest,
    method=st.sampled_from(["GET", "POST", "PUT", ""]) | ANYTHING,
    urls=URLS.map(tuple),
    headers=st.dictionaries(NAMES | ANYTHING, VALUES, max_size=8),
    body=BODIES,
    address=ANYTHING | st.sampled_from(["198.51.100.1", "::1", ""]),
    now=st.floats() | st.just(1_756_000_000.0),
)


@pytest.mark.parametrize("carrier", ACCOUNTS)
@given(REQUESTS)
def test_garbage_is_not_proven(carrier: str, signed: SignedRequest) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        authenticate(carrier, ACCOUNTS[carrier], signed)
    assert caught.value.reason.isprintable()
    assert not any(secret in caught.value.reason for secret in SECRETS)


@given(VALUES | st.none(), VALUES | st.none(), BODIES, st.floats() | st.just(1_756_000_000.0))
def test_garbage_is_not_proven_to_be_dailys_or_metas(
    one: str | None, other: str | None, raw: bytes, now: float
) -> None:
    with pytest.raises(AuthenticationFailed):
        authenticate_dialin([SecretStr(KEY)], one, other, raw, now)
    with pytest.raises(AuthenticationFailed):
        authenticate_event([SecretStr(KEY)], one if one is None else f"sha256={one}", raw)


@given(ANYTHING | st.sampled_from([FORM, f"{FORM};charset=x"]), BODIES)
def test_garbage_is_no_form_or_a_form(content_type: str, body: bytes) -> None:
    try:
        fields = read_form(content_type, body)
    except AuthenticationFailed:
        return
    assert read_form(FORM, urlencode(fields).encode()) == fields


def test_there_is_a_proof_for_every_carrier_with_accounts() -> None:
    assert set(CARRIERS) == set(ACCOUNTS)


@pytest.mark.parametrize("carrier", ACCOUNTS)
def test_a_url_that_is_too_long_is_refused(carrier: str) -> None:
    long = SignedRequest("POST", ("https://h/" + MAX_URL_CHARS * "a",), {}, b"", "198.51.100.1", 0.0)
    with pytest.raises(AuthenticationFailed, match="URL"):
        authenticate(carrier, ACCOUNTS[carrier], long)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", []),
        (b"a=1&b=2&a=1", [("a", "1"), ("b", "2"), ("a", "1")]),
        (b"a=&=b", [("a", ""), ("", "b")]),
        (b"a=1+1&b=1%2B1&c=%20", [("a", "1 1"), ("b", "1+1"), ("c", " ")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a=1;b=2", [("a", "1;b=2")]),
        (b"a=%C3%BC%f0%9f%91%8b", [("a", "ü👋")]),
    ],
)
def test_forms_are_read(body: bytes, fields: list[tuple[str, str]]) -> None:
    assert read_form(FORM, body) == fields


@pytest.mark.parametrize(
    "content_type", [FORM, FORM.upper(), f"{FORM};charset=UTF-8", f'{FORM}; charset="utf-8"']
)
def test_a_form_says_that_it_is_one(content_type: str) -> None:
    assert read_form(content_type, b"a=1") == [("a", "1")]


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data; boundary=x",
        f"{FORM}, {FORM}",
        f"{FORM}; charset=latin-1",
        f"{FORM}; charset=utf-8; charset=latin-1",
        f"{FORM}; charset=utf-8, text/plain",
        "application/x-www-form-urlencodedx",
    ],
)
def test_anything_else_is_no_form(content_type: str) -> None:
    with pytest.raises(AuthenticationFailed):
        read_form(content_type, b"a=1")


@pytest.mark.parametrize(
    "body",
    [
        b"a",
        b"a=1&",
        b"&a=1",
        b"a=1&&b=2",
        b"a=%",
        b"a=%4",
        b"a=%zz",
        b"a=%ff",
        b"a=%C3",
        b"a=%ED%A0%80",
        "a=ü".encode(),
        b"a=\xff",
        b"a= ",
        b"a=1\r\nb=2",
        b"a=\0",
        b"&".join([b"a=1"] * (MAX_FIELDS + 1)),
    ],
)
def test_a_malformed_form_is_not_read(body: bytes) -> None:
    with pytest.raises(AuthenticationFailed, match="form"):
        read_form(FORM, body)
