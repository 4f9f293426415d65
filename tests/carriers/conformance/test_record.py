# SPDX-License-Identifier: BSD-2-Clause
"""Every carrier is complete: record, profile, page, transcripts, and a case in this suite."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from gateway.carriers.registry import CARRIERS
from gateway.config import CarrierName
from serializers.registry import DIALECTS
from tests.carriers.case import Case
from tests.carriers.cases import CASES
from texml.registry import WRITERS

ROOT = Path(__file__).parents[3]
TRANSCRIPTS = ROOT / "fixtures" / "transcripts"

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_carrier_is_in_each_registry() -> None:
    assert {name: carrier.name for name, carrier in CARRIERS.items()} == {name: name for name in CARRIERS}
    assert {name: carrier.dialect for name, carrier in CARRIERS.items()} == dict(DIALECTS)
    writers = {name: carrier.writer for name, carrier in CARRIERS.items() if carrier.writer is not None}
    assert writers == dict(WRITERS)
    assert set(get_args(CarrierName)) == set(CARRIERS), "the configuration knows every carrier's account"


@every_case
def test_a_case_has_the_parts_of_the_record(case: Case) -> None:
    carrier = CARRIERS[case.name]
    assert (case.auth is None) == (carrier.authenticate is None)
    assert (case.rest is None) == (carrier.rest_class is None)
    assert (case.callbacks is None) == (carrier.read_callback is None)
    assert (case.documents is None) == (carrier.writer is None)


@every_case
def test_a_profile_is_true_of_what_the_carrier_sends(case: Case) -> None:
    profile, start = CARRIERS[case.name].profile, case.media.start
    assert profile.sends_numbers == (start.from_number is not None and "from_number" not in start.parameters)
    if profile.signs_upgrades:
        assert case.auth is not None
        assert any(request.is_upgrade for request in case.auth.requests)
    if case.documents is not None:
        assert profile.parameters_in_query <= ("parameters" in case.documents.cannot)


@every_case
def test_a_carrier_has_its_page_and_its_transcripts(case: Case) -> None:
    assert (ROOT / "docs" / "carriers" / f"{case.name}.md").read_text().startswith("# ")
    names = [f"{case.name}_documented_examples", *case.media.calls]
    assert len(names) > 1
    assert all((TRANSCRIPTS / f"{name}.jsonl").exists() for name in names)
