# SPDX-License-Identifier: BSD-2-Clause
"""The interface of what an agent speaks: a carrier's dialect, raw sound, or Pipecat's frames.

An agent that is written for one of them takes calls of any carrier through serializers/translation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from serializers.events import AgentEvent, AudioFormat, CarrierEvent, Media, Start

ClearAnswer = Literal["marks", "cleared", "nothing"]
"""The answer to an agent's clear: each pending mark as played, that the sound is cleared, or nothing
(docs/reference/translation.md §6.2).
"""


class Message(NamedTuple):
    """One WebSocket message: UTF-8 if it is a text message."""

    data: bytes
    is_text: bool


def text(message: str) -> Message:
    """Return a text message."""
    return Message(message.encode(), is_text=True)


SoundWriter = Callable[[bytes, int, int, int], Message]
"""Writes sound with its sequence, its chunk and its timestamp in milliseconds."""


class AgentDialect(Protocol):
    """The messages of one kind of agent. Pure; one object for all calls."""

    name: str
    """As in `dialect` of `[[agents]]`."""

    frame_ms: int | None
    """Milliseconds of sound in each message to the agent; None for as much as comes."""

    clear_answer: ClearAnswer

    def audio(self, sample_rate: int) -> AudioFormat:
        """Return the format of the agent's sound, both ways. `sample_rate`: Hz, if the agent may choose."""

    def start_of(self, start: Start, audio: AudioFormat) -> Start:
        """Return the carrier's `start` as the agent reads it: with ids of its own dialect, the same for the
        same call, and its own format.
        """

    def read_agent(self, message: Message) -> AgentEvent:
        """Read a message of the agent. Raises DialectError."""

    def sound_writer(self, start: Start) -> SoundWriter:
        """Return what writes the sound of one call: as `write_carrier` does, and faster."""

        def write(sound: bytes, sequence: int, chunk: int, timestamp_ms: int) -> Message:
            media = Media(sound, track="inbound", chunk=chunk, timestamp_ms=timestamp_ms, sequence=sequence)
            message = self.write_carrier(media, start)
            assert message is not None
            return message

        return write

    def write_carrier(self, event: CarrierEvent, start: Start) -> Message | None:
        """Write an event for the agent; None if the dialect has no message for it.

        `start`: as `start_of` returned it. A `Media` has its sequence, chunk and timestamp.
        """
