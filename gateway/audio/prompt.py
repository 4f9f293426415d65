# SPDX-License-Identifier: BSD-2-Clause
"""An operator's recording for waiting callers: a WAV file that is read and checked once."""

from __future__ import annotations

import io
import wave
from array import array
from pathlib import Path
from typing import Final

from serializers.codecs import RATES_HZ, SAMPLE_BYTES

MAX_SECONDS: Final = 120
"""The longest recording: it stays in memory, once for each audio format of the calls."""

MAX_BYTES: Final = 32 * 1024 * 1024
"""The largest file: more than the longest recording takes at the highest sample rate."""


class PromptError(ValueError):
    """A file cannot be played; `str()` is the reason, for the operator."""


class Prompt:
    """A recording: `pcm` is linear16, one channel, at `sample_rate` Hz."""

    __slots__ = ("pcm", "sample_rate")

    def __init__(self, pcm: bytes, sample_rate: int) -> None:
        self.pcm = pcm
        self.sample_rate = sample_rate


def read_prompt(path: Path) -> Prompt:
    """Read a WAV file of 16-bit samples; two channels are mixed to one.

    Raises PromptError if the file cannot be read or played.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise PromptError(f"{str(path)!r} is no file name") from None
    if len(data) > MAX_BYTES:
        raise PromptError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        with wave.open(io.BytesIO(data)) as recording:
            channels, width, rate, frames = recording.getparams()[:4]
            _check(path, channels, width, rate, frames)
            pcm = recording.readframes(frames)
    except EOFError:
        raise PromptError(f"{path} is no WAV file: it ends too early") from None
    except wave.Error as error:
        raise PromptError(f"{path} is no WAV file of plain samples: {error}") from None
    pcm = pcm[: len(pcm) - len(pcm) % (SAMPLE_BYTES * channels)]
    if not pcm:
        raise PromptError(f"{path} holds no sound")
    return Prompt(_mixed(pcm) if channels == 2 else pcm, rate)


def _check(path: Path, channels: int, width: int, rate: int, frames: int) -> None:
    if width != SAMPLE_BYTES:
        raise PromptError(f"{path} has {width * 8}-bit samples; 16-bit ones are needed")
    if channels not in {1, 2}:
        raise PromptError(f"{path} has {channels} channels; one or two are needed")
    if rate not in RATES_HZ:
        raise PromptError(f"{path} is sampled at {rate} Hz; one of {sorted(RATES_HZ)} is needed")
    if frames > MAX_SECONDS * rate:
        raise PromptError(f"{path} is longer than {MAX_SECONDS} s")


def _mixed(pcm: bytes) -> bytes:
    samples = array("h", pcm)
    pairs = zip(samples[::2], samples[1::2], strict=True)
    return array("h", [(left + right) // 2 for left, right in pairs]).tobytes()
