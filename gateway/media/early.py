# SPDX-License-Identifier: BSD-2-Clause
"""What a caller says before there is anybody to hear it: kept in order, or as much of it as is wanted.

Only sound is thrown away, the oldest first. Whatever else a carrier says (digits, marks, `stop`) is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.media import frames
from gateway.media.frames import Seen, Walker


class Early:
    """The frames of one leg that came after its opening, as they came."""

    __slots__ = ("_frames", "_is_sound", "_most", "_number", "_sounds")

    def __init__(self, is_sound: Callable[[bytes], bool]) -> None:
        self._is_sound = is_sound
        self._most: int | None = None
        self._number = 0
        self._frames: dict[int, bytes] = {}  # in the order in which they came
        self._sounds: deque[int] = deque()  # those of them that are sound

    def begin(self, kept: list[bytes], *, masked: bool) -> list[bytes]:
        """Takes over what came with the opening and is none of it; what is left is the opening."""
        walker = Walker(masked=masked, max_payload=1 << 62, look_below=frames.LOOK_AT_ALL)
        raw = walker.feed(b"".join(kept))
        for place, frame in enumerate(walker.seen):
            if self._is_sound(frames.payload(raw, frame)):
                for later in walker.seen[place:]:
                    self.add(raw, later)
                return [raw[: frame.start]]
        return kept

    def add(self, chunk: bytes, frame: Seen) -> int:
        """Keeps a data frame; the bytes that were thrown away for it."""
        self._number += 1
        self._frames[self._number] = chunk[frame.start : frame.end]
        # A fragment is no message, so it is none of those that may be thrown away.
        if frame.first & frames.FIN and self._is_sound(frames.payload(chunk, frame)):
            self._sounds.append(self._number)
        return self._forget()

    def keep(self, most: int | None) -> int:
        """From now on no more than the newest `most` messages of sound; None: all. Gives the bytes freed."""
        self._most = most
        return self._forget()

    def take(self) -> bytes:
        """Everything that is kept, and nothing is kept any more."""
        kept = b"".join(self._frames.values())
        self._frames.clear()
        self._sounds.clear()
        return kept

    def _forget(self) -> int:
        freed = 0
        while self._most is not None and len(self._sounds) > self._most:
            freed += len(self._frames.pop(self._sounds.popleft()))
        return freed
