# SPDX-License-Identifier: BSD-2-Clause
"""A carrier's playback buffer: the agent's audio that is still to be played. No I/O; time in ticks."""

from __future__ import annotations

from collections import deque

TICK_MS = 20
"""Milliseconds of audio that are played per tick."""

SETTLE_TICKS = 3
"""Ticks for which audio waits in an empty buffer before it is played, so that jitter makes no gap."""


class Playback:
    """A queue of audio and marks. A mark is reached when all audio before it has been played.

    `tick_bytes`: bytes of one tick of audio. `silence`: one tick of it.
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
        """Append audio of the agent."""
        if not payload:
            return
        if not self._waiting:
            self._settling = SETTLE_TICKS
        if self._waiting and isinstance(last := self._waiting[-1], bytearray):
            last += payload
        else:
            self._waiting.append(bytearray(payload))

    def mark(self, name: str) -> list[str]:
        """Append a mark. Return the marks to report now: this one, if nothing waits to be played
        (docs/reference/carriers.md §2.3).
        """
        if self._waiting:
            self._waiting.append(name)
            return []
        return [name]

    def clear(self) -> list[str]:
        """Empty the buffer. Return the marks that were dropped with the audio, in order."""
        marks = [item for item in self._waiting if isinstance(item, str)]
        self._waiting.clear()
        self._settling = 0
        return marks

    def play(self) -> tuple[bytes, list[str]]:
        """Return the audio of the next tick, silence if nothing waits, and the marks that it reached."""
        if self._settling:
            self._settling -= 1
            return self._silence, []
        audio = bytearray()
        reached: list[str] = []
        while self._waiting:
            head = self._waiting[0]
            if isinstance(head, str):
                reached.append(head)
                self._waiting.popleft()
                continue
            if len(audio) == self._tick_bytes:
                break
            piece = head[: self._tick_bytes - len(audio)]
            audio += piece
            del head[: len(piece)]
            if not head:
                self._waiting.popleft()
        audio += self._silence[len(audio) :]
        return bytes(audio), reached
