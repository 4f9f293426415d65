# SPDX-License-Identifier: BSD-2-Clause
"""The carriers' proofs: how each shows that a webhook or an upgrade is its own (docs/reference/carriers.md
§9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gateway.carriers.exotel.auth import authenticate as authenticate_exotel
from gateway.carriers.plivo.auth import authenticate as authenticate_plivo
from gateway.carriers.signatures import AuthenticationFailed, SignedRequest, read_form
from gateway.carriers.telnyx.auth import authenticate as authenticate_telnyx
from gateway.carriers.twilio.auth import authenticate as authenticate_twilio
from gateway.config import CarrierAccount

__all__ = ["AUTHENTICATORS", "AuthenticationFailed", "Authenticator", "SignedRequest", "read_form"]

Authenticator = Callable[[CarrierAccount, SignedRequest], None]
"""Raises AuthenticationFailed, and nothing else, unless it is the account's."""

AUTHENTICATORS: Final[Mapping[str, Authenticator]] = MappingProxyType(
    {
        "twilio": authenticate_twilio,
        "telnyx": authenticate_telnyx,
        "plivo": authenticate_plivo,
        "exotel": authenticate_exotel,
    }
)
