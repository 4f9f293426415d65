# SPDX-License-Identifier: BSD-2-Clause
"""Sound as a call carries it: formats, frames, silence, and whether there is anything to hear. Pure."""

from __future__ import annotations

from serializers.codecs import SAMPLE_BYTES, Resampler, decode, encode
from serializers.events import AudioFormat

AUDIBLE_PEAK = 400
"""Of 32767: a quieter tick counts as silence."""


def to_pcm(payload: bytes, audio: AudioFormat) -> bytes:
    """PCM 16-bit mono of a payload in the call's format."""
    return decode(payload, audio)


def bytes_per_ms(audio: AudioFormat) -> int:
    """Bytes that one millisecond of the call's sound takes."""
    return audio.sample_rate // 1000 * (SAMPLE_BYTES if audio.encoding == "linear16" else 1)


def silence(audio: AudioFormat, ms: int) -> bytes:
    """So many ms of silence in the call's format."""
    return encode(bytes(SAMPLE_BYTES * audio.sample_rate * ms // 1000), audio)


def for_call(pcm: bytes, sample_rate: int, audio: AudioFormat) -> bytes:
    """PCM 16-bit mono at `sample_rate` Hz in the call's format and rate. Raises DialectError."""
    return encode(Resampler(sample_rate, audio.sample_rate).feed(pcm), audio)


def cut(sound: bytes, audio: AudioFormat, frame_ms: int) -> list[bytes]:
    """Sound in the call's format cut into frames of `frame_ms`, the last one filled up with silence."""
    size = bytes_per_ms(audio) * frame_ms
    filled = sound + silence(audio, frame_ms)[: -len(sound) % size]
    return [filled[at : at + size] for at in range(0, len(filled), size)]


def audible(pcm: bytes) -> bool:
    """Whether a piece of PCM 16-bit sound is louder than a quiet line."""
    samples = memoryview(pcm).cast("h")
    return len(samples) > 0 and (max(samples) >= AUDIBLE_PEAK or min(samples) <= -AUDIBLE_PEAK)
