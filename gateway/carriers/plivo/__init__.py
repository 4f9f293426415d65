# SPDX-License-Identifier: BSD-2-Clause
"""Plivo (docs/reference/carriers.md §4)."""

from gateway.carriers.carrier import Carrier, CarrierProfile
from gateway.carriers.plivo.auth import authenticate
from gateway.carriers.plivo.callbacks import read_callback
from gateway.carriers.plivo.rest import PlivoRest
from serializers.plivo import DIALECT
from texml.plivo import WRITER

CARRIER = Carrier(
    name="plivo",
    profile=CarrierProfile(
        joins_calls=True,
        signs_upgrades=True,
        reconnects=True,
        keeps_query=True,
        requests_next_document=True,
        sends_numbers=False,
        bots_read_parameters=False,
    ),
    dialect=DIALECT,
    writer=WRITER,
    authenticate=authenticate,
    rest_class=PlivoRest,
    read_callback=read_callback,
    document_paths=("/plivo-xml",),  # as in Pipecat's guide
)
