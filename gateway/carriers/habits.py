# SPDX-License-Identifier: BSD-2-Clause
"""How each carrier opens the socket of a call: what of a URL reaches us, and what it does when one breaks.

For whoever writes stream URLs or judges those that come (carriers.md §1); what is said on the socket is the
dialect's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class SocketHabits:
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
    asks_again: bool
    tells_numbers: bool
    parameters_in_query: bool = False


HABITS: Final[Mapping[str, SocketHabits]] = MappingProxyType(
    {
        "twilio": SocketHabits(
            signs=True, reconnects=False, keeps_query=False, asks_again=True, tells_numbers=False
        ),
        "telnyx": SocketHabits(
            signs=False, reconnects=True, keeps_query=True, asks_again=True, tells_numbers=True
        ),
        "plivo": SocketHabits(
            signs=True, reconnects=True, keeps_query=True, asks_again=True, tells_numbers=False
        ),
        # Its query is delivered to some and stripped for others, so nothing that decides stands in it (§5.1).
        "exotel": SocketHabits(
            signs=False,
            reconnects=False,
            keeps_query=False,
            asks_again=False,  # its flow may, and what it asks then does not say that it is again
            tells_numbers=True,
            parameters_in_query=True,
        ),
    }
)
