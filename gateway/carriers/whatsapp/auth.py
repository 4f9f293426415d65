# SPDX-License-Identifier: BSD-2-Clause
"""Meta's signature of a WhatsApp event (docs/reference/carriers.md §7, §9.4): HMAC over the raw body."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from gateway.carriers.signatures import (
    AuthenticationFailed,
    check_body_size,
    header_text,
    matches,
    secret_bytes,
)

SIGNATURE: Final = "x-hub-signature-256"
PREFIX: Final = "sha256="


def authenticate_event(secrets: Sequence[SecretStr], signature: str | None, raw: bytes) -> None:
    """Raise AuthenticationFailed unless one of the app's secrets signed the body.

    `signature`: the header's value, None if it is missing. `raw`: the body as received.
    """
    check_body_size(raw)
    received = header_text(signature, SIGNATURE)
    if not received.startswith(PREFIX):
        raise AuthenticationFailed(f"the {SIGNATURE} header does not begin with {PREFIX}")
    keys = secret_bytes(secrets)
    if not matches([received], [PREFIX + hmac.digest(key, raw, "sha256").hex() for key in keys]):
        raise AuthenticationFailed("the signature is not of a configured secret for this body")
