# SPDX-License-Identifier: BSD-2-Clause
"""The life of one outbound call: one table of states and events, and the diagram drawn from it. No I/O.

`python -m gateway.calls.outbound.outbound_state` prints the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

# An outbound call is the time between the admission of its session and the arrival of its media stream. Until
# the stream arrives, the worker that dialed must end the session; the stream may arrive at any worker, and
# from then on the worker that has the stream must. Three rules make the table:
#
#   1. The carrier is asked once. A request whose answer was lost may or may not have made a call, so it is
#      not sent again: the call is UNCERTAIN, and is searched in the carrier's list, while its callbacks and
#      its stream are waited for. Only a carrier that makes one call of two equal requests is asked again.
#   2. The slot comes first. A call that is given up ends its session, which frees the slot, before it hangs
#      up; and the store decides between that end and a stream that arrives at the same moment, so that
#      exactly one worker ends the session. Hence every state before the end can become ATTACHED.
#   3. No telephone rings on. Once a request was sent, giving up leads to HANGING_UP, where its outcome is
#      found out: a request in flight is waited for, an uncertain call is searched once more.
#
# PENDING is left for good only by a request: a carrier that takes no more calls for the moment has answered
# clearly, so the call waits for another turn as if nothing had been sent. If an earlier request of the same
# call was lost, it waits as UNCERTAIN instead.
#
# ATTACHED is not the end if machines are to be hung up on: a carrier may detect one when the agent talks
# already, and its callback is read by the worker that dialed. To give up in this state is only to stop
# looking.
#
# A pair that the table does not have cannot occur, or changes nothing. A state without events is terminal.


class OutboundState(StrEnum):
    """The state of an outbound call."""

    PENDING = "pending"
    """It waits for its turn: no request was sent that may have made a call."""
    DIALING = "dialing"
    """A request is in flight."""
    UNCERTAIN = "uncertain"
    """A request's answer was lost: the carrier may have made a call."""
    RINGING = "ringing"
    """The carrier has the call; its stream is waited for."""
    ATTACHED = "attached"
    """A worker has the stream, and ends the session."""
    HANGING_UP = "hanging_up"
    """The session is over, and no telephone must ring on."""
    ENDED = "ended"


class OutboundEvent(StrEnum):
    """An event in an outbound call's life; the value is its text in the diagram."""

    TURN = "turn in the rate limit"
    ACCEPTED = "carrier accepts"
    RATE_LIMITED = "carrier is rate limited"
    ANSWER_LOST = "answer lost"
    CALL_FOUND = "call found"
    STREAM_ATTACHED = "stream attached"
    GIVEN_UP = "given up"
    """There is a reason to end the call without a stream: refused, busy, not answered, stopped, a fault …"""
    MACHINE_DETECTED = "machine detected"
    RELEASED = "no machine to expect"
    """The session is over, the time to detect a machine has passed, or machines are not to be detected."""
    NO_CALL_LEFT = "no call left"
    """It was hung up, it was over, there never was one, or the carrier failed to hang up too often."""


TRANSITIONS: Final[Mapping[OutboundState, Mapping[OutboundEvent, OutboundState]]] = {
    OutboundState.PENDING: {
        OutboundEvent.TURN: OutboundState.DIALING,
        OutboundEvent.STREAM_ATTACHED: OutboundState.ATTACHED,
        OutboundEvent.GIVEN_UP: OutboundState.ENDED,
    },
    OutboundState.DIALING: {
        OutboundEvent.ACCEPTED: OutboundState.RINGING,
        OutboundEvent.RATE_LIMITED: OutboundState.PENDING,
        OutboundEvent.ANSWER_LOST: OutboundState.UNCERTAIN,
        OutboundEvent.STREAM_ATTACHED: OutboundState.ATTACHED,
        OutboundEvent.GIVEN_UP: OutboundState.HANGING_UP,
    },
    OutboundState.UNCERTAIN: {
        OutboundEvent.TURN: OutboundState.DIALING,
        OutboundEvent.CALL_FOUND: OutboundState.RINGING,
        OutboundEvent.STREAM_ATTACHED: OutboundState.ATTACHED,
        OutboundEvent.GIVEN_UP: OutboundState.HANGING_UP,
    },
    OutboundState.RINGING: {
        OutboundEvent.STREAM_ATTACHED: OutboundState.ATTACHED,
        OutboundEvent.GIVEN_UP: OutboundState.HANGING_UP,
    },
    OutboundState.ATTACHED: {
        OutboundEvent.MACHINE_DETECTED: OutboundState.HANGING_UP,
        OutboundEvent.RELEASED: OutboundState.ENDED,
        OutboundEvent.GIVEN_UP: OutboundState.ENDED,
    },
    OutboundState.HANGING_UP: {
        OutboundEvent.NO_CALL_LEFT: OutboundState.ENDED,
    },
    OutboundState.ENDED: {},
}
"""The next state for each event in each state."""


def mermaid() -> str:
    """Return the table as a Mermaid `stateDiagram-v2`, one step a line, without a trailing newline."""
    lines = ["stateDiagram-v2", f"    [*] --> {OutboundState.PENDING}"]
    for state, steps in TRANSITIONS.items():
        lines += [f"    {state} --> {following}: {event}" for event, following in steps.items()]
    lines += [f"    {state} --> [*]" for state, steps in TRANSITIONS.items() if not steps]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
