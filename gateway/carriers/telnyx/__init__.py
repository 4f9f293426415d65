# SPDX-License-Identifier: BSD-2-Clause
"""Telnyx (docs/reference/carriers.md §3)."""

from gateway.carriers.carrier import Carrier, CarrierProfile
from gateway.carriers.signatures import FORM, JSON
from gateway.carriers.telnyx.auth import SIGNATURE, authenticate
from gateway.carriers.telnyx.callbacks import read_callback
from gateway.carriers.telnyx.rest import TelnyxRest
from serializers.telnyx import DIALECT
from texml.telnyx import WRITER

CARRIER = Carrier(
    name="telnyx",
    profile=CarrierProfile(
        signs_upgrades=False,
        reconnects=True,
        keeps_query=True,
        requests_next_document=True,
        sends_numbers=True,
        bots_read_parameters=False,
        repeats_parameters=True,  # §3.2
    ),
    dialect=DIALECT,
    writer=WRITER,
    authenticate=authenticate,
    rest_class=TelnyxRest,
    read_callback=read_callback,
    form_types=frozenset({FORM, JSON}),  # its pages show the callbacks of TeXML as JSON (§3.4)
    body_signature=SIGNATURE,
)
