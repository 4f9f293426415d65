# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of the dialects share: the transcripts, and one call per carrier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from serializers.events import AudioFormat, Start

# A busy machine is no failure: no example is held against a clock.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

TRANSCRIPTS = Path(__file__).parents[2] / "fixtures" / "transcripts"


@pytest.fixture
def transcript() -> Callable[[str], list[dict[str, Any]]]:
    """The lines of a transcript that are messages on the socket."""

    def lines(name: str) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]
        return [line for line in told if "msg" in line]

    return lines


@pytest.fixture
def calls() -> dict[str, Start]:
    """A call on each carrier, with everything that the carrier's own `start` tells."""
    return {
        "twilio": Start(
            call_id="CA1",
            stream_id="MZ1",
            account_id="AC1",
            from_number="+14155550100",
            to_number="+14155550199",
            parameters={"from_number": "+14155550100", "to_number": "+14155550199"},
            sequence=1,
        ),
        "telnyx": Start(
            call_id="v3:1",
            stream_id="aaaaaaaa-0000-4000-8000-000000000001",
            account_id="3E6F995F",
            from_number="+14155550100",
            to_number="+14155550199",
            audio=AudioFormat("alaw"),
            parameters={"tenant": "acme"},
            sequence=1,
        ),
        "plivo": Start(
            call_id="97ceeb52",
            stream_id="20170ada",
            account_id="MA1",
            parameters={"tenant": "acme", "agent": "support"},
            sequence=1,
        ),
        "exotel": Start(
            call_id="b0c8aea60aceb0007fc5a1bb75c200bl",
            stream_id="3357459ca698d8c765bac10b0ec400bl",
            account_id="exampleaccount1",
            from_number="09990000105",
            to_number="04440000319",
            audio=AudioFormat("linear16", 16000),
            sequence=1,
        ),
    }
