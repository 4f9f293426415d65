# SPDX-License-Identifier: BSD-2-Clause
"""Daily's signature on a dial-in webhook (docs/reference/carriers.md §6.3, §9.4): HMAC over a timestamp and
the raw body.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from gateway.carriers.signatures import (
    MAX_BODY_BYTES,
    REPLAY_WINDOW_S,
    AuthenticationFailed,
    header_text,
    hmac_base64,
    matches,
    secret_bytes,
)

TIMESTAMP: Final = "x-pinless-timestamp"
SIGNATURE: Final = "x-pinless-signature"

_NUMBER: Final = re.compile(r"[0-9]{1,16}")
_LEAST_MS: Final = 100_000_000_000
"""Milliseconds from here on, which is 1973; seconds would be in the year 5138."""


def authenticate_dialin(
    secrets: Sequence[SecretStr], timestamp: str | None, signature: str | None, raw: bytes, now: float
) -> None:
    """Raises AuthenticationFailed unless one of the secrets signed these bytes in these five minutes.

    `secrets`: base64, as Daily has them. `timestamp` and `signature`: the headers as they came, None for a
    missing one. `raw`: the body as it came; written anew it is another. `now`: Unix seconds.
    """
    if len(raw) > MAX_BODY_BYTES:
        raise AuthenticationFailed(f"the body has more than {MAX_BODY_BYTES} bytes")
    stamp, given = header_text(timestamp, TIMESTAMP), header_text(signature, SIGNATURE)
    if not _NUMBER.fullmatch(stamp):
        raise AuthenticationFailed(f"the {TIMESTAMP} header is not a number, or was sent twice")
    # Seconds in the samples, milliseconds on live calls. The signature is over the text, whichever it is.
    at = int(stamp) / 1000 if int(stamp) >= _LEAST_MS else int(stamp)
    if not abs(now - at) <= REPLAY_WINDOW_S:
        raise AuthenticationFailed(f"the timestamp is more than {REPLAY_WINDOW_S:g} s from now")
    message = stamp.encode() + b"." + raw
    keys = [base64.b64decode(secret) for secret in secret_bytes(secrets)]
    if not matches([given], [hmac_base64(key, message, "sha256") for key in keys]):
        raise AuthenticationFailed("the signature is not of a configured secret for this body and time")
