# SPDX-License-Identifier: BSD-2-Clause
"""Clips for waiting callers: a tone, a recording or silence, cut into pieces and encoded for a carrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.audio.prompt import Prompt
from gateway.audio.tones import ToneName, ringback
from serializers.codecs import RATES_HZ, SAMPLE_BYTES, encode
from serializers.dialect import Dialect, DialectError
from serializers.events import AudioFormat, Start
from serializers.sample_rate import convert

PIECE_MS: Final = 100
"""The length of the audio in one message, unless the carrier needs more. Ten messages a second are cheap."""

MAX_PIECE_MS: Final = 200
"""The longest piece: a carrier must have no more unplayed audio, so that a clear takes effect at once."""

_QUIETEST: Final = b"\xff\xff"

AudioSource = Prompt | ToneName | None
"""The source of a clip: a recording, the name of a ringback tone, or None for silence."""


@dataclass(frozen=True, slots=True)
class AudioClip:
    """Audio in pieces of `piece_ms` each, encoded as the carrier receives them."""

    pieces: tuple[bytes, ...]
    piece_ms: int
    is_silent: bool = False


class ClipCache:
    """The clips of a worker, each made when the first call needs it in its format, and cached for ever."""

    def __init__(self) -> None:
        self._clips: dict[tuple[AudioSource, AudioFormat, int], AudioClip] = {}

    def clip(
        self, source: AudioSource, dialect: Dialect, start: Start, *, own_document: bool = False
    ) -> AudioClip:
        """Return the clip of `source` in the audio format that the stream plays which `start` opened.

        `own_document`: see `Dialect.agent_audio`. Raises DialectError if the format is not known, or cannot
        be encoded: sound in another one would be noise.
        """
        format_of = dialect.silent_audio if source is None else dialect.agent_audio
        audio = format_of(start, own_document=own_document)
        if audio is None:
            raise DialectError("it is not known which sound the carrier plays")
        if audio.sample_rate not in RATES_HZ or audio.channels != 1:
            raise DialectError("no such sample rate")  # which also bounds the cache
        piece_ms = _piece_ms(dialect, audio)
        key = source, audio, piece_ms
        if key not in self._clips:
            pieces = _cut(_pcm(source, audio, piece_ms), audio, piece_ms)
            self._clips[key] = AudioClip(pieces, piece_ms, is_silent=source is None)
        return self._clips[key]

    def forget(self, source: AudioSource) -> None:
        """Forget the clips of a recording that is played no more. Who plays one goes on."""
        self._clips = {key: clip for key, clip in self._clips.items() if key[0] is not source}


def _piece_ms(dialect: Dialect, audio: AudioFormat) -> int:
    width = SAMPLE_BYTES if audio.encoding == "linear16" else 1
    piece_ms = PIECE_MS
    while (size := width * audio.sample_rate * piece_ms // 1000) % dialect.media_step_bytes or (
        size < dialect.min_media_bytes
    ):
        piece_ms += PIECE_MS
    if piece_ms > MAX_PIECE_MS:
        raise DialectError("the carrier cannot be sent so little sound at this rate")
    return piece_ms


def _pcm(source: AudioSource, audio: AudioFormat, piece_ms: int) -> bytes:
    if source is None:
        # A sample of -1 has the same two bytes in either byte order, and they are silence in μ-law as well.
        sample = _QUIETEST if audio.encoding == "linear16" else bytes(SAMPLE_BYTES)
        return sample * (audio.sample_rate * piece_ms // 1000)
    if isinstance(source, Prompt):
        return convert(source.pcm, source.sample_rate, audio.sample_rate)
    return ringback(source, audio.sample_rate)


def _cut(pcm: bytes, audio: AudioFormat, piece_ms: int) -> tuple[bytes, ...]:
    """Encode `pcm` in pieces; the last one is filled up with silence."""
    size = SAMPLE_BYTES * (audio.sample_rate * piece_ms // 1000)
    pcm += bytes(-len(pcm) % size)
    return tuple(encode(pcm[start : start + size], audio) for start in range(0, len(pcm), size))
