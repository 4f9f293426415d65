# SPDX-License-Identifier: BSD-2-Clause
"""Authentication of Exotel: credentials from the URL, or its IP address."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gateway.carriers.exotel.auth import authenticate
from gateway.carriers.signatures import AuthenticationFailed, SignedRequest
from gateway.config import CarrierAccount

SOCKET = ("wss://gw.example.com/ws/exotel/support.acme",)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def account(**values: Any) -> CarrierAccount:
    return CarrierAccount(**{"carrier": "exotel", **values})


WITH_TOKEN = account(auth_id="key", auth_tokens=["token"])


def request_with(authorization: str | None = None, address: str = "203.0.113.7") -> SignedRequest:
    headers = {} if authorization is None else {"authorization": authorization}
    return SignedRequest("GET", SOCKET, headers, b"", address, 0.0)


def assert_authenticated(signed: SignedRequest, of: CarrierAccount = WITH_TOKEN) -> None:
    authenticate(of, signed)


def reason_of(signed: SignedRequest, of: CarrierAccount = WITH_TOKEN) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        assert_authenticated(signed, of)
    return caught.value.reason


@pytest.mark.parametrize("scheme", ["Basic ", "basic ", "BASIC  "])
def test_the_credentials_are_accepted(scheme: str) -> None:
    assert_authenticated(request_with(scheme + basic("key:token").removeprefix("Basic ")))


def test_no_byte_of_the_credentials_may_change() -> None:
    encoded = basic("key:token")
    for index in range(len("Basic "), len(encoded)):
        for other in {chr(ord(encoded[index]) ^ 1), *"aZ0=+/ ,"} - {encoded[index]}:
            reason_of(request_with(encoded[:index] + other + encoded[index + 1 :]))


@pytest.mark.parametrize(
    "text",
    ["", ":", "key", "key:", ":token", "token", "other:token", "key:token:", "key:token ", "key:tokem"],
)
def test_other_credentials_are_refused(text: str) -> None:
    reason_of(request_with(basic(text)))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Bearer token",
        "Basic ****",
        "Basic /w==",
        "Basic a2V5OnRva2Vu=",
        f"{basic('key:token')}, {basic('key:token')}",
        f"{basic('key:token')},{basic('key:token')}",
        "Basic ä",
        "\ud800",
        "Basic " + 9999 * "A",
    ],
)
def test_what_is_no_basic_header_is_refused(authorization: str | None) -> None:
    assert "authorization" in reason_of(request_with(authorization)) or authorization == "Basic /w=="


def test_any_of_several_tokens_is_accepted() -> None:
    both = account(auth_id="key", auth_tokens=["old", "new"])
    assert_authenticated(request_with(basic("key:old")), both)
    assert_authenticated(request_with(basic("key:new")), both)
    reason_of(request_with(basic("key:token")), both)


def test_the_user_is_the_api_key_or_else_the_account_or_else_any() -> None:
    assert_authenticated(
        request_with(basic("key:token")), account(auth_id="key", account="sid", auth_tokens=["token"])
    )
    reason_of(request_with(basic("sid:token")), account(auth_id="key", account="sid", auth_tokens=["token"]))
    assert_authenticated(request_with(basic("sid:token")), account(account="sid", auth_tokens=["token"]))
    reason_of(request_with(basic("anybody:token")), account(account="sid", auth_tokens=["token"]))
    assert_authenticated(request_with(basic("anybody:token")), account(auth_tokens=["token"]))
    reason_of(request_with(basic("anybody:other")), account(auth_tokens=["token"]))


def test_a_token_may_hold_colons() -> None:
    assert_authenticated(request_with(basic("key:to:ken")), account(auth_id="key", auth_tokens=["to:ken"]))


def test_no_secret_is_in_the_reason() -> None:
    detail = reason_of(request_with(basic("somebody:something")))
    assert not any(secret in detail for secret in ("somebody", "something", "key", "token"))


@pytest.mark.parametrize(
    ("allowed", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.0/24", "203.0.113.255"),
        ("203.0.113.0/24", "::ffff:203.0.113.9"),
        ("::ffff:203.0.113.0/120", "203.0.113.9"),
        ("::ffff:203.0.113.0/120", "::ffff:203.0.113.9"),
        ("2001:db8::/32", "2001:db8::1"),
        ("2001:db8::1", "2001:0db8:0:0::1"),
        ("fe80::/10", "fe80::1%eth0"),
    ],
)
def test_an_allowed_address_needs_no_credentials(allowed: str, address: str) -> None:
    assert_authenticated(request_with(address=address), account(allow=["192.0.2.0/24", allowed]))


@pytest.mark.parametrize(
    "address",
    [
        "203.0.114.1",
        "::ffff:203.0.114.1",
        "::203.0.113.7",
        "2001:db8::1",
        "",
        "unix",
        "203.0.113.7:443",
        "\ud800",
    ],
)
def test_another_address_is_refused(address: str) -> None:
    assert "address" in reason_of(request_with(address=address), account(allow=["203.0.113.0/24"]))


def test_address_or_credentials_will_do() -> None:
    both = account(auth_id="key", auth_tokens=["token"], allow=["203.0.113.0/24"])
    assert_authenticated(request_with(address="203.0.113.7"), both)
    assert_authenticated(request_with(basic("key:other"), address="203.0.113.7"), both)
    assert_authenticated(request_with(basic("key:token"), address="198.51.100.1"), both)
    reason_of(request_with(basic("key:other"), address="198.51.100.1"), both)


def test_an_account_without_token_and_addresses_refuses_every_request() -> None:
    reason_of(request_with(basic(":")), account())
    reason_of(request_with(), account())
