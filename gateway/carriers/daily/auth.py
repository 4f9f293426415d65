# SPDX-License-Identifier: BSD-2-Clause
"""Daily's signature of a dial-in webhook (docs/reference/carriers.md §6.3, §9.4): HMAC over timestamp and raw
body.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from gateway.carriers.signatures import (
    AuthenticationFailed,
    check_body_size,
    check_time,
    header_text,
    hmac_base64,
    matches,
    secret_bytes,
)

TIMESTAMP: Final = "x-pinless-timestamp"
SIGNATURE: Final = "x-pinless-signature"

_NUMBER: Final = re.compile(r"[0-9]{1,16}")
_MIN_MS: Final = 100_000_000_000
"""A larger timestamp is in milliseconds (from 1973 on); in seconds it would lie in the year 5138."""


def authenticate_dialin(
    secrets: Sequence[SecretStr], timestamp: str | None, signature: str | None, raw: bytes, now: float
) -> None:
    """Raise AuthenticationFailed unless one of the secrets signed the body within the last five minutes.

    `secrets`: in base64, as Daily stores them. `timestamp` and `signature`: the headers' values, None if
    missing. `raw`: the body as received, since JSON that is encoded again may differ. `now`: Unix seconds.
    """
    check_body_size(raw)
    stamp, received = header_text(timestamp, TIMESTAMP), header_text(signature, SIGNATURE)
    if not _NUMBER.fullmatch(stamp):
        raise AuthenticationFailed(f"the {TIMESTAMP} header is not a number, or was sent twice")
    # Seconds in Daily's samples, milliseconds on live calls. The header's text is signed in either case.
    check_time(int(stamp) / 1000 if int(stamp) >= _MIN_MS else int(stamp), now)
    message = stamp.encode() + b"." + raw
    keys = [base64.b64decode(secret) for secret in secret_bytes(secrets)]
    if not matches([received], [hmac_base64(key, message, "sha256") for key in keys]):
        raise AuthenticationFailed("the signature is not of a configured secret for this body and time")
