# SPDX-License-Identifier: BSD-2-Clause
"""What every carrier must satisfy, run for each `Carrier` record."""

from __future__ import annotations

from gateway.carriers.registry import CARRIERS
from gateway.config.organization_settings import CarrierName
from serializers.registry import DIALECTS
from texml.registry import WRITERS


def test_every_carrier_is_in_each_registry() -> None:
    assert {name: carrier.dialect for name, carrier in CARRIERS.items()} == dict(DIALECTS)
    assert {name: each.writer for name, each in CARRIERS.items() if each.writer is not None} == dict(WRITERS)
    assert set(CARRIERS) == set(CarrierName.__args__)
