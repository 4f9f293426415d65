# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's signature: Ed25519 over the timestamp and the raw body, valid for five minutes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.carriers.signatures import AuthenticationFailed, SignedRequest
from gateway.carriers.telnyx.auth import authenticate
from gateway.config import CarrierAccount

# docs/reference/carriers.md §9.2
NOW = 1_756_000_000
BODY = b'{"data":{"event_type":"call.initiated"}}'
SIGNATURE = "NL6HlHfbORxphlyjbWRnUeUAgq3brXvCNh/M/RdVlL3AS32zsr7vemiy2s4PIsIbo+jicu0pFNbt0VzDbGj+BQ=="
PUBLIC_KEY = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
PRIVATE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def telnyx_signs(timestamp: str, body: bytes, key: Ed25519PrivateKey = PRIVATE_KEY) -> str:
    return base64.b64encode(key.sign(timestamp.encode() + b"|" + body)).decode()


def request_with(
    *,
    signature: str | None = SIGNATURE,
    timestamp: str | None = str(NOW),
    body: bytes = BODY,
    now: float = NOW,
    method: str = "POST",
    url: str = "https://gw.example.com/xml/telnyx",
    **more: str,
) -> SignedRequest:
    headers = {"telnyx-signature-ed25519": signature, "telnyx-timestamp": timestamp, **more}
    present = {name: value for name, value in headers.items() if value is not None}
    return SignedRequest(method, (url,) if url else (), present, body, "203.0.113.7", now)


def account(*keys: str) -> CarrierAccount:
    values: dict[str, Any] = {"carrier": "telnyx", "public_keys": keys}
    return CarrierAccount(**values)


def assert_authenticated(signed: SignedRequest, *keys: str) -> None:
    authenticate(account(*(keys or (PUBLIC_KEY,))), signed)


def reason_of(signed: SignedRequest, *keys: str) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        assert_authenticated(signed, *keys)
    return caught.value.reason


def changed_texts(text: str) -> Iterator[str]:
    for index, character in enumerate(text):
        for other in {chr(ord(character) ^ 1), chr(ord(character) ^ 32), *"aZ0/+=| ."} - {character}:
            yield text[:index] + other + text[index + 1 :]


def test_the_documented_signature_is_accepted() -> None:
    assert_authenticated(request_with())
    assert_authenticated(request_with(url=""))  # nothing of the URL is signed
    assert public(PRIVATE_KEY) == PUBLIC_KEY
    assert telnyx_signs(str(NOW), BODY) == SIGNATURE


def test_no_byte_may_change() -> None:
    for signature in changed_texts(SIGNATURE):
        reason_of(request_with(signature=signature))
    for timestamp in changed_texts(str(NOW)):
        reason_of(request_with(timestamp=timestamp))
    for body in changed_texts(BODY.decode()):
        reason_of(request_with(body=body.encode()))
    reason_of(request_with(body=BODY + b" "))
    reason_of(request_with(body=b""))


def test_no_byte_of_the_timestamp_may_change_within_the_window_either() -> None:
    for other in range(NOW - 300, NOW + 301):
        if other != NOW:
            reason_of(request_with(timestamp=str(other)))


@pytest.mark.parametrize("now", [NOW - 300, NOW, NOW + 300])
def test_five_minutes_are_allowed_either_way(now: float) -> None:
    assert_authenticated(request_with(now=now))


@pytest.mark.parametrize("now", [NOW - 300.001, NOW + 300.001, 0.0, NOW * 1000, float("nan"), float("inf")])
def test_what_is_older_or_younger_is_refused(now: float) -> None:
    assert "300 s" in reason_of(request_with(now=now))


@pytest.mark.parametrize("timestamp", ["0" + str(NOW), str(NOW)])
def test_the_timestamp_is_signed_as_it_is_written(timestamp: str) -> None:
    assert_authenticated(request_with(timestamp=timestamp, signature=telnyx_signs(timestamp, BODY)))
    other = {"0" + str(NOW), str(NOW)} - {timestamp}
    reason_of(request_with(timestamp=other.pop(), signature=telnyx_signs(timestamp, BODY)))


@pytest.mark.parametrize(
    "timestamp",
    [
        None,
        "",
        "-1",
        "+1756000000",
        "1756000000.0",
        "1_756_000_000",
        "١٧٥٦٠٠٠٠٠٠",
        20 * "1",
        f"{NOW},{NOW}",
        f"{NOW} ",
    ],
)
def test_what_is_no_timestamp_is_refused(timestamp: str | None) -> None:
    signature = telnyx_signs(timestamp or "", BODY)
    assert "timestamp" in reason_of(request_with(timestamp=timestamp, signature=signature))


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "AAAA",
        "****",
        SIGNATURE[:-2],
        SIGNATURE + "==",
        f"{SIGNATURE},{SIGNATURE}",
        "ä",
        "\ud800",
        9999 * "A",
    ],
)
def test_what_is_no_signature_is_refused(signature: str | None) -> None:
    assert "signature" in reason_of(request_with(signature=signature))


def test_a_signature_has_one_spelling() -> None:
    """The last character before the padding has bits that decode to nothing."""
    assert base64.b64decode(SIGNATURE[:-3] + "R==") == base64.b64decode(SIGNATURE)
    assert "base64" in reason_of(request_with(signature=SIGNATURE[:-3] + "R=="))


def test_any_of_several_keys_is_accepted() -> None:
    assert_authenticated(request_with(), public(OTHER), PUBLIC_KEY)
    assert_authenticated(request_with(), PUBLIC_KEY, public(OTHER))
    assert_authenticated(
        request_with(signature=telnyx_signs(str(NOW), BODY, OTHER)), PUBLIC_KEY, public(OTHER)
    )
    reason_of(request_with(), public(OTHER))


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), 32 * b"\xff", b"\2" + bytes(31)])
def test_a_key_that_is_not_on_the_curve_is_refused(point: bytes) -> None:
    reason_of(request_with(), base64.b64encode(point).decode())


def test_an_account_without_a_key_refuses_every_request() -> None:
    with pytest.raises(AuthenticationFailed, match="no public key"):
        authenticate(account(), request_with())


def test_a_document_that_is_fetched_has_an_empty_body() -> None:
    signature = telnyx_signs(str(NOW), b"")
    assert_authenticated(request_with(method="GET", body=b"", signature=signature))
    assert "GET" in reason_of(request_with(method="GET"))


def test_no_signature_opens_a_socket() -> None:
    """A signed GET has an empty body, as an upgrade has: its signature would fit."""
    signature = telnyx_signs(str(NOW), b"")
    for url in ("wss://gw.example.com/ws/telnyx", "ws://gw.example.com/ws/telnyx"):
        assert "upgrade" in reason_of(request_with(method="GET", body=b"", signature=signature, url=url))
    upgrade = request_with(method="GET", body=b"", signature=signature, url="", upgrade="WebSocket")
    assert "upgrade" in reason_of(upgrade)
