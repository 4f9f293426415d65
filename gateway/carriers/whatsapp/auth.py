# SPDX-License-Identifier: BSD-2-Clause
"""Meta's signature on a WhatsApp event (docs/reference/carriers.md §7, §9.4): HMAC over the raw body, and
no time.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from gateway.carriers.signatures import (
    MAX_BODY_BYTES,
    AuthenticationFailed,
    header_text,
    matches,
    secret_bytes,
)

SIGNATURE: Final = "x-hub-signature-256"
PREFIX: Final = "sha256="


def authenticate_event(secrets: Sequence[SecretStr], signature: str | None, raw: bytes) -> None:
    """Raises AuthenticationFailed unless one of the app's secrets signed these bytes.

    `signature`: the header as it came, None where it is missing. `raw`: the body as it came.
    """
    if len(raw) > MAX_BODY_BYTES:
        raise AuthenticationFailed(f"the body has more than {MAX_BODY_BYTES} bytes")
    given = header_text(signature, SIGNATURE)
    if not given.startswith(PREFIX):
        raise AuthenticationFailed(f"the {SIGNATURE} header does not begin with {PREFIX}")
    keys = secret_bytes(secrets)
    if not matches([given], [PREFIX + hmac.digest(key, raw, "sha256").hex() for key in keys]):
        raise AuthenticationFailed("the signature is not of a configured secret for this body")
