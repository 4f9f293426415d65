# SPDX-License-Identifier: BSD-2-Clause
"""What a carrier's module provides: both ends of its vocabulary, from and to its JSON."""

from __future__ import annotations

from typing import Protocol

from serializers.events import AgentEvent, CarrierEvent, Start


class DialectError(ValueError):
    """A message that is not of the dialect. `str()` says what is wrong with it, in one sentence, without its data."""


class Dialect(Protocol):
    """One carrier's vocabulary. Pure: text in, events out, and back; every failure is a DialectError.

    "carrier" messages are those the carrier sends, "agent" messages those it is sent.
    """

    name: str
    """As in the path `/ws/{name}`: "twilio"."""

    frame_ms: int
    """Milliseconds of sound in one media message of the carrier: 20, Exotel 100 (carriers.md §1)."""

    says_connected: bool
    """Whether `connected` comes before `start`."""

    says_stop: bool
    """Whether the end of the call is announced before the close."""

    def read_carrier(self, message: str | bytes) -> CarrierEvent:
        """What the carrier's message means; loose where carriers are loose."""

    def read_agent(self, message: str | bytes) -> AgentEvent:
        """What a message to the carrier means."""

    def write_carrier(self, event: CarrierEvent, start: Start) -> str:
        """The event as the carrier itself would send it on the stream of `start` (the simulator's side)."""

    def write_agent(self, event: AgentEvent, start: Start) -> str:
        """The event as the carrier wants to be sent it on the stream of `start`."""
