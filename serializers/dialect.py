# SPDX-License-Identifier: BSD-2-Clause
"""The interface of a carrier's dialect: both directions of its media-stream messages, from and to JSON."""

from __future__ import annotations

from typing import Protocol

import msgspec

from serializers.events import AgentEvent, AudioFormat, CarrierEvent, Start
from serializers.transforms import RenameStreamId, ToAgent, ToCarrier, Transform


class DialectError(ValueError):
    """A message that is not of the dialect.

    `str()` says in one clause what is wrong with it, without the message's data.
    """


class _Envelope(msgspec.Struct, frozen=True):
    """A message whose values are skipped, however large it is: making them would take the time of calls."""

    event: msgspec.Raw = msgspec.Raw(b"null")


_read_envelope = msgspec.json.Decoder(_Envelope).decode
_read_text = msgspec.json.Decoder(str).decode


class Dialect(Protocol):
    """One carrier's media-stream messages. Pure: text in, events out, and back. Failures raise DialectError.

    "Carrier messages" are sent by the carrier, "agent messages" are sent to it.

    Reading is lenient, writing exact. An optional value of an event is written as the carrier usually has it
    (the version of `connected`, the track "inbound"). Ids, sequence, chunk and timestamp, which only the
    sender knows, are required if the carrier's documents show them. A value that the dialect has no field for
    is left out. An event that the dialect has no message for, `Unknown` included, raises DialectError.
    """

    name: str
    """The carrier's name, as in the path `/ws/{name}`: "twilio"."""

    frame_ms: int
    """Milliseconds of audio in one media message of the carrier: 20, Exotel 100 (docs/reference/carriers.md
    §1).
    """

    sends_connected: bool
    """Whether the carrier sends `connected` before `start`."""

    sends_stop: bool
    """Whether the carrier announces the end of the call before it closes the socket."""

    stream_id_field: str
    """The field with the stream's id, in both directions: "streamSid" (docs/reference/carriers.md §2-5)."""

    agent_media_events: frozenset[str]
    """The `event` values of agent messages with audio: {"media"}, Plivo {"playAudio"}."""

    returns_marks: bool = False
    """Whether the carrier reports the marks that a clear has discarded as played (docs/reference/carriers.md
    §2.3); others drop them, or do not say what they do.
    """

    needs_audio: bool = False
    """Whether the carrier ends a call in which it receives no audio."""

    min_media_bytes: int = 1
    media_step_bytes: int = 1
    """An agent message with at least so many bytes of audio, and a multiple of the step, plays without gaps.
    """

    def read_carrier(self, message: str | bytes) -> CarrierEvent:
        """Read a carrier message."""

    def read_agent(self, message: str | bytes) -> AgentEvent:
        """Read an agent message."""

    def write_carrier(self, event: CarrierEvent, start: Start) -> str:
        """Write an event as the carrier itself sends it on the stream of `start` (used by the simulator)."""

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        """Write an event as the carrier expects it on the stream of `start`."""

    def agent_audio(self, start: Start, *, own_document: bool = False) -> AudioFormat | None:
        """Return the format of audio that the carrier plays, None if it is not known for certain.

        It is the format that the carrier sends, unless it differs. `own_document`: whether the carrier opened
        the stream because a document or a request of this gateway said so.
        """
        return start.audio

    def silent_audio(self, start: Start, *, own_document: bool = False) -> AudioFormat | None:
        """Return a format in which silence at least may be sent, None if there is none: see `agent_audio`."""
        return self.agent_audio(start, own_document=own_document)

    def transforms(self) -> tuple[Transform, Transform]:
        """Return new transforms for one call: carrier to agent, agent to carrier."""
        return ToAgent(), ToCarrier()

    def renaming_transforms(
        self, agent_stream_id: str, carrier_stream_id: str
    ) -> tuple[Transform, Transform]:
        """Return `transforms` for a call whose agent knows the stream by another id than the carrier."""
        to_agent, to_carrier = self.transforms()
        field = self.stream_id_field
        return (
            RenameStreamId(to_agent, field, old=carrier_stream_id, new=agent_stream_id),
            RenameStreamId(to_carrier, field, old=agent_stream_id, new=carrier_stream_id),
        )

    def event_of(self, payload: bytes) -> str | None:
        """Return the message's `event`, known to the dialect or not, or None if it has none. Never raises.

        It is cheaper than reading the message, and accepts messages that the dialect refuses.
        """
        try:
            payload.decode()  # msgspec does not look at the parts that it skips
            return _read_text(_read_envelope(payload).event)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
