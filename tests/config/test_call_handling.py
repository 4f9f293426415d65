# SPDX-License-Identifier: BSD-2-Clause
"""The settings that say how callers are treated: valid values, messages about invalid ones, parsed values."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.audio.prompt import read_prompt
from gateway.config import AgentSettings, ConfigError, load
from gateway.config.call_handling import (
    CallHandling,
    NoAudio,
    OtherAgent,
    Recording,
    Refuse,
    Ringback,
    TransferTo,
    parse_fallback,
    parse_hold,
    parse_overflow,
    text_of,
)
from texml.document import (
    Dial,
    HangUp,
    OwnXml,
    Play,
    Queue,
    Redirect,
    Reject,
    Say,
    parse_after_stream,
    parse_busy,
)

AGENT = '[[agents]]\nname = "{}"\norganization = "{}"\n'
SUPPORT = AGENT.format("support", "acme")
OTHERS = AGENT.format("sales", "acme") + AGENT.format("sales", "globex")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "hold.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return path


def error_of(tmp_path: Path, lines: str, others: str = OTHERS) -> ConfigError | None:
    """Load an agent with these lines, and return the error, if any."""
    file = tmp_path / "patchbay.toml"
    file.write_text(f"{SUPPORT}{lines}\n{others}")
    try:
        load(file, {}, check_recording=read_prompt)
    except ConfigError as error:
        return error
    return None


@pytest.mark.parametrize(
    "lines",
    [
        "hold = 'ringback'\nhold_tone = 'in'",
        "hold = 'none'\nkeep_early_audio = 0",
        "hold = 'RECORDING'\noverflow = 'RECORDING'",
        "queue_size = 10\nqueue_timeout = 5\noverflow = 'sales.acme'",
        "overflow = '+15551234567'",
        "sessions_per_instance = 3\nreserve_inbound = 2\nreserve_outbound = 1",
    ],
)
def test_valid_values_are_taken(tmp_path: Path, recording: Path, lines: str) -> None:
    assert error_of(tmp_path, lines.replace("RECORDING", str(recording))) is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("hold = 'music'", "agents[0].hold: must be ringback, none, or a file whose name ends in .wav"),
        ("hold = '/nowhere/hold.wav'", "agents[0].hold: /nowhere/hold.wav cannot be read: No such file"),
        ("hold = 'TOML.wav'", "is no WAV file"),
        ("hold_tone = 'uk'", "agents[0].hold_tone: "),
        ("keep_early_audio = -1", "agents[0].keep_early_audio: "),
        ("queue_size = -1", "agents[0].queue_size: "),
        ("queue_timeout = 0", "agents[0].queue_timeout: "),
        ("overflow = 'voicemail'", "agents[0].overflow: must be refuse, the service host AGENT.ORG"),
        ("overflow = '+49'", "agents[0].overflow: must be a number in E.164 form"),
        ("overflow = 'billing.acme'", "agents[0].overflow: there is no agent 'billing.acme'"),
        ("overflow = 'sales.globex'", "agents[0].overflow: must be another agent of the same organisation"),
        ("overflow = 'support.acme'", "agents[0].overflow: must be another agent of the same organisation"),
        (
            "reserve_inbound = 1",
            "agents[0].reserve_inbound: must be less than the agent's places, which are 1",
        ),
    ],
)
def test_an_invalid_value_is_reported_with_its_line(tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "TOML.wav").write_bytes(b"no sound at all")
    error = error_of(tmp_path, lines.replace("TOML.wav", str(tmp_path / "TOML.wav")))
    assert error is not None
    (problem,) = error.problems
    assert problem.where.endswith("line 4")
    assert words in f"{problem.place}: {problem.message}"


PARSED: list[tuple[Callable[[str], CallHandling], str, CallHandling]] = [
    (parse_after_stream, "hangup", HangUp()),
    (parse_after_stream, "redirect", Redirect()),
    (parse_after_stream, "+15551234567", Dial("+15551234567")),
    (parse_after_stream, "<Say>Bye</Say>", OwnXml("<Say>Bye</Say>")),
    (parse_busy, "reject", Reject()),
    (parse_busy, "queue", Queue()),
    (parse_busy, "+15551234567", Dial("+15551234567")),
    (parse_busy, "say  all lines are busy ", Say("all lines are busy")),
    (parse_busy, "play https://example.com/busy.mp3", Play("https://example.com/busy.mp3")),
    (parse_hold, "ringback", Ringback()),
    (parse_hold, "none", NoAudio()),
    (parse_hold, "./hold.wav", Recording("./hold.wav")),
    (parse_overflow, "refuse", Refuse()),
    (parse_overflow, "sales.acme", OtherAgent("sales.acme")),
    (parse_overflow, "+15551234567", TransferTo("+15551234567")),
    (parse_overflow, "sorry.wav", Recording("sorry.wav")),
    (parse_fallback, "hangup", HangUp()),
    (parse_fallback, "+15551234567", TransferTo("+15551234567")),
    (parse_fallback, "sorry.wav", Recording("sorry.wav")),
]


@pytest.mark.parametrize(("parse", "text", "value"), PARSED)
def test_a_text_becomes_a_value_and_is_printed_as_it_was_written(
    parse: Callable[[str], CallHandling], text: str, value: CallHandling
) -> None:
    assert parse(text) == value
    assert text_of(parse(text)) == text


def test_settings_hold_the_values_and_are_stored_as_texts(tmp_path: Path) -> None:
    file = tmp_path / "patchbay.toml"
    file.write_text(f"{SUPPORT}after = 'redirect'\noverflow = 'sales.acme'\nhold = 'hold.wav'\n{OTHERS}")
    agent = load(file, {}).agents[0]
    assert (agent.after, agent.busy, agent.hold) == (Redirect(), Reject(), Recording("hold.wav"))
    assert (agent.overflow, agent.fallback) == (OtherAgent("sales.acme"), HangUp())
    stored = agent.model_dump(mode="json")
    assert [stored[key] for key in ("after", "busy", "hold", "overflow", "fallback")] == [
        "redirect",
        "reject",
        "hold.wav",
        "sales.acme",
        "hangup",
    ]
    assert AgentSettings.model_validate(stored) == agent
