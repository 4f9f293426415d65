# SPDX-License-Identifier: BSD-2-Clause
"""Calls from the command line are signed as the carriers sign (docs/reference/carriers.md §9)."""

from __future__ import annotations

import base64
import time
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.carriers.registry import CARRIERS
from gateway.carriers.signatures import FORM, AuthenticationFailed, SignedRequest
from gateway.config import CarrierAccount
from gateway.simulator.call_signing import Signer, TwilioSigner, signer_of

KEY = Ed25519PrivateKey.generate()
PRIVATE = base64.b64encode(KEY.private_bytes_raw()).decode()
PUBLIC = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()

SECRETS = {"twilio": "token-1", "plivo": "token-2", "exotel": "key:token-3", "telnyx": PRIVATE}
ACCOUNTS = {
    "twilio": {"auth_tokens": ["token-1"]},
    "plivo": {"auth_tokens": ["token-2"]},
    "exotel": {"auth_id": "key", "auth_tokens": ["token-3"]},
    "telnyx": {"public_keys": [PUBLIC]},
}
FIELDS = (("From", "+14155550100"), ("To", "+14155550199"), ("Städte", "Zürich & Köln"))


def request(url: str, headers: dict[str, str], fields: tuple[tuple[str, str], ...] = ()) -> SignedRequest:
    body = urlencode(fields).encode()
    lower = {name.lower(): value for name, value in headers.items()}
    return SignedRequest(
        method="POST" if fields else "GET",
        urls=(url,),
        headers=lower | ({"content-type": FORM} if fields else {}),
        body=body,
        address="203.0.113.7",
        now=time.time(),
    )


def account(carrier: str, **secrets: object) -> CarrierAccount:
    return CarrierAccount.model_validate({"carrier": carrier, **(secrets or ACCOUNTS[carrier])})


def check(carrier: str, signed: SignedRequest, **secrets: object) -> None:
    authenticate = CARRIERS[carrier].authenticate
    assert authenticate is not None
    authenticate(account(carrier, **secrets), signed)


@pytest.mark.parametrize("url", ["https://h.example/xml", "https://h.example/xml?agent=a&org=o&x=%C3%A4+b"])
@pytest.mark.parametrize("carrier", SECRETS)
def test_a_request_for_a_document(carrier: str, url: str) -> None:
    signer = signer_of(carrier, SECRETS[carrier])
    headers = signer.sign_request(url, FIELDS, urlencode(FIELDS).encode())
    check(carrier, request(url, headers, FIELDS))
    if carrier != "exotel":  # whose credentials cover nothing
        with pytest.raises(AuthenticationFailed):
            check(carrier, request(url, headers, (*FIELDS, ("To", "+1"))))


@pytest.mark.parametrize("url", ["wss://h.example/ws/twilio", "wss://h.example/ws/plivo?serviceHost=a.o"])
@pytest.mark.parametrize("carrier", ["twilio", "plivo", "exotel"])
def test_a_stream(carrier: str, url: str) -> None:
    check(carrier, request(url, signer_of(carrier, SECRETS[carrier]).sign_upgrade(url)))


def test_telnyx_signs_no_stream() -> None:
    assert signer_of("telnyx", PRIVATE).sign_upgrade("wss://h.example/ws/telnyx") == {}


def test_twilios_shared_key_signs_with_sha_256() -> None:
    signer: Signer = TwilioSigner("shared", uses_sha256=True)
    headers = signer.sign_request("https://h.example/xml", FIELDS, b"")
    check("twilio", request("https://h.example/xml", headers, FIELDS), signing_keys=["shared"])


def test_a_secret_is_not_in_the_signers_text() -> None:
    for carrier, secret in SECRETS.items():
        assert secret.rpartition(":")[2] not in repr(signer_of(carrier, secret))


@pytest.mark.parametrize("secret", ["no key", "c2hvcnQ="])
def test_a_private_key_that_is_none(secret: str) -> None:
    with pytest.raises(ValueError, match="base64 of 32 bytes") as refused:
        signer_of("telnyx", secret)
    assert secret not in str(refused.value)
