# SPDX-License-Identifier: BSD-2-Clause
"""Signatures as the carriers make them (docs/reference/carriers.md §9), for calls from the command line.

Written beside the gateway's own checks, so that one mistake is not made on both sides.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Fields = Sequence[tuple[str, str]]

ED25519_BYTES = 32


class Signer(Protocol):
    """Proves requests to be a carrier's. `url`: as the carrier requests it."""

    def sign_request(self, url: str, fields: Fields, body: bytes) -> dict[str, str]:
        """Return the headers of a POST with these fields; of a GET if there are none."""

    def sign_upgrade(self, url: str) -> dict[str, str]:
        """Return the headers of a WebSocket upgrade."""


@dataclass(frozen=True, slots=True)
class TwilioSigner:
    """Twilio's signature. `uses_sha256`: the key is a shared key for SHA-256, not an auth token."""

    key: str = field(repr=False)
    uses_sha256: bool = False

    def sign_request(self, url: str, fields: Fields, body: bytes) -> dict[str, str]:
        text = url + "".join(name + value for name, value in sorted(set(fields)))
        if not self.uses_sha256:
            return {"X-Twilio-Signature": _hmac(self.key, text, "sha1")}
        return {
            "X-Twilio-Signature": _hmac(self.key, text, "sha256"),
            "X-Twilio-Webhooks-Signature-Settings": "algorithm=HMAC_SHA256",
        }

    def sign_upgrade(self, url: str) -> dict[str, str]:
        return self.sign_request(url, (), b"")


@dataclass(frozen=True, slots=True)
class PlivoSigner:
    """Plivo's V3 signature, over a nonce of its own each time."""

    token: str = field(repr=False)

    def sign_request(self, url: str, fields: Fields, body: bytes) -> dict[str, str]:
        nonce = secrets.token_hex(10)
        address, _, query = url.partition("?")
        pairs = sorted(parse_qsl(query, keep_blank_values=True))
        text = address
        if pairs or fields:
            text += "?" + "&".join(f"{name}={value}" for name, value in pairs)
        if pairs and fields:
            text += "."
        text += "".join(name + value for name, value in sorted(fields))
        return {
            "X-Plivo-Signature-V3": _hmac(self.token, f"{text}.{nonce}", "sha256"),
            "X-Plivo-Signature-V3-Nonce": nonce,
        }

    def sign_upgrade(self, url: str) -> dict[str, str]:
        return self.sign_request(url, (), b"")


@dataclass(frozen=True, slots=True)
class TelnyxSigner:
    """Telnyx's signature, over the time and the body. It signs no upgrade."""

    key: Ed25519PrivateKey = field(repr=False)

    def sign_request(self, url: str, fields: Fields, body: bytes) -> dict[str, str]:
        now = str(int(time.time()))
        signature = self.key.sign(now.encode() + b"|" + body)
        return {
            "Telnyx-Signature-Ed25519": base64.b64encode(signature).decode(),
            "Telnyx-Timestamp": now,
        }

    def sign_upgrade(self, url: str) -> dict[str, str]:
        return {}


@dataclass(frozen=True, slots=True)
class ExotelSigner:
    """Exotel's credentials, which it sends with every request."""

    user: str
    token: str = field(repr=False)

    def sign_request(self, url: str, fields: Fields, body: bytes) -> dict[str, str]:
        return self.sign_upgrade(url)

    def sign_upgrade(self, url: str) -> dict[str, str]:
        credentials = base64.b64encode(f"{self.user}:{self.token}".encode()).decode()
        return {"Authorization": f"Basic {credentials}"}


def signer_of(carrier: str, secret: str, user: str = "") -> Signer:
    """Return what signs as the carrier does with this secret.

    `user`: of Exotel, unless the secret is USER:TOKEN. Telnyx's secret is a private key of one's own, base64
    of its 32 bytes. Raises ValueError, in words without the secret.
    """
    match carrier:
        case "twilio":
            return TwilioSigner(secret)
        case "plivo":
            return PlivoSigner(secret)
        case "exotel":
            named, colon, token = secret.partition(":")
            return ExotelSigner(named, token) if colon else ExotelSigner(user, secret)
        case "telnyx":
            return TelnyxSigner(_private_key(secret))
    raise ValueError(f"it is not known how {carrier} signs")


def _private_key(text: str) -> Ed25519PrivateKey:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != ED25519_BYTES:
        raise ValueError("Telnyx signs with an Ed25519 key: its private half is base64 of 32 bytes")
    return Ed25519PrivateKey.from_private_bytes(raw)


def _hmac(key: str, text: str, algorithm: str) -> str:
    return base64.b64encode(hmac.digest(key.encode(), text.encode(), algorithm)).decode()


def as_fields(pairs: Iterable[tuple[str, str | None]]) -> Fields:
    """Return the fields that have a value."""
    return tuple((name, value) for name, value in pairs if value is not None)
