# SPDX-License-Identifier: BSD-2-Clause
"""How much of the agent's sound the caller has heard, from counts and the clock: docs/sockets.md, "Playback".

The relay counts the agent's frames and bytes; nothing is decoded. The first message with sound shows how many
bytes of a frame are no sound, so the counts give the seconds of sound that were passed on. A carrier plays
them at their own speed, one after the other: what was heard can be no more than what was passed on, and grows
no faster than time. So a look now and then (`follow`) is enough, and once everything was heard the relay
looks at the next message with sound, which tells when playing goes on.

All times are of the event loop's clock, in seconds.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from gateway.websocket import frames
from serializers.events import AudioFormat, Encoding

_BYTES_PER_SAMPLE: Final[dict[Encoding, int]] = {"mulaw": 1, "alaw": 1, "linear16": 2}
_G722_BYTES_PER_S: Final = 8000
"""64 kbit/s, whatever the sample rate (ITU-T G.722)."""

INSPECT_BELOW_BYTES: Final = 160
"""Messages of the agent below this size are searched for a clear. It is less than 10 ms of sound in any
dialect and more than any clear (docs/reference/carriers.md §2-5)."""

SOUND_BELOW_BYTES: Final = 8192
"""After a silence, messages below this size are searched for sound. A longer one passes as it comes, since it
would be held back until it is complete; that playing goes on is then seen at the next look."""

NEVER: Final = math.inf


class Counts(Protocol):
    """The counts of one direction: a `FrameScanner`."""

    frames: int
    bytes: int


class SoundRates(NamedTuple):
    """Seconds of sound for each byte on the socket, and what is subtracted for each frame."""

    per_byte: float
    per_frame: float


@lru_cache(16)  # one number for all calls, and not one a call
def sound_bytes_per_s(audio: AudioFormat) -> int | None:
    """Return the bytes that a second of sound takes, None if their number is not constant."""
    if audio.encoding == "g722":
        return _G722_BYTES_PER_S
    size = _BYTES_PER_SAMPLE.get(audio.encoding)
    return None if size is None else size * audio.sample_rate * audio.channels


def frame_bytes(payload_bytes: int) -> int:
    """Return the bytes of an unmasked frame (RFC 6455 §5.2)."""
    return payload_bytes + (2 if payload_bytes < 126 else 4 if payload_bytes < 1 << 16 else 10)


@lru_cache(256)  # the calls of a carrier share theirs
def _rates(envelope_bytes: int, padding: int, bytes_per_s: int) -> SoundRates:
    per_byte = 0.75 / bytes_per_s  # base64: three bytes in four characters
    return SoundRates(per_byte, envelope_bytes * per_byte + padding / bytes_per_s)


class PlaybackClock:
    """The sound of one agent on one carrier's stream, and how much of it was heard.

    `awaits_sound`: the next message with sound is to be reported (`sound_begins`), because everything was
    heard, or nothing has come.
    """

    __slots__ = ("_at", "_bytes_per_s", "_discarded_s", "_played_s", "_rates", "_skipped", "awaits_sound")

    def __init__(self, bytes_per_s: int, played_s: float = 0.0) -> None:
        """`bytes_per_s`: of the agent's sound. `played_s`: of earlier agents of the call."""
        self._bytes_per_s = bytes_per_s
        self._rates: SoundRates | None = None
        self._skipped: tuple[int, int] | None = (0, 0)  # frames and bytes without sound, before the first
        self._discarded_s = -played_s  # passed on, but no sound, or never heard
        self._played_s = played_s
        self._at = NEVER  # when `_played_s` was true; NEVER while nothing is played
        self.awaits_sound = True

    @property
    def is_known(self) -> bool:
        """Whether a message with sound was seen, so that sound can be counted."""
        return self._rates is not None

    def skip(self, frames: int, size: int) -> None:
        """Count `frames` frames with together `size` bytes as no sound. The scanner has counted them."""
        if self._rates is not None:
            self._discarded_s += size * self._rates.per_byte - frames * self._rates.per_frame
        elif self._skipped is not None:
            self._skipped = self._skipped[0] + frames, self._skipped[1] + size

    def sound_begins(self, message_bytes: int, sound_bytes: int, now: float) -> None:
        """Note a message with sound, after which playing goes on. `sound_bytes`: without base64."""
        self.awaits_sound = False
        if self._rates is None:
            characters = (sound_bytes + 2) // 3 * 4
            self._rates = _rates(frame_bytes(message_bytes) - characters, -sound_bytes % 3, self._bytes_per_s)
            skipped, self._skipped = self._skipped or (0, 0), None
            self.skip(*skipped)
        self._at = now

    @property
    def inspect_below(self) -> int:
        """The size below which messages of the agent are to be inspected, in bytes."""
        if self._rates is None:
            return frames.INSPECT_ALL
        return SOUND_BELOW_BYTES if self.awaits_sound else INSPECT_BELOW_BYTES

    def follow(self, counts: Counts, now: float) -> bool:
        """Bring the clock up to date. Return True if everything that was passed on has been heard."""
        passed_s = self.passed_s(counts)
        if now > self._at:
            self._played_s = max(self._played_s, min(passed_s, self._played_s + now - self._at))
            self._at = now
        return self._played_s >= passed_s

    def played_s(self, counts: Counts, now: float) -> float:
        """Return the seconds of sound that were heard."""
        self.follow(counts, now)
        return max(0.0, self._played_s)

    def queued_s(self, counts: Counts, now: float) -> float:
        """Return the seconds of sound that were passed on and are still to be heard."""
        self.follow(counts, now)
        return max(0.0, self.passed_s(counts) - self._played_s)

    def clear(self, counts: Counts, now: float, after_bytes: int = 0) -> None:
        """Note that the carrier discards what it has not played.

        `after_bytes`: how many of the counted bytes came behind the message that says so.
        """
        self.follow(counts, now)
        if self._rates is None:
            return
        later_s = 0.0
        if after_bytes and counts.bytes:
            later_frames = round(after_bytes * counts.frames / counts.bytes)
            later_s = after_bytes * self._rates.per_byte - later_frames * self._rates.per_frame
        self._discarded_s += max(0.0, self.passed_s(counts) - later_s - self._played_s)
        self.awaits_sound = not after_bytes

    def stop(self, counts: Counts, now: float) -> None:
        """Note that the carrier's stream is over: nothing is heard until the next `sound_begins`."""
        self.clear(counts, now)
        self._at = NEVER
        self.awaits_sound = True

    def play_all(self, counts: Counts) -> None:
        """Note that the carrier says that everything was played."""
        self._played_s = max(self._played_s, self.passed_s(counts))

    def resume(self, now: float) -> None:
        """Note that what was passed on meanwhile begins to play on another stream."""
        if self._rates is not None:
            self._at = now

    def passed_s(self, counts: Counts) -> float:
        """Return the seconds of sound that were passed on and not discarded."""
        if self._rates is None:
            return self._played_s
        per_byte, per_frame = self._rates
        return counts.bytes * per_byte - counts.frames * per_frame - self._discarded_s
