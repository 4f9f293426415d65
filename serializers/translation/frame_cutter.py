# SPDX-License-Identifier: BSD-2-Clause
"""Sound for an agent in messages of one length, whatever lengths it came in."""

from __future__ import annotations


class FrameCutter:
    """Cuts one direction's sound into frames of one size; the rest waits for the next piece."""

    def __init__(self, size: int | None, silence: bytes) -> None:
        """`size`: bytes of a frame; None cuts nothing. `silence`: one sample."""
        self._size = size
        self._silence = silence
        self._rest = b""

    def feed(self, sound: bytes) -> list[bytes]:
        """Return the frames that are whole now."""
        size = self._size
        if size is None:
            return [sound] if sound else []
        if not self._rest and len(sound) == size:
            return [sound]
        sound = self._rest + sound
        whole = len(sound) - len(sound) % size
        self._rest = sound[whole:]
        return [sound[at : at + size] for at in range(0, whole, size)]

    def flush(self) -> list[bytes]:
        """Return the rest as a frame, filled up with silence; nothing if there is none."""
        rest, self._rest = self._rest, b""
        if not rest:
            return []
        assert self._size is not None
        return [rest + self._silence * ((self._size - len(rest)) // len(self._silence))]
