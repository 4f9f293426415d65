# SPDX-License-Identifier: BSD-2-Clause
"""Audio as a call carries it: formats, frames, silence, audibility. No I/O."""

from __future__ import annotations

from gateway.audio.clips import ClipCache
from gateway.audio.tones import RINGBACK
from serializers.codecs import SAMPLE_BYTES, decode, encode
from serializers.dialect import Dialect, DialectError
from serializers.events import AudioFormat, Start
from serializers.sample_rate import convert

AUDIBLE_PEAK = 400
"""Of 32767: a tick whose loudest sample is below counts as silence."""


def to_pcm(payload: bytes, audio: AudioFormat) -> bytes:
    """Return a payload in the call's format as PCM 16-bit mono."""
    return decode(payload, audio)


def bytes_per_ms(audio: AudioFormat) -> int:
    """Return how many bytes a millisecond of the call's audio takes."""
    return audio.sample_rate // 1000 * (SAMPLE_BYTES if audio.encoding == "linear16" else 1)


def silence(audio: AudioFormat, ms: int) -> bytes:
    """Return `ms` milliseconds of silence in the call's format."""
    return encode(bytes(SAMPLE_BYTES * audio.sample_rate * ms // 1000), audio)


def for_call(pcm: bytes, sample_rate: int, audio: AudioFormat) -> bytes:
    """Convert PCM 16-bit mono at `sample_rate` Hz to the call's format and rate. Raises DialectError."""
    return encode(convert(pcm, sample_rate, audio.sample_rate), audio)


def cut(samples: bytes, audio: AudioFormat, frame_ms: int) -> list[bytes]:
    """Cut audio in the call's format into frames of `frame_ms`, the last one padded with silence."""
    size = bytes_per_ms(audio) * frame_ms
    filled = samples + silence(audio, frame_ms)[: -len(samples) % size]
    return [filled[at : at + size] for at in range(0, len(filled), size)]


_clips = ClipCache()
_hold_pieces: dict[tuple[str, AudioFormat], frozenset[bytes]] = {}


def hold_pieces(dialect: Dialect, start: Start) -> frozenset[bytes]:
    """Return the payloads of the gateway's ringback in this stream's format, which are no agent's sound.

    They are made once for each format.
    """
    try:
        key = dialect.name, start.audio
        if key not in _hold_pieces:
            clips = [_clips.clip(tone, dialect, start, own_document=True) for tone in RINGBACK]
            _hold_pieces[key] = frozenset(piece for clip in clips for piece in clip.pieces)
        return _hold_pieces[key]
    except DialectError:
        return frozenset()


def audible(pcm: bytes) -> bool:
    """Return True if a piece of PCM 16-bit audio is louder than the noise of a silent line."""
    samples = memoryview(pcm).cast("h")
    return len(samples) > 0 and (max(samples) >= AUDIBLE_PEAK or min(samples) <= -AUDIBLE_PEAK)
