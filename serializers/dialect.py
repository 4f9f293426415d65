# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier's module provides: both ends of its vocabulary, from and to its JSON."""

from __future__ import annotations

import json
from typing import Protocol

from serializers.events import AgentEvent, AudioFormat, CarrierEvent, Start


class DialectError(ValueError):
    """A message that is not of the dialect.

    `str()` says what is wrong with it in one clause, without the message's data.
    """


class Dialect(Protocol):
    """One carrier's vocabulary. Pure: text in, events out, and back; every failure is a DialectError.

    "carrier" messages are those the carrier sends, "agent" messages those it is sent.

    Reading is loose, writing exact. What an event leaves open is written as the carrier usually says it
    (`connected`'s version, the track "inbound"); what only the sender can know (ids, sequence, chunk,
    timestamp) must be given where the documents show it. What the dialect has no field for is left out.
    An event the dialect has no word for, `Unknown` among them, is a DialectError.
    """

    name: str
    """As in the path `/ws/{name}`: "twilio"."""

    frame_ms: int
    """Milliseconds of sound in one media message of the carrier: 20, Exotel 100 (docs/reference/carriers.md
    §1).
    """

    says_connected: bool
    """Whether `connected` comes before `start`."""

    says_stop: bool
    """Whether the end of the call is announced before the close."""

    stream_id_field: str
    """The field of its messages, both ways, that holds the stream's id: "streamSid"
    (docs/reference/carriers.md §2-5).
    """

    agent_sound_events: frozenset[str]
    """The `event` of those agent messages that carry sound: {"media"}, Plivo {"playAudio"}."""

    needs_sound: bool = False
    """Whether the carrier ends a call that it is sent nothing in."""

    least_sound_bytes: int = 1
    sound_step_bytes: int = 1
    """How much sound a message must have so that the carrier plays it without gaps, and in what steps."""

    def read_carrier(self, message: str | bytes) -> CarrierEvent:
        """What the carrier's message means; loose where carriers are loose."""

    def read_agent(self, message: str | bytes) -> AgentEvent:
        """What a message to the carrier means."""

    def write_carrier(self, event: CarrierEvent, start: Start) -> str:
        """The event as the carrier itself would send it on the stream of `start` (the simulator's side)."""

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        """The event as the carrier wants to be sent it on the stream of `start`."""

    def agent_audio(self, start: Start) -> AudioFormat:
        """How the sound that the carrier is sent is coded: as it sends its own, unless it says otherwise."""
        return start.audio

    def event_of(self, payload: bytes) -> str | None:
        """The message's `event`, whether or not the dialect knows it; None where there is none. Never raises.

        For those who only want to know what passes by: cheaper than reading, and more forgiving.
        """
        try:
            message = json.loads(payload.decode())
        except (ValueError, RecursionError):
            return None
        event = message.get("event") if isinstance(message, dict) else None
        return event if isinstance(event, str) else None
