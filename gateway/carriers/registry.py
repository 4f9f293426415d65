# SPDX-License-Identifier: BSD-2-Clause
"""All carriers by name. A new carrier is its folder and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.carriers import exotel, plivo, telnyx, twilio
from gateway.carriers.carrier import Carrier

CARRIERS: Final[Mapping[str, Carrier]] = MappingProxyType(
    {
        carrier.name: carrier
        for carrier in (
            twilio.CARRIER,
            telnyx.CARRIER,
            plivo.CARRIER,
            exotel.CARRIER,
        )
    }
)

WITH_DOCUMENTS: Final = tuple(name for name, carrier in CARRIERS.items() if carrier.writer is not None)
"""The carriers that fetch documents."""
