# SPDX-License-Identifier: BSD-2-Clause
"""Read and write WAV files of 16-bit samples."""

from __future__ import annotations

import wave
from array import array
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from serializers.codecs import RATES_HZ, SAMPLE_BYTES
from serializers.sample_rate import convert

MAX_WAV_S = 600
"""Seconds of the longest file that is read."""


class WavError(ValueError):
    """A file that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """PCM 16-bit little-endian mono at `sample_rate` Hz."""

    pcm: bytes
    sample_rate: int

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return len(self.pcm) / SAMPLE_BYTES / self.sample_rate


def read_wav(path: Path, sample_rate: int = 8000) -> Recording:
    """Read a 16-bit WAV of one or two channels, mixed to one and resampled to `sample_rate` Hz.

    Raises WavError.
    """
    try:
        with path.open("rb") as raw, wave.open(raw) as file:
            channels, width, rate, frames = file.getparams()[:4]
            if width != SAMPLE_BYTES:
                raise WavError(f"{path} has {width * 8}-bit samples; 16-bit ones are needed")
            if channels not in {1, 2}:
                raise WavError(f"{path} has {channels} channels; one or two are needed")
            if rate not in RATES_HZ:
                raise WavError(f"{path} is sampled at {rate} Hz; one of {sorted(RATES_HZ)} is needed")
            if frames > MAX_WAV_S * rate:
                raise WavError(f"{path} is longer than {MAX_WAV_S} s")
            pcm = file.readframes(frames)
    except EOFError:
        raise WavError(f"{path} is no WAV file: it ends too early") from None
    except wave.Error as error:
        raise WavError(f"{path} is no WAV file of plain samples: {error}") from None
    except OSError as error:
        raise WavError(f"{path} cannot be read: {error.strerror}") from None
    pcm = pcm[: len(pcm) - len(pcm) % (SAMPLE_BYTES * channels)]
    if not pcm:
        raise WavError(f"{path} holds no sound")
    mono = _mix(pcm) if channels == 2 else pcm
    return Recording(convert(mono, rate, sample_rate), sample_rate)


def write_wav(path: Path, pcm: bytes, sample_rate: int) -> None:
    """Write PCM 16-bit mono. Raises WavError."""
    try:
        with path.open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(SAMPLE_BYTES)
            file.setframerate(sample_rate)
            file.writeframes(pcm)
    except OSError as error:
        raise WavError(f"{path} cannot be written: {error.strerror}") from None


def read_speech(name: Literal["caller", "greeting"]) -> Recording:
    """Return a recording that comes with Patchbay (fixtures/speech/README.md)."""
    with as_file(files("gateway.simulator") / "speech" / f"{name}.wav") as path:
        return read_wav(path)


def _mix(pcm: bytes) -> bytes:
    samples = array("h", pcm)
    return array(
        "h", [(left + right) // 2 for left, right in zip(samples[::2], samples[1::2], strict=True)]
    ).tobytes()
