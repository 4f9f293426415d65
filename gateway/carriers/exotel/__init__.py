# SPDX-License-Identifier: BSD-2-Clause
"""Exotel (docs/reference/carriers.md §5)."""

from gateway.carriers.carrier import Carrier, CarrierProfile
from gateway.carriers.exotel.auth import authenticate
from gateway.carriers.exotel.callbacks import read_callback
from gateway.carriers.exotel.rest import ExotelRest
from gateway.carriers.signatures import FORM, JSON, MULTIPART_FORM
from serializers.exotel import DIALECT
from texml.exotel import WRITER

CARRIER = Carrier(
    name="exotel",
    profile=CarrierProfile(
        signs_upgrades=False,
        reconnects=False,
        # Some calls arrive without the query (§5.1), so nothing that decides anything may stand in it.
        keeps_query=False,
        # The flow may ask again, but its request does not tell a second time from the first.
        requests_next_document=False,
        sends_numbers=True,
        bots_read_parameters=True,
        parameters_in_query=True,
    ),
    dialect=DIALECT,
    writer=WRITER,
    authenticate=authenticate,
    rest_class=ExotelRest,
    read_callback=read_callback,
    form_types=frozenset({FORM, MULTIPART_FORM, JSON}),
)
