# SPDX-License-Identifier: BSD-2-Clause
"""The sound of an agent that its carrier has not been sent: it has no more than AHEAD_S to play.

So a clear is heard at once whatever the carrier does with it, marks stand exactly where they were set, and
the carrier never has more than it takes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from serializers.agent_dialect import HELD_S

AHEAD_S: Final = 1.0
"""Seconds of sound that the carrier has and has not played, at the most."""

PIECE_S: Final = 0.2
"""The longest piece of sound that is sent at once, in seconds: longer ones are cut."""

IDLE_S: Final = 0.15
"""Seconds without sound after which what is too short for a message may be filled up with silence: more than
lie between two messages of an agent that gets its own sound every 100 ms.
"""

MAX_ITEMS: Final = 10_000
"""Pieces of sound and marks that wait here at the most, however short they are."""

Item = bytes | str
"""A piece of sound, or the name of a mark."""


class PlaybackQueue:
    """The sound and the marks of one call, in the carrier's format. Times are of one clock, in seconds."""

    def __init__(
        self,
        bytes_per_s: int,
        min_bytes: int,
        step_bytes: int,
        silence: bytes,
        longest_s: float = HELD_S,
    ) -> None:
        """`min_bytes`, `step_bytes`: what a message with sound must have at least, and be a multiple of.
        `silence`: one sample. `longest_s`: the seconds of sound that wait here at the most.
        """
        self._bytes_per_s = bytes_per_s
        self._longest_s = longest_s
        self._min_bytes = max(min_bytes, step_bytes)
        self._step_bytes = step_bytes
        longest = max(self._min_bytes, int(PIECE_S * bytes_per_s))
        self._max_bytes = longest - longest % step_bytes
        self._silence = silence
        self._short = bytearray()  # too little for a message
        self._short_since = 0.0
        self._items: deque[Item] = deque()
        self._held_bytes = 0
        self._plays_until = 0.0

    @property
    def is_full(self) -> bool:
        """Whether no more should be added: the agent is far ahead."""
        return self._held_bytes >= self._longest_s * self._bytes_per_s or len(self._items) >= MAX_ITEMS

    @property
    def held_s(self) -> float:
        """Seconds of sound that wait."""
        return (self._held_bytes + len(self._short)) / self._bytes_per_s

    def unplayed_s(self, now: float) -> float:
        """Return the seconds of sound that the caller has not heard: what waits, and what is being played."""
        return self.held_s + max(0.0, self._plays_until - now)

    def add_sound(self, sound: bytes, now: float) -> None:
        """Add sound behind everything else."""
        if not sound:
            return
        if self._short or len(sound) < self._min_bytes or len(sound) % self._step_bytes:
            self._short += sound
            self._short_since = now
            whole = len(self._short) - len(self._short) % self._step_bytes
            if whole < self._min_bytes:
                return
            sound = bytes(self._short[:whole])
            del self._short[:whole]
        self._add(sound)

    def add_mark(self, name: str) -> None:
        """Add a mark behind all sound."""
        self.fill_up()
        self._items.append(name)

    def fill_up(self) -> None:
        """Make a message of what is too short for one."""
        if self._short:
            size = max(self._min_bytes, len(self._short) + -len(self._short) % self._step_bytes)
            self._short += self._silence * ((size - len(self._short)) // len(self._silence))
            self._add(bytes(self._short))
            self._short.clear()

    def clear(self) -> list[str]:
        """Discard everything; return the names of the marks that were in it, in order."""
        marks = [item for item in self._items if isinstance(item, str)]
        self._items.clear()
        self._short.clear()
        self._held_bytes = 0
        self._plays_until = 0.0
        return marks

    def take_due(self, now: float) -> list[Item]:
        """Return and remove what is to be sent now, in order."""
        if self._short and now >= self._short_due:
            self.fill_up()
        due: list[Item] = []
        while self._items:
            item = self._items[0]
            if isinstance(item, bytes):
                if self._plays_until - now > AHEAD_S:
                    break
                self._plays_until = max(self._plays_until, now) + len(item) / self._bytes_per_s
                self._held_bytes -= len(item)
            due.append(self._items.popleft())
        return due

    def take_all(self) -> list[Item]:
        """Return and remove everything: nothing more comes."""
        self.fill_up()
        due = list(self._items)
        self._items.clear()
        self._held_bytes = 0
        return due

    def next_due(self) -> float | None:
        """Return when `take_due` has something again, None for not before more is added."""
        if self._items:
            return self._plays_until - AHEAD_S
        return self._short_due if self._short else None

    @property
    def _short_due(self) -> float:
        """When what is too short is sent after all: nothing follows, and the carrier has no more to play."""
        return max(self._short_since + IDLE_S, self._plays_until)

    def _add(self, sound: bytes) -> None:
        self._held_bytes += len(sound)
        if len(sound) <= self._max_bytes:
            self._items.append(sound)
            return
        at = 0
        while at < len(sound):
            size = self._max_bytes
            if len(sound) - at - size < self._min_bytes:
                size = len(sound) - at  # the last piece must not be too short
            self._items.append(sound[at : at + size])
            at += size
