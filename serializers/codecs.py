# SPDX-License-Identifier: BSD-2-Clause
"""Telephone codecs, to and from linear16 (signed 16-bit little-endian, one channel).

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

__all__ = ["RATES_HZ", "SAMPLE_BYTES", "audioop", "decode", "encode"]

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
