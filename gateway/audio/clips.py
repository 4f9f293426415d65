# SPDX-License-Identifier: BSD-2-Clause
"""What waiting callers hear, cut into the pieces that a carrier is sent: a tone, a recording, or silence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.audio.prompt import Prompt
from gateway.audio.tones import ToneName, ringback
from serializers.codecs import RATES_HZ, SAMPLE_BYTES, Resampler, encode
from serializers.dialect import Dialect, DialectError
from serializers.events import AudioFormat, Start

PIECE_MS: Final = 100
"""AudioClip in one message: ten a second for each waiting call are cheap, and every carrier takes them."""

LONGEST_PIECE_MS: Final = 200
"""More must not lie unplayed at a carrier, if a clear is to be heard at once."""

AudioSource = Prompt | ToneName | None


@dataclass(frozen=True, slots=True)
class AudioClip:
    """Pieces of `piece_ms` each, coded as the carrier is to be sent them."""

    pieces: tuple[bytes, ...]
    piece_ms: int
    silent: bool = False


class ClipCache:
    """Every sound of a worker: each is made when the first call of its format comes, and kept."""

    def __init__(self) -> None:
        self._made: dict[tuple[AudioSource, AudioFormat, int], AudioClip] = {}

    def sound(self, recipe: AudioSource, dialect: Dialect, start: Start) -> AudioClip:
        """`recipe`: a recording, a tone, or None for silence.

        Raises DialectError where the call's codec is none that is coded here.
        """
        audio = dialect.agent_audio(start)
        if audio.sample_rate not in RATES_HZ or audio.channels != 1:
            raise DialectError("no such sample rate")  # and only so many sounds can be asked for
        piece_ms = _piece_ms(dialect, audio)
        key = recipe, audio, piece_ms
        if key not in self._made:
            pieces = _cut(_pcm(recipe, audio.sample_rate), audio, piece_ms)
            self._made[key] = AudioClip(pieces, piece_ms, silent=recipe is None)
        return self._made[key]


def _piece_ms(dialect: Dialect, audio: AudioFormat) -> int:
    width = SAMPLE_BYTES if audio.encoding == "linear16" else 1
    piece_ms = PIECE_MS
    while (size := width * audio.sample_rate * piece_ms // 1000) % dialect.media_step_bytes or (
        size < dialect.min_media_bytes
    ):
        piece_ms += PIECE_MS
    if piece_ms > LONGEST_PIECE_MS:
        raise DialectError("the carrier cannot be sent so little sound at this rate")
    return piece_ms


def _pcm(recipe: AudioSource, sample_rate: int) -> bytes:
    if recipe is None:
        return bytes(SAMPLE_BYTES)
    if isinstance(recipe, Prompt):
        return Resampler(recipe.sample_rate, sample_rate).feed(recipe.pcm)
    return ringback(recipe, sample_rate)


def _cut(pcm: bytes, audio: AudioFormat, piece_ms: int) -> tuple[bytes, ...]:
    """The last piece is filled up with silence."""
    size = SAMPLE_BYTES * (audio.sample_rate * piece_ms // 1000)
    pcm += bytes(-len(pcm) % size)
    return tuple(encode(pcm[at : at + size], audio) for at in range(0, len(pcm), size))
