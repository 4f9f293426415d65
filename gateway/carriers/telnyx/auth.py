# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's signature (docs/reference/carriers.md §9.2): Ed25519 over the timestamp and the raw body alone."""

from __future__ import annotations

import base64
import re
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.carriers.signatures import (
    AuthenticationFailed,
    SignedRequest,
    base64_bytes,
    check_only_body,
    check_sizes,
    check_time,
    header,
)
from gateway.config import CarrierAccount

SIGNATURE: Final = "telnyx-signature-ed25519"
TIMESTAMP: Final = "telnyx-timestamp"
SIGNATURE_BYTES: Final = 64

_SECONDS: Final = re.compile(r"[0-9]{1,12}")


def authenticate(account: CarrierAccount, request: SignedRequest) -> None:
    """Raise AuthenticationFailed unless the request has a recent signature of one of the account's public
    keys.
    """
    if request.is_upgrade:
        # Telnyx signs no upgrade (docs/reference/carriers.md §3.1), but it signs GETs. Their body is empty
        # like an upgrade's, so the signature of any GET would fit.
        raise AuthenticationFailed("Telnyx signs no upgrade")
    check_sizes(request)
    check_only_body(request)
    timestamp = header(request, TIMESTAMP)
    if not _SECONDS.fullmatch(timestamp):
        raise AuthenticationFailed(f"the {TIMESTAMP} header is not a number of seconds, or was sent twice")
    signature = base64_bytes(header(request, SIGNATURE), f"the {SIGNATURE} header")
    if len(signature) != SIGNATURE_BYTES:
        raise AuthenticationFailed(f"the {SIGNATURE} header does not hold {SIGNATURE_BYTES} bytes")
    check_time(int(timestamp), request.now)
    if not account.public_keys:
        raise AuthenticationFailed("no public key is configured")
    message = timestamp.encode() + b"|" + request.body
    if not any(_is_signed_by(key, signature, message) for key in account.public_keys):
        raise AuthenticationFailed("the signature is not this account's for this body and time")


def _is_signed_by(public_key: str, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True
