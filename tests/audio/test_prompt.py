# SPDX-License-Identifier: BSD-2-Clause
"""An operator's recordings: what can be played, and the errors for what cannot."""

from __future__ import annotations

import wave
from array import array
from pathlib import Path

import pytest

from gateway.audio.clips import ClipCache
from gateway.audio.prompt import MAX_BYTES, PromptError, read_prompt
from serializers.codecs import decode
from serializers.events import AudioFormat, Start
from serializers.registry import DIALECTS


def recording(path: Path, *, rate: int = 8000, channels: int = 1, width: int = 2, seconds: float = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(b"\x10" * (width * channels * round(rate * seconds)))
    return path


@pytest.mark.parametrize(
    ("how", "detail"),
    [
        ({"width": 1}, "has 8-bit samples"),
        ({"width": 3}, "has 24-bit samples"),
        ({"channels": 3}, "has 3 channels"),
        ({"rate": 11025}, "is sampled at 11025 Hz"),
        ({"seconds": 121}, "is longer than 120 s"),
        ({"seconds": 0}, "holds no sound"),
    ],
)
def test_a_recording_that_cannot_be_played_is_an_error(
    tmp_path: Path, how: dict[str, float], detail: str
) -> None:
    with pytest.raises(PromptError, match=detail):
        read_prompt(recording(tmp_path / "hold.wav", **how))  # type: ignore[arg-type]


def test_a_missing_or_broken_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "hold.wav").write_bytes(b"OggS" + bytes(100))
    with pytest.raises(PromptError, match="is no WAV file"):
        read_prompt(tmp_path / "hold.wav")
    with pytest.raises(PromptError, match="cannot be read: No such file"):
        read_prompt(tmp_path / "other.wav")
    (tmp_path / "short.wav").write_bytes(b"RIFF")
    with pytest.raises(PromptError, match="ends too early"):
        read_prompt(tmp_path / "short.wav")
    with (tmp_path / "large.wav").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(PromptError, match="is larger than"):
        read_prompt(tmp_path / "large.wav")


def test_two_channels_are_mixed(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "hold.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(array("h", [1000, -200] * 8000).tobytes())
    assert set(array("h", read_prompt(tmp_path / "hold.wav").pcm)) == {400}


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize(
    ("carrier", "audio"),
    [
        ("twilio", AudioFormat()),
        ("plivo", AudioFormat("linear16", 16000)),
        ("exotel", AudioFormat("linear16", 24000)),
        ("exotel", AudioFormat("linear16")),
    ],
)
def test_a_recording_is_converted_once_and_keeps_its_length(
    tmp_path: Path, rate: int, carrier: str, audio: AudioFormat
) -> None:
    prompt = read_prompt(recording(tmp_path / "hold.wav", rate=rate))
    cache, start = ClipCache(), Start("C1", "S1", audio=audio)
    clip = cache.clip(prompt, DIALECTS[carrier], start)
    assert len(clip.pieces) * clip.piece_ms == 1000
    assert len(decode(b"".join(clip.pieces), audio)) == 2 * audio.sample_rate
    assert cache.clip(prompt, DIALECTS[carrier], start) is clip
