# SPDX-License-Identifier: BSD-2-Clause
"""Recordings: any 16-bit WAV becomes what a telephone carries; the rest is refused in words."""

from __future__ import annotations

import math
import struct
import wave
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.simulator.wav import WavError, read_speech, read_wav, write_wav

Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A second of a 440 Hz tone; on the right channel, if there is one, silence."""

    def make(rate: int = 8000, channels: int = 1, width: int = 2) -> Path:
        path = tmp_path / "tone.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(rate)
            if width != 2:
                file.writeframes(bytes(width * channels * rate))
                return path
            for number in range(rate):
                sample = round(16000 * math.sin(2 * math.pi * 440 * number / rate))
                file.writeframesraw(struct.pack("<h", sample) + bytes(2 * (channels - 1)))
        return path

    return make


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_both_channels(rate: int, channels: int, record: Record) -> None:
    recording = read_wav(record(rate, channels), 8000)
    assert recording.sample_rate == 8000
    assert recording.seconds == pytest.approx(1.0, abs=0.01)
    samples = struct.unpack(f"<{len(recording.pcm) // 2}h", recording.pcm)
    assert max(samples) == pytest.approx(16000 / channels, rel=0.05)
    rising = sum(1 for left, right in pairwise(samples) if left < 0 <= right)
    assert rising == pytest.approx(440, abs=2)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    pcm = struct.pack("<4h", 0, 1, -32768, 32767)
    write_wav(tmp_path / "short.wav", pcm, 16000)
    assert read_wav(tmp_path / "short.wav", 16000).pcm == pcm


@pytest.mark.parametrize(("name", "seconds"), [("caller", 4.3), ("greeting", 2.6)])
def test_the_recordings_that_come_with_patchbay(name: str, seconds: float) -> None:
    recording = read_speech(name)  # type: ignore[arg-type]
    assert recording.sample_rate == 8000
    assert recording.seconds == pytest.approx(seconds, abs=0.1)


def test_refused_in_words(record: Record, tmp_path: Path) -> None:
    with pytest.raises(WavError, match="8-bit samples; 16-bit ones are needed"):
        read_wav(record(width=1))
    with pytest.raises(WavError, match="24-bit"):
        read_wav(record(width=3))
    with pytest.raises(WavError, match="3 channels"):
        read_wav(record(channels=3))
    with pytest.raises(WavError, match="sampled at 11025 Hz"):
        read_wav(record(11025))
    with pytest.raises(WavError, match="cannot be read: No such file"):
        read_wav(tmp_path / "none.wav")
    with pytest.raises(WavError, match="cannot be read: Is a directory"):
        read_wav(tmp_path)
    with pytest.raises(WavError, match="cannot be written: No such file"):
        write_wav(tmp_path / "none" / "out.wav", b"", 8000)
    for content in (b"", b"RIFF", b"ID3 is an mp3", record().read_bytes()[:30]):
        (tmp_path / "broken.wav").write_bytes(content)
        with pytest.raises(WavError, match="is no WAV file"):
            read_wav(tmp_path / "broken.wav")
    (tmp_path / "empty.wav").write_bytes(record().read_bytes()[:44])
    with pytest.raises(WavError, match=r"is no WAV file|holds no sound"):
        read_wav(tmp_path / "empty.wav")
