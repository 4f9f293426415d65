# SPDX-License-Identifier: BSD-2-Clause
"""The interface of what an agent speaks: a carrier's dialect, raw sound, or Pipecat's frames.

An agent that is written for one of them takes calls of any carrier through serializers/translation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal, NamedTuple, Protocol

from serializers.events import AgentEvent, AudioFormat, CarrierEvent, Connected, Media, Start

ClearAnswer = Literal["marks", "cleared", "nothing"]
"""The answer to an agent's clear: each pending mark as played, that the sound is cleared, or nothing
(docs/reference/translation.md §6.2).
"""


class Message(NamedTuple):
    """One WebSocket message: UTF-8 if it is a text message."""

    data: bytes
    is_text: bool


class Reply(NamedTuple):
    """An agent's message that is answered at once, and means nothing to the carrier."""

    message: Message


class Formats(NamedTuple):
    """An agent says what its sound is, and is ready for the caller's."""

    to_agent: AudioFormat
    from_agent: AudioFormat


class Problem(NamedTuple):
    """An agent reports an error. `words`: a sentence of its own, for the operator."""

    words: str


AgentMessage = AgentEvent | Reply | Formats | Problem


def text(message: str) -> Message:
    """Return a text message."""
    return Message(message.encode(), is_text=True)


SoundWriter = Callable[[bytes, int, int, int], Message]
"""Writes sound with its sequence, its chunk and its timestamp in milliseconds."""


HELD_S: Final = 60.0
"""Seconds of sound that an agent may be ahead of what is played, if it speaks about as fast as people do."""


class AgentDialect(Protocol):
    """The messages of one kind of agent. Pure; one object for all calls."""

    name: str
    """As in `dialect` of `[[agents]]`."""

    frame_ms: int | None
    """Milliseconds of sound in each message to the agent; None for as much as comes."""

    clear_answer: ClearAnswer

    held_s: float = HELD_S
    """Seconds of the agent's sound that wait for their time at the most: then it is not read."""

    def audio(self, sample_rate: int) -> AudioFormat:
        """Return the format of the agent's sound, both ways. `sample_rate`: Hz, if the agent may choose."""

    def start_of(self, start: Start, audio: AudioFormat) -> Start:
        """Return the carrier's `start` as the agent reads it: with ids of its own dialect, the same for the
        same call, and its own format.
        """

    waits_for_formats: bool = False
    """Whether the caller's sound must wait until the agent has sent `Formats`."""

    def read_agent(self, message: Message) -> AgentMessage:
        """Read a message of the agent. Raises DialectError."""

    def opening(self, start: Start) -> list[Message]:
        """Return the messages that begin a call. `start`: as `start_of` returned it, with its sequence."""
        messages = self.write_carrier(Connected(), start), self.write_carrier(start, start)
        return [message for message in messages if message is not None]

    def after(self, event: CarrierEvent) -> list[Message]:
        """Return what is sent behind the message for an event; nothing for most agents."""
        return []

    def cleared(self, unplayed_ms: int) -> list[Message]:
        """Return what is sent after a clear. `unplayed_ms`: of the agent's sound that nobody heard."""
        return []

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


class LinearSound(AgentDialect):
    """Agents whose sound is linear16 at a rate of their choice, and that read no ids of a carrier."""

    def audio(self, sample_rate: int) -> AudioFormat:
        return AudioFormat("linear16", sample_rate)

    def start_of(self, start: Start, audio: AudioFormat) -> Start:
        return replace(start, audio=audio)

    def sound_writer(self, start: Start) -> SoundWriter:
        return lambda sound, *_: Message(sound, is_text=False)
