# SPDX-License-Identifier: BSD-2-Clause
"""What the demonstration agent says, and when: a prompt, then the caller's own words again. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from serializers.events import AgentEvent, Mark, Media

EXOTEL_MIN_BYTES = 3200
EXOTEL_MULTIPLE = 320
"""Smaller chunks, or others, are played with gaps (docs/reference/carriers.md §5.2)."""

GREETING_MARK = "greeting"


@dataclass(frozen=True, slots=True)
class Chunking:
    """The sizes a carrier takes sound in: at least `least` bytes, a multiple of `multiple`."""

    least: int = 1
    multiple: int = 1


CHUNKING: dict[str, Chunking] = {"exotel": Chunking(EXOTEL_MIN_BYTES, EXOTEL_MULTIPLE)}
"""By carrier; the others take any size."""


class Voice:
    """The agent's words in the order they are due. Times are seconds of any one clock.

    `delay`: seconds after which the caller's words are repeated. Words that fall due while the greeting still
    runs are left out: the agent does not talk over itself.
    """

    def __init__(self, chunking: Chunking, silence: bytes, delay: float) -> None:
        self._due: deque[tuple[float, bytes | Mark]] = deque()
        self._gathered = bytearray()
        self._chunking = chunking
        self._silence = silence
        self._delay = delay
        self._greeting_ends = 0.0

    def greet(self, now: float, frames: Sequence[bytes], frame_s: float) -> None:
        """The prompt from `now` on, a frame every `frame_s` seconds, and the mark behind it."""
        for number, frame in enumerate(frames):
            self._due.append((now + number * frame_s, frame))
        self._greeting_ends = now + len(frames) * frame_s
        self._due.append((self._greeting_ends, Mark(GREETING_MARK)))

    def repeat(self, now: float, payload: bytes) -> None:
        """The caller's words, to be said again."""
        if (due := now + self._delay) >= self._greeting_ends:
            self._due.append((due, payload))

    def hush(self, now: float) -> None:
        """Forgets everything that has not been said."""
        self._due.clear()
        self._gathered.clear()
        self._greeting_ends = now

    def next_due(self) -> float | None:
        """When there is something to say; None when there is nothing."""
        return self._due[0][0] if self._due else None

    def say(self, now: float) -> list[AgentEvent]:
        """What is due, cut as the carrier takes it."""
        said: list[AgentEvent] = []
        while self._due and self._due[0][0] <= now:
            _, detail = self._due.popleft()
            if isinstance(detail, Mark):
                said += [*self.finish(), detail]
                continue
            self._gathered += detail
            if len(self._gathered) >= self._chunking.least:
                whole = len(self._gathered) - len(self._gathered) % self._chunking.multiple
                said.append(Media(bytes(self._gathered[:whole])))
                del self._gathered[:whole]
        return said

    def finish(self) -> list[AgentEvent]:
        """What is left from gathering, filled up with silence: before a mark, or when the caller pauses."""
        if not self._gathered:
            return []
        size = max(len(self._gathered), self._chunking.least)
        size += -size % self._chunking.multiple
        filled = bytes(self._gathered) + self._silence * (-(-size // len(self._silence)))
        self._gathered.clear()
        return [Media(filled[:size])]
