# SPDX-License-Identifier: BSD-2-Clause
"""The states of a relay, from two joined legs to two closed sockets: one table, and the diagram of it.

`python -m gateway.media.relay_states` prints the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

# A relay joins the carrier's leg and the agent's leg. As a rule both go together: the first sign of an end
# fixes the call's reason, both far ends receive a close frame and have `close_s` to answer it (RFC 6455
# §7.1), then both sockets are closed. That is the way RELAYING -> CLOSING -> CLOSED, open from every state in
# which no end is fixed yet.
#
# An agent's connection that has ended without a close frame is either: a handler that returned without
# closing, or a process that died. In CHECKING_AGENT its instance is asked, for a moment in which the carrier
# is not read; the answer arrives as AGENT_ENDED or AGENT_LOST.
#
# Three ends concern one side only, and each has a state of its own:
#
#   DRAINING_PLAYBACK  the agent has closed and was answered; the end is fixed. The carrier still plays what
#                      it has, and is hung up afterwards.
#   AGENT_HELD         the carrier's side is closing, because the call goes on elsewhere. The agent keeps its
#                      socket and must notice nothing, so no end is fixed yet.
#   RELEASED           one side was lost. The other one left this relay unclosed, as a leg for the next relay
#                      of the same call. The end is fixed for this relay, not for the call.
#
# TRANSFER_PENDING is RELAYING while somebody else moves the carrier's call. A carrier that closes now does so
# because of the transfer, which is why neither a hang-up nor another agent or stream is tried.
#
# What decides between two possible next states is not known to the table: whether a hang-up is configured,
# whether the agent is kept, whether the remaining side can go on. The table therefore lists the candidates in
# order of preference, and the relay enters the first one whose condition (`CONDITIONS`) holds. CLOSING has no
# condition, so a row that ends with it always leads somewhere.
#
# A pair of state and event that has no row changes nothing and is not an error: close frames, lost
# connections and expired timers of two sockets cross each other, and the first one counts. The row from
# CLOSING to CLOSING means that the state stays and the close or loss is recorded: it may have been the last
# one that was waited for, which then arrives as FINISHED.
#
# Four facts are no part of the state, because they hold for each side by itself and occur in any order. They
# stay on RelaySide: `close_seen` (its far end has sent a close frame), `close_sent` (it has been sent one),
# `lost` (its socket is closed) and `stall` (its far end does not read). FINISHED is raised when each side has
# had both close frames or is lost.


class RelayState(StrEnum):
    """The phase that a relay is in."""

    RELAYING = "relaying"
    TRANSFER_PENDING = "transfer_pending"
    CHECKING_AGENT = "checking_agent"
    DRAINING_PLAYBACK = "draining_playback"
    AGENT_HELD = "agent_held"
    CLOSING = "closing"
    RELEASED = "released"
    CLOSED = "closed"


class RelayEvent(StrEnum):
    """An occurrence that may change a relay's state. Its value is its label in the diagram."""

    END = "end"
    """The gateway ends the call: a limit, a stall, a protocol error, a request."""
    AGENT_CLOSED = "agent closed"
    """The agent has sent a close frame."""
    AGENT_DISCONNECTED = "agent disconnected"
    """The agent has ended its connection without a close frame."""
    AGENT_ENDED = "agent ended"
    """The instance that has ended its connection without a close frame still answers."""
    AGENT_LOST = "agent lost"
    """The agent's connection was reset, its instance does not answer, or the agent answers no pings."""
    CARRIER_CLOSED = "carrier closed"
    """The carrier has sent a close frame."""
    CARRIER_LOST = "carrier lost"
    """The carrier's socket is closed."""
    CARRIER_REPLACED = "carrier replaced"
    """The carrier has opened another media stream for the same call."""
    STOP_EXPIRED = "stop expired"
    """The carrier has announced the end of its stream (`stop`) and did not close its socket in time."""
    TRANSFER_STARTED = "transfer started"
    TRANSFER_FAILED = "transfer failed"
    TRANSFERRED = "transferred"
    PLAYBACK_ENDED = "playback ended"
    """The carrier has played all audio, and the call was hung up if it was to be."""
    FINISHED = "finished"
    """Both far ends have answered or are lost, or their time has run out."""


_S = RelayState
_E = RelayEvent

TRANSITIONS: Final[Mapping[RelayState, Mapping[RelayEvent, tuple[RelayState, ...]]]] = {
    _S.RELAYING: {
        _E.END: (_S.CLOSING,),
        _E.AGENT_CLOSED: (_S.DRAINING_PLAYBACK, _S.CLOSING),
        _E.AGENT_DISCONNECTED: (_S.CHECKING_AGENT, _S.RELEASED, _S.CLOSING),
        _E.AGENT_LOST: (_S.RELEASED, _S.CLOSING),
        _E.CARRIER_CLOSED: (_S.CLOSING,),
        _E.CARRIER_LOST: (_S.RELEASED, _S.CLOSING),
        _E.CARRIER_REPLACED: (_S.RELEASED,),
        _E.STOP_EXPIRED: (_S.CLOSING,),
        _E.TRANSFER_STARTED: (_S.TRANSFER_PENDING,),
        _E.TRANSFERRED: (_S.AGENT_HELD, _S.CLOSING),
    },
    _S.TRANSFER_PENDING: {
        _E.END: (_S.CLOSING,),
        _E.AGENT_CLOSED: (_S.CLOSING,),
        _E.AGENT_DISCONNECTED: (_S.CLOSING,),
        _E.AGENT_LOST: (_S.CLOSING,),
        _E.CARRIER_CLOSED: (_S.AGENT_HELD, _S.CLOSING),
        _E.CARRIER_LOST: (_S.AGENT_HELD, _S.CLOSING),
        _E.STOP_EXPIRED: (_S.AGENT_HELD, _S.CLOSING),
        _E.TRANSFER_FAILED: (_S.RELAYING,),
        _E.TRANSFERRED: (_S.AGENT_HELD, _S.CLOSING),
    },
    _S.CHECKING_AGENT: {
        _E.END: (_S.CLOSING,),
        _E.AGENT_ENDED: (_S.DRAINING_PLAYBACK, _S.CLOSING),
        _E.AGENT_LOST: (_S.RELEASED, _S.CLOSING),
        _E.CARRIER_CLOSED: (_S.CLOSING,),
        _E.CARRIER_LOST: (_S.CLOSING,),
        _E.STOP_EXPIRED: (_S.CLOSING,),
        _E.TRANSFERRED: (_S.CLOSING,),
    },
    _S.DRAINING_PLAYBACK: {
        # A close of the carrier's ends the wait for its playback; the hang-up follows as PLAYBACK_ENDED.
        _E.CARRIER_LOST: (_S.CLOSING,),
        _E.PLAYBACK_ENDED: (_S.CLOSING,),
        _E.FINISHED: (_S.CLOSED,),
    },
    _S.AGENT_HELD: {
        _E.END: (_S.CLOSING,),
        _E.AGENT_CLOSED: (_S.CLOSING,),
        _E.AGENT_DISCONNECTED: (_S.CLOSING,),
        _E.AGENT_LOST: (_S.CLOSING,),
        _E.TRANSFER_FAILED: (_S.CLOSING,),
    },
    _S.CLOSING: {
        _E.AGENT_CLOSED: (_S.CLOSING,),
        _E.AGENT_DISCONNECTED: (_S.CLOSING,),
        _E.AGENT_LOST: (_S.CLOSING,),
        _E.CARRIER_CLOSED: (_S.CLOSING,),
        _E.CARRIER_LOST: (_S.CLOSING,),
        _E.FINISHED: (_S.CLOSED,),
    },
    _S.RELEASED: {},
    _S.CLOSED: {},
}
"""For each state and event the states that may follow, the preferred one first."""

CONDITIONS: Final[Mapping[RelayState, str]] = {
    _S.DRAINING_PLAYBACK: "if it closed cleanly, and sound is left or a hang-up follows",
    _S.AGENT_HELD: "if the agent is kept",
    _S.CHECKING_AGENT: "if its instance can be asked",
    _S.RELEASED: "if the other side can go on",
}
"""The states that are entered on a condition, each with that condition; all others always can be."""

INITIAL: Final = RelayState.RELAYING

TERMINAL: Final = frozenset(state for state, row in TRANSITIONS.items() if not row)
"""The states of a relay that is over: nothing changes it any more."""

OPEN: Final = frozenset((_S.RELAYING, _S.TRANSFER_PENDING, _S.CHECKING_AGENT, _S.AGENT_HELD))
"""The states in which no end is fixed yet."""


def mermaid() -> str:
    """Return the table as a Mermaid `stateDiagram-v2`, one line for each pair of states.

    Rows that leave the state as it is are not drawn. There is no trailing newline.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL}"]
    for state, row in TRANSITIONS.items():
        labels: dict[RelayState, list[str]] = {}
        for event, candidates in row.items():
            for candidate in candidates:
                labels.setdefault(candidate, []).append(event.value)
        labels.pop(state, None)
        for candidate, events in labels.items():
            condition = f" ({CONDITIONS[candidate]})" if candidate in CONDITIONS else ""
            lines.append(f"    {state} --> {candidate}: {', '.join(events)}{condition}")
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
