# SPDX-License-Identifier: BSD-2-Clause
"""The sound of one direction of a call, from one format to another."""

from __future__ import annotations

from typing import Final

from serializers.codecs import SAMPLE_BYTES, audioop, decode, encode
from serializers.dialect import DialectError
from serializers.events import AudioFormat
from serializers.sample_rate import SPEECH_RATES_HZ, RateConverter

TRANSLATED: Final = frozenset({"mulaw", "alaw", "linear16"})
"""The encodings that can be translated. A carrier with another one can send one of these when told so."""


def check_format(audio: AudioFormat) -> None:
    """Raise DialectError for a format that cannot be translated."""
    if audio.encoding not in TRANSLATED:
        raise DialectError(f"sound in {audio.encoding} is not translated")
    if audio.sample_rate not in SPEECH_RATES_HZ:
        raise DialectError(f"sound of {audio.sample_rate} Hz is not translated")
    if audio.channels != 1:
        raise DialectError(f"sound of {audio.channels} channels is not translated")


class SoundConverter:
    """Converts one direction's sound, piece by piece; half a sample waits for its other half."""

    def __init__(self, before: AudioFormat, after: AudioFormat) -> None:
        """Raises DialectError for a format that cannot be translated."""
        check_format(before)
        check_format(after)
        self._before = before
        self._after = after
        self._is_same = before == after
        self._half = b""
        rates = before.sample_rate, after.sample_rate
        self._rate = RateConverter(*rates) if rates[0] != rates[1] else None

    def feed(self, sound: bytes) -> bytes:
        """Return the next piece in the other format."""
        if self._half or (self._before.encoding == "linear16" and len(sound) % SAMPLE_BYTES):
            sound = self._half + sound
            whole = len(sound) - len(sound) % SAMPLE_BYTES
            self._half, sound = sound[whole:], sound[:whole]
        if self._is_same:
            return sound
        before, after = self._before, self._after
        if self._rate is None and before.encoding == after.encoding == "linear16":
            return audioop.byteswap(sound, SAMPLE_BYTES)
        linear = decode(sound, before)
        return encode(linear if self._rate is None else self._rate.feed(linear), after)

    def reset(self) -> None:
        """Forget what came before: the next piece begins anew."""
        self._half = b""
        if self._rate is not None:
            self._rate.reset()


def bytes_per_s(audio: AudioFormat) -> int:
    """Return the bytes of a second of sound."""
    return audio.sample_rate * (SAMPLE_BYTES if audio.encoding == "linear16" else 1)


def silent_sample(audio: AudioFormat) -> bytes:
    """Return one sample of silence (ITU-T G.711: 0xff, 0xd5)."""
    return {"mulaw": b"\xff", "alaw": b"\xd5", "linear16": b"\0\0"}[audio.encoding]
