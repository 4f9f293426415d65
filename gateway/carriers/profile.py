# SPDX-License-Identifier: BSD-2-Clause
"""How each carrier opens the socket of a call: what of a URL reaches us, and what it does when one breaks.

For whoever writes stream URLs or judges those that come (docs/reference/carriers.md §1); what is said on
the socket is the dialect's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class CarrierProfile:
    """One carrier's.

    `signs`: whether it signs the upgrade, so that one without its signature is not its own.
    `reconnects`: whether it opens a socket again for a call whose first one broke, or did not open.
    `keeps_query`: whether the query of the stream's URL reaches us for certain.
    `parameters_in_query`: whether that query is the only place for custom parameters.
    `asks_again`: whether a document can have it ask for another one when the stream is over.
    `tells_numbers`: whether `start` says who calls whom.
    """

    signs: bool
    reconnects: bool
    keeps_query: bool
    requests_next_document: bool
    sends_numbers: bool
    parameters_in_query: bool = False


PROFILES: Final[Mapping[str, CarrierProfile]] = MappingProxyType(
    {
        "twilio": CarrierProfile(
            signs=True, reconnects=False, keeps_query=False, requests_next_document=True, sends_numbers=False
        ),
        "telnyx": CarrierProfile(
            signs=False, reconnects=True, keeps_query=True, requests_next_document=True, sends_numbers=True
        ),
        "plivo": CarrierProfile(
            signs=True, reconnects=True, keeps_query=True, requests_next_document=True, sends_numbers=False
        ),
        # Its query is delivered to some and stripped for others, so nothing that decides stands in it (§5.1).
        "exotel": CarrierProfile(
            signs=False,
            reconnects=False,
            keeps_query=False,
            requests_next_document=False,  # its flow may, and what it asks then does not say that it is again
            sends_numbers=True,
            parameters_in_query=True,
        ),
    }
)
