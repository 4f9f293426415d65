# SPDX-License-Identifier: BSD-2-Clause
"""The audio that the fake agent sends, and when: a greeting, then the caller's audio again. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from serializers.events import AgentEvent, Mark, Media

EXOTEL_MIN_BYTES = 3200
EXOTEL_MULTIPLE = 320
"""Chunks of other sizes are played with gaps (docs/reference/carriers.md §5.2)."""

GREETING_MARK = "greeting"


@dataclass(frozen=True, slots=True)
class Chunking:
    """The chunk sizes that a carrier plays: at least `min_bytes`, and a multiple of `multiple`."""

    min_bytes: int = 1
    multiple: int = 1


CHUNKING: dict[str, Chunking] = {"exotel": Chunking(EXOTEL_MIN_BYTES, EXOTEL_MULTIPLE)}
"""The chunking by carrier; the others play any size."""


class Voice:
    """The agent's audio in the order in which it is due. Times are seconds of one clock.

    `delay`: seconds after which the caller's audio is repeated. Audio that would fall into the greeting is
    dropped: the agent does not talk over itself.
    """

    def __init__(self, chunking: Chunking, silence: bytes, delay: float) -> None:
        self._due: deque[tuple[float, bytes | Mark]] = deque()
        self._gathered = bytearray()
        self._chunking = chunking
        self._silence = silence
        self._delay = delay
        self._greeting_ends = 0.0

    def greet(self, now: float, frames: Sequence[bytes], frame_s: float) -> None:
        """Schedule the greeting from `now` on, a frame every `frame_s` seconds, and a mark behind it."""
        for number, frame in enumerate(frames):
            self._due.append((now + number * frame_s, frame))
        self._greeting_ends = now + len(frames) * frame_s
        self._due.append((self._greeting_ends, Mark(GREETING_MARK)))

    def repeat(self, now: float, payload: bytes) -> None:
        """Schedule audio of the caller, received at `now`, to be sent again."""
        if (due := now + self._delay) >= self._greeting_ends:
            self._due.append((due, payload))

    def interrupt(self, now: float) -> None:
        """Drop everything that has not been sent."""
        self._due.clear()
        self._gathered.clear()
        self._greeting_ends = now

    def next_due(self) -> float | None:
        """Return when the next piece is due, or None if nothing is scheduled."""
        return self._due[0][0] if self._due else None

    def due_events(self, now: float) -> list[AgentEvent]:
        """Remove and return everything that is due, in chunks that the carrier plays."""
        events: list[AgentEvent] = []
        while self._due and self._due[0][0] <= now:
            _, item = self._due.popleft()
            if isinstance(item, Mark):
                events += [*self.flush(), item]
                continue
            self._gathered += item
            if len(self._gathered) >= self._chunking.min_bytes:
                whole = len(self._gathered) - len(self._gathered) % self._chunking.multiple
                events.append(Media(bytes(self._gathered[:whole])))
                del self._gathered[:whole]
        return events

    def flush(self) -> list[AgentEvent]:
        """Return the rest that is too short for a chunk, padded with silence. For marks and pauses."""
        if not self._gathered:
            return []
        size = max(len(self._gathered), self._chunking.min_bytes)
        size += -size % self._chunking.multiple
        padded = bytes(self._gathered) + self._silence * (-(-size // len(self._silence)))
        self._gathered.clear()
        return [Media(padded[:size])]
