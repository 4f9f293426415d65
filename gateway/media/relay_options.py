# SPDX-License-Identifier: BSD-2-Clause
"""The settings of one relay: its limits, what it inspects, and what follows the end of one side."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.media.hangup_after_playback import HangupAfterPlayback
from gateway.media.relay_side import RelaySide
from serializers.dialect import Dialect
from serializers.transforms import Transform

NEVER: Final = math.inf
"""A time of the event loop's clock that does not come."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """The times of a relay, in seconds, and the largest message that it passes on, in bytes."""

    max_duration_s: float
    idle_s: float
    """How long the carrier may send nothing."""
    stall_s: float
    """How long a side may leave its bytes unread."""
    close_s: float
    """How long a far end may take to answer a close frame."""
    max_message_bytes: int
    ping_s: float = 0.0
    """The interval between two pings of the relay; 0 for none."""
    agent_silence_s: float = 0.0
    """How long an agent may answer no ping before it counts as lost; 0 for ever."""

    @property
    def shortest_s(self) -> float:
        """The shortest of the times that are watched while the call runs, in seconds."""
        return min(self.max_duration_s, self.idle_s, self.ping_s or NEVER, self.agent_silence_s or NEVER)


class CallEnding(Protocol):
    """A call that knows what follows its agent's end. It is asked only then: nothing is made before."""

    def hangup_after_playback(self) -> HangupAfterPlayback | None:
        """Return how the call ends; None closes the carrier's side at once."""


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """The settings of one relay beside its two legs."""

    limits: RelayLimits
    dialect: Dialect | None
    """The carrier's media-stream messages; None for a client whose messages are not inspected."""
    on_first_sound: Callable[[], None]
    """Called once, before the agent's first message with sound is passed on."""
    transforms: tuple[Transform, Transform] | None = None
    """The transforms of a relay by messages, carrier to agent and agent to carrier; None relays bytes."""
    sound_bytes_per_s: int | None = None
    """Bytes of a second of the agent's sound; None if they cannot be counted."""
    ending: CallEnding | None = None
    """Lets the carrier play, and hangs the call up, after the agent has closed cleanly; None closes the
    carrier's side at once."""
    keeps_agent: bool = True
    """Whether the agent keeps its socket when its call is transferred."""
    agent_answers: Callable[[], Awaitable[bool]] | None = None
    """Returns whether the agent's instance answers, when the agent has ended its connection without a close
    frame: then it has ended the call, else it is lost. Does not raise. None: it is lost either way."""
    asks_after_reset: bool = False
    """Whether `agent_answers` also decides for a connection that was reset."""
    on_agent_lost: Callable[[RelaySide], None] | None = None
    """Receives the carrier's side, for another agent, when the agent's socket is lost; None ends the call."""
    on_carrier_lost: Callable[[RelaySide], bool] | None = None
    """Is offered the agent's side, for another stream of the carrier, when the carrier's socket is lost or
    replaced. Returns False to refuse it; None or a refusal ends the call."""
