# SPDX-License-Identifier: BSD-2-Clause
"""Telephone codecs and sample rates, to and from linear16 (signed 16-bit little-endian, one channel).

The work is done by audioop: the standard library's until Python 3.12, audioop-lts from 3.13 on. audioop uses
the machine's byte order, which is little-endian on every supported machine.
"""

from __future__ import annotations

import warnings

from serializers.dialect import DialectError
from serializers.events import AudioFormat

with warnings.catch_warnings():
    # The standard module warns of its removal when imported. From 3.13 on audioop-lts has its name.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

SAMPLE_BYTES = 2
RATES_HZ = frozenset({8000, 16000, 22050, 24000, 44100, 48000})
"""The sample rates of carriers and WAV files, in Hz (docs/reference/carriers.md §3.3, §5.1)."""


def decode(payload: bytes, audio: AudioFormat) -> bytes:
    """Decode the payload of a media message to linear16. The sample rate stays the same.

    Raises DialectError for an encoding that is not supported, or for half a sample.
    """
    match audio.encoding:
        case "mulaw":
            return audioop.ulaw2lin(payload, SAMPLE_BYTES)
        case "alaw":
            return audioop.alaw2lin(payload, SAMPLE_BYTES)
        case "linear16":
            return _swap_bytes(_whole_samples(payload), audio)
        case _:
            raise DialectError(f"{audio.encoding} is not decoded here")


def encode(pcm: bytes, audio: AudioFormat) -> bytes:
    """Encode linear16 as the payload of a media message. The sample rate stays the same.

    Raises DialectError for an encoding that is not supported, or for half a sample.
    """
    _whole_samples(pcm)
    match audio.encoding:
        case "mulaw":
            return audioop.lin2ulaw(pcm, SAMPLE_BYTES)
        case "alaw":
            return audioop.lin2alaw(pcm, SAMPLE_BYTES)
        case "linear16":
            return _swap_bytes(pcm, audio)
        case _:
            raise DialectError(f"{audio.encoding} is not encoded here")


def _whole_samples(pcm: bytes) -> bytes:
    if len(pcm) % SAMPLE_BYTES:
        raise DialectError("the sound ends in half a sample")
    return pcm


def _swap_bytes(pcm: bytes, audio: AudioFormat) -> bytes:
    return audioop.byteswap(pcm, SAMPLE_BYTES) if audio.big_endian else pcm


class Resampler:
    """Converts a stream of linear16 from one sample rate (Hz) to another, without clicks between pieces.

    It interpolates linearly and has no filter: good enough for speech on a telephone line, not for music.
    Raises DialectError for a rate outside RATES_HZ.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        if not {from_hz, to_hz} <= RATES_HZ:
            raise DialectError("no such sample rate")
        self._from_hz = from_hz
        self._to_hz = to_hz
        self._state: audioop._RatecvState | None = None

    def feed(self, pcm: bytes) -> bytes:
        """Convert the next piece. A remainder shorter than a sample is returned with the piece after it.

        Raises DialectError for half a sample.
        """
        _whole_samples(pcm)
        if self._from_hz == self._to_hz:
            return pcm
        resampled, self._state = audioop.ratecv(pcm, SAMPLE_BYTES, 1, self._from_hz, self._to_hz, self._state)
        return resampled
