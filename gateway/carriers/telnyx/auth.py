# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx's signature (docs/reference/carriers.md §9.2): Ed25519 over the timestamp and the raw body, and
nothing else.
"""

from __future__ import annotations

import base64
import re
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.carriers.signatures import (
    REPLAY_WINDOW_S,
    AuthenticationFailed,
    SignedRequest,
    base64_bytes,
    check_only_body,
    check_sizes,
    header,
)
from gateway.config import CarrierAccount

SIGNATURE: Final = "telnyx-signature-ed25519"
TIMESTAMP: Final = "telnyx-timestamp"
SIGNATURE_BYTES: Final = 64

_SECONDS: Final = re.compile(r"[0-9]{1,12}")


def authenticate(account: CarrierAccount, signed: SignedRequest) -> None:
    """Raises AuthenticationFailed unless one of the account's public keys fits a signature of these five
    minutes.
    """
    if signed.is_upgrade:
        # docs/reference/carriers.md §3.1. A signed GET has an empty body, so its signature would fit any
        # upgrade.
        raise AuthenticationFailed("Telnyx signs no upgrade")
    check_sizes(signed)
    check_only_body(signed)
    timestamp = header(signed, TIMESTAMP)
    if not _SECONDS.fullmatch(timestamp):
        raise AuthenticationFailed(f"the {TIMESTAMP} header is not a number of seconds, or was sent twice")
    signature = base64_bytes(header(signed, SIGNATURE), f"the {SIGNATURE} header")
    if len(signature) != SIGNATURE_BYTES:
        raise AuthenticationFailed(f"the {SIGNATURE} header does not hold {SIGNATURE_BYTES} bytes")
    if not abs(signed.now - int(timestamp)) <= REPLAY_WINDOW_S:
        raise AuthenticationFailed(f"the timestamp is more than {REPLAY_WINDOW_S:g} s from now")
    if not account.public_keys:
        raise AuthenticationFailed("no public key is configured")
    message = timestamp.encode() + b"|" + signed.body
    if not any(_fits(key, signature, message) for key in account.public_keys):
        raise AuthenticationFailed("the signature is not this account's for this body and time")


def _fits(public_key: str, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True
