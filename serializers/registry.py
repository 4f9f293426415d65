# SPDX-License-Identifier: BSD-2-Clause
"""All dialects by carrier. A new dialect is its module and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from serializers import exotel, plivo, telnyx, twilio
from serializers.dialect import Dialect

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "twilio": twilio.DIALECT,
        "telnyx": telnyx.DIALECT,
        "plivo": plivo.DIALECT,
        "exotel": exotel.DIALECT,
    }
)
