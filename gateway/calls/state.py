# SPDX-License-Identifier: BSD-2-Clause
"""The states of an inbound call: one table, and the diagram drawn from it.

`python -m gateway.calls.state` prints the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import structlog

from gateway.calls.termination import Termination
from gateway.media.disconnect import Disconnect, reason_for_agent, reason_for_carrier

# A call begins as a WebSocket upgrade and is set up in steps; each step has a state:
#
#   authenticating    the URL is read and the upgrade is authenticated, before it is answered
#   opening           the socket is open (101); the carrier's `start` is awaited
#   routing           the agent is found, the call is authenticated by its `start`, and a slot is acquired
#   queued            every slot of the agent is in use; the call waits in the agent's queue
#   connecting        the slot is acquired, the session exists in the store; the agent's socket is opened
#
# A client without a dialect (/ws/generic) has no `start`, so it skips `opening`: its upgrade is answered when
# its agent is connected. A call whose stream belongs to a call that is bridged already ends in `routing`: the
# other call takes the socket, and nothing is left to record.
#
# From the first connection of the agent on, the call has a bridge, which is in one of three states:
#
#   bridged           both legs are connected by a relay
#   awaiting_agent    the agent was lost; the carrier's leg is buffered until another agent is connected
#   awaiting_carrier  the carrier was lost; the agent's leg is buffered until the carrier opens another stream
#
# Only one leg can be lost at a time: if the other one goes too, there is nothing left to bridge.
#
# Whatever the state, the call may end: the end is decided by the step itself (it raises CallEnded), by the
# relay, or from outside (Termination). `ending` saves the end, closes what is open and writes the log line.
# Only `ending` leads to `ended`, except for the stream that was attached to another call.


class CallState(StrEnum):
    """The state of a call."""

    AUTHENTICATING = "authenticating"
    OPENING = "opening"
    ROUTING = "routing"
    QUEUED = "queued"
    CONNECTING = "connecting"
    BRIDGED = "bridged"
    AWAITING_AGENT = "awaiting_agent"
    AWAITING_CARRIER = "awaiting_carrier"
    ENDING = "ending"
    ENDED = "ended"


INITIAL: Final = CallState.AUTHENTICATING
"""The state in which a call begins."""

CHANGES: Final[Mapping[CallState, Mapping[CallState, str]]] = {
    CallState.AUTHENTICATING: {
        CallState.OPENING: "the upgrade is answered",
        CallState.ROUTING: "the client has no dialect",
        CallState.ENDING: "refused",
    },
    CallState.OPENING: {
        CallState.ROUTING: "start was read",
        CallState.ENDING: "no start, or a bad one",
    },
    CallState.ROUTING: {
        CallState.QUEUED: "no slot is free",
        CallState.CONNECTING: "a slot is acquired",
        CallState.ENDING: "refused",
        CallState.ENDED: "the stream was attached to another call",
    },
    CallState.QUEUED: {
        CallState.QUEUED: "the queue of another agent",
        CallState.CONNECTING: "a slot is acquired",
        CallState.ENDING: "no slot in time",
    },
    CallState.CONNECTING: {
        CallState.BRIDGED: "the agent is connected",
        CallState.ENDING: "the agent was not connected",
    },
    CallState.BRIDGED: {
        CallState.AWAITING_AGENT: "the agent was lost",
        CallState.AWAITING_CARRIER: "the carrier was lost",
        CallState.ENDING: "a leg closed, or the call was terminated",
    },
    CallState.AWAITING_AGENT: {
        CallState.BRIDGED: "another agent is connected",
        CallState.ENDING: "no other agent",
    },
    CallState.AWAITING_CARRIER: {
        CallState.BRIDGED: "another stream was attached",
        CallState.ENDING: "no other stream",
    },
    CallState.ENDING: {
        CallState.ENDED: "the end is saved, both legs are closed",
    },
    CallState.ENDED: {},
}
"""For each state the states that may follow it, each with what causes the change."""


class IllegalStateChange(Exception):  # noqa: N818 - a mistake in this program, named as what it is
    """A change that the table does not have: an internal error, which ends the call that made it."""

    def __init__(self, old: CallState, new: CallState) -> None:
        super().__init__(f"a call that is {old} cannot become {new}")
        self.old = old
        self.new = new


class CallProgress:
    """How far one call is; the call and its bridge share it.

    `state` changes through `change` alone. `session_id` is a new id, until the call proves to be a session
    that exists already. `log` has every field that is known of the call so far.
    """

    __slots__ = ("_state", "log", "session_id", "termination")

    def __init__(self, session_id: str, log: structlog.stdlib.BoundLogger) -> None:
        self._state = INITIAL
        self.session_id = session_id
        self.termination = Termination()
        self.log = log

    @property
    def state(self) -> CallState:
        """The call's present state."""
        return self._state

    def change(self, new: CallState) -> None:
        """Change the state. Raises IllegalStateChange if the table does not have the change."""
        if new not in CHANGES[self._state]:
            raise IllegalStateChange(self._state, new)
        self._state = new

    def carrier_gone(self, disconnect: Disconnect) -> None:
        """Set the end of a call whose carrier, or client, left before its leg was bridged."""
        self.termination.set_by_far_end(disconnect, reason_for_carrier(disconnect))

    def agent_gone(self, disconnect: Disconnect) -> None:
        """Set the end of a call whose agent left before its leg was bridged."""
        self.termination.set_by_far_end(disconnect, reason_for_agent(disconnect))


def mermaid() -> str:
    """Return the table as a Mermaid `stateDiagram-v2`, one change a line, without a trailing newline."""
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL}"]
    for state, changes in CHANGES.items():
        lines += [f"    {state} --> {new}: {cause}" for new, cause in changes.items()]
    lines += [f"    {state} --> [*]" for state, changes in CHANGES.items() if not changes]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
