# SPDX-License-Identifier: BSD-2-Clause
"""Messages of carriers and agents from the transcripts in fixtures/, with a choice of parameters."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

TRANSCRIPTS = Path(__file__).parents[2] / "fixtures" / "transcripts"
CARRIERS = ("twilio", "telnyx", "plivo", "exotel")
_NORMAL = {
    "twilio": "twilio_normal_dtmf_mark",
    "telnyx": "telnyx_normal_dtmf_mark",
    "plivo": "plivo_normal_dtmf_checkpoint",
    "exotel": "exotel_normal_dtmf_mark",
}
IDS = {
    "twilio": ("CA00000000000000000000000000000001", "MZ00000000000000000000000000000001"),
    "telnyx": (
        "v3:constructedCallControlId0000000000000000000000000000000001",
        "aaaaaaaa-0000-4000-8000-000000000001",
    ),
    "plivo": ("97ceeb52-58b6-11e1-86da-77300b68f8bb", "20170ada-f610-433b-8758-c02a2aab3662"),
    "exotel": ("b0c8aea60aceb0007fc5a1bb75c200bl", "3357459ca698d8c765bac10b0ec400bl"),
}
"""The call id and the stream id of each carrier's transcript."""


def _messages(carrier: str, by: str) -> list[dict[str, Any]]:
    lines = (TRANSCRIPTS / f"{_NORMAL[carrier]}.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [line["msg"] for line in entries if "msg" in line and line["dir"].startswith(by)]


def opening_messages(
    carrier: str,
    parameters: dict[str, str] | None = None,
    *,
    to_number: str | None = None,
    from_number: str | None = None,
) -> list[dict[str, Any]]:
    """Return `connected` and `start` as objects. `parameters`: all custom parameters of `start`."""
    messages = [
        copy.deepcopy(m) for m in _messages(carrier, "carrier") if m["event"] in ("connected", "start")
    ]
    start = messages[-1]["start"]
    given = dict(parameters or {})
    numbers = {"from": from_number, "to": to_number}
    if carrier in ("telnyx", "exotel"):
        start.update({key: number for key, number in numbers.items() if number is not None})
    else:  # their `start` has no numbers (docs/reference/carriers.md §8.1)
        given |= {f"{key}_number": number for key, number in numbers.items() if number is not None}
    start.pop("custom_parameters", None)
    start.pop("customParameters", None)
    messages[-1].pop("extra_headers", None)
    if given and carrier == "twilio":
        start["customParameters"] = given
    elif given and carrier == "plivo":
        messages[-1]["extra_headers"] = ";".join(f"{key}={quote(value)}" for key, value in given.items())
    elif given:
        start["custom_parameters"] = given
    return messages


def opening(carrier: str, parameters: dict[str, str] | None = None, **numbers: str | None) -> list[str]:
    """Return a carrier's opening as texts, with spaces that no encoder would write by itself."""
    return [
        json.dumps(message, separators=(" ,", ":  "))
        for message in opening_messages(carrier, parameters, **numbers)
    ]


def talk(carrier: str) -> list[str]:
    """Return the carrier's messages behind its opening: media, digits, marks; not `stop`."""
    return [
        json.dumps(m)
        for m in _messages(carrier, "carrier")
        if m["event"] not in ("connected", "start", "stop")
    ]


def replies(carrier: str) -> list[str]:
    """Return the agent's messages: media, marks, clears."""
    return [json.dumps(m) for m in _messages(carrier, "gateway")]


def stop(carrier: str) -> str:
    """Return the carrier's `stop`. Plivo only closes, but its pre-flight sends one
    (docs/reference/carriers.md §4.2).
    """
    found = [m for m in _messages(carrier, "carrier") if m["event"] == "stop"]
    return json.dumps(found[0] if found else {"event": "stop", "streamId": IDS["plivo"][1]})
