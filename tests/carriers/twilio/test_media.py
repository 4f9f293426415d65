# SPDX-License-Identifier: BSD-2-Clause
"""Twilio's media-stream messages: facts of Twilio alone."""

from __future__ import annotations

import json
from pathlib import Path

from serializers.events import AudioFormat, Start
from serializers.twilio import DIALECT

TRANSCRIPT = Path(__file__).parents[3] / "fixtures" / "transcripts" / "twilio_normal_dtmf_mark.jsonl"


def test_numbers_and_agent_are_in_the_custom_parameters() -> None:
    lines = [json.loads(line) for line in TRANSCRIPT.read_text().splitlines()]
    message = next(line["msg"] for line in lines if line.get("msg", {}).get("event") == "start")
    start = DIALECT.read_carrier(json.dumps(message))
    assert isinstance(start, Start)
    assert (start.from_number, start.to_number) == ("+14155550100", "+14155550199")
    assert start.parameters["_pipecatCloudServiceHost"] == "my-agent.my-org"
    assert start.audio == AudioFormat("mulaw", 8000, 1)
    assert start.tracks == ("inbound",)
