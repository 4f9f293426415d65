# SPDX-License-Identifier: BSD-2-Clause
"""The carriers' proofs: how each shows that a webhook or an upgrade is its own (carriers.md §9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gateway.carriers import exotel_proof, plivo_proof, telnyx_proof, twilio_proof
from gateway.carriers.shared_proof import NotProven, Signed, read_form
from gateway.config import CarrierAccount

__all__ = ["PROOFS", "NotProven", "Proof", "Signed", "read_form"]

Proof = Callable[[CarrierAccount, Signed], None]
"""Raises NotProven, and nothing else, unless it is the account's."""

PROOFS: Final[Mapping[str, Proof]] = MappingProxyType(
    {
        "twilio": twilio_proof.prove,
        "telnyx": telnyx_proof.prove,
        "plivo": plivo_proof.prove,
        "exotel": exotel_proof.prove,
    }
)
