# SPDX-License-Identifier: BSD-2-Clause
"""What callers hear and where they wait, as it is configured: good values, and what is said of bad ones."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from gateway.config import ConfigError, load

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


def read(tmp_path: Path, lines: str, others: str = OTHERS) -> ConfigError | None:
    """What is wrong with an agent that has these lines too."""
    file = tmp_path / "patchbay.toml"
    file.write_text(f"{SUPPORT}{lines}\n{others}")
    try:
        load(file, {})
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
def test_good_values(tmp_path: Path, recording: Path, lines: str) -> None:
    assert read(tmp_path, lines.replace("RECORDING", str(recording))) is None


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
def test_bad_values(tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "TOML.wav").write_bytes(b"no sound at all")
    error = read(tmp_path, lines.replace("TOML.wav", str(tmp_path / "TOML.wav")))
    assert error is not None
    (problem,) = error.problems
    assert problem.where.endswith("line 4")
    assert words in f"{problem.place}: {problem.message}"
