# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's playback buffer: agent sound the caller has not heard yet. Pure; counts time in ticks."""

from __future__ import annotations

from collections import deque

TICK_MS = 20
"""Milliseconds of sound the caller hears per tick."""

SETTLE_TICKS = 3
"""Ticks a sound waits in an empty buffer before it is played, so that jitter makes no gap in it."""


class Playback:
    """Plays agent sound in the order it came; a mark is passed when all sound before it has been played.

    `tick_bytes`: bytes of one tick of sound. `silence`: one tick of it.
    """

    def __init__(self, tick_bytes: int, silence: bytes) -> None:
        if len(silence) != tick_bytes:
            raise ValueError("silence must be one tick long")
        self._tick_bytes = tick_bytes
        self._silence = silence
        self._waiting: deque[bytearray | str] = deque()
        self._settling = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be played."""
        return not self._waiting

    def add(self, payload: bytes) -> None:
        """Sound from the agent, to be played after all that waits."""
        if not payload:
            return
        if not self._waiting:
            self._settling = SETTLE_TICKS
        if self._waiting and isinstance(last := self._waiting[-1], bytearray):
            last += payload
        else:
            self._waiting.append(bytearray(payload))

    def mark(self, name: str) -> list[str]:
        """A mark from the agent. Returns what to report now: it, if nothing waits
        (docs/reference/carriers.md §2.3).
        """
        if self._waiting:
            self._waiting.append(name)
            return []
        return [name]

    def clear(self) -> list[str]:
        """Empties the buffer. Returns the marks that were thrown away with the sound, in order."""
        marks = [item for item in self._waiting if isinstance(item, str)]
        self._waiting.clear()
        self._settling = 0
        return marks

    def play(self) -> tuple[bytes, list[str]]:
        """The next tick as the caller hears it, silence where nothing waits, and the marks it passed."""
        if self._settling:
            self._settling -= 1
            return self._silence, []
        heard = bytearray()
        passed: list[str] = []
        while self._waiting:
            head = self._waiting[0]
            if isinstance(head, str):
                passed.append(head)
                self._waiting.popleft()
                continue
            if len(heard) == self._tick_bytes:
                break
            taken = head[: self._tick_bytes - len(heard)]
            heard += taken
            del head[: len(taken)]
            if not head:
                self._waiting.popleft()
        heard += self._silence[len(heard) :]
        return bytes(heard), passed
