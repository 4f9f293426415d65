# SPDX-License-Identifier: BSD-2-Clause
"""Twilio (docs/reference/carriers.md §2)."""

from gateway.carriers.carrier import Carrier, CarrierProfile
from gateway.carriers.twilio.auth import authenticate
from gateway.carriers.twilio.callbacks import read_callback
from gateway.carriers.twilio.rest import TwilioRest
from serializers.twilio import DIALECT
from texml.twilio import WRITER

CARRIER = Carrier(
    name="twilio",
    profile=CarrierProfile(
        joins_calls=True,
        signs_upgrades=True,
        reconnects=False,
        keeps_query=False,
        requests_next_document=True,
        sends_numbers=False,
        bots_read_parameters=True,
    ),
    dialect=DIALECT,
    writer=WRITER,
    authenticate=authenticate,
    rest_class=TwilioRest,
    read_callback=read_callback,
)
