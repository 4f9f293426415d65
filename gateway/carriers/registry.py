# SPDX-License-Identifier: BSD-2-Clause
"""Which carriers have a REST that calls out and controls calls, by the name in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import aiohttp

from gateway.carriers.exotel.rest import ExotelRest
from gateway.carriers.plivo.rest import PlivoRest
from gateway.carriers.rest_interface import CarrierRest
from gateway.carriers.telnyx.rest import TelnyxRest
from gateway.carriers.twilio.rest import TwilioRest
from gateway.config import CarrierAccount

RESTS: Mapping[str, Callable[[CarrierAccount, aiohttp.ClientSession], CarrierRest]] = MappingProxyType(
    {"twilio": TwilioRest, "telnyx": TelnyxRest, "plivo": PlivoRest, "exotel": ExotelRest}
)
"""Each raises CredentialsMissing for an account that has nothing to call the carrier's REST with."""
