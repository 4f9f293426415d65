# SPDX-License-Identifier: BSD-2-Clause
"""The life cycle of a session: one table, and the diagram drawn from it.

`python -m gateway.model.lifecycle` prints the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

# A session is one run of an agent for one caller. It begins when it gets a slot, or when its id is given out
# before its socket comes (a pending session). A call that is refused never becomes a session and is not
# stored, so there is no state for refusals.
#
# Three things happen to a session, in this order, and each at most once:
#
#   1. the agent is asked to run           created  -> starting
#   2. the agent runs                      starting -> running
#   3. there is a reason to end            running  -> ending
#
# The third may come before the second: a start that is given up after its request was sent.
#
# `created` is a pending session: it occupies no slot and no worker owns it. When its socket comes it gets a
# slot, or is refused. A session that begins with a carrier's stream is `starting` from the first. `ending` is
# the time between the reason to end and the moment in which the instance is free. Mostly it is too short to
# be recorded: the agent has ended by itself, or has answered the close of its socket. It is recorded where
# the instance cannot be known to be free (gateway/calls/slot_release.py); the session keeps its slot then.
#
# Every session ends in exactly one of three ways:
#
#   ended     it ran, and ended as calls do: a hang-up, the longest duration, a stop
#   failed    something broke, at any time; also if the process that carried it died
#   canceled  it was over before it ran, and nothing broke: the caller gave up, or it was stopped
#
# Hence the shape of the table: a session that is not over can fail in any state and without a step between,
# because a process may die at any time. Only a session that never ran can be canceled, and only one that ran
# can have ended. A state without a next state is terminal: the session occupies no slot and never changes.


class SessionState(StrEnum):
    """The states of a session, as the store records them and the API reports them."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    FAILED = "failed"
    CANCELED = "canceled"


INITIAL: Final = (SessionState.CREATED, SessionState.STARTING)
"""The states in which a session may begin."""

TRANSITIONS: Final[Mapping[SessionState, Mapping[SessionState, str]]] = {
    SessionState.CREATED: {
        SessionState.STARTING: "the socket came",
        SessionState.CANCELED: "stopped, or the socket never came",
        SessionState.FAILED: "the gateway was lost",
    },
    SessionState.STARTING: {
        SessionState.RUNNING: "the agent is connected",
        SessionState.ENDING: "over, but the agent may have been asked",
        SessionState.CANCELED: "over before the agent was connected",
        SessionState.FAILED: "the agent did not start",
    },
    SessionState.RUNNING: {
        SessionState.ENDING: "there is a reason to end",
        SessionState.FAILED: "the gateway was lost",
    },
    SessionState.ENDING: {
        SessionState.ENDED: "the instance is free, as calls go",
        SessionState.FAILED: "the instance is free, after a fault",
        SessionState.CANCELED: "the instance is free, and the agent never ran",
    },
    SessionState.ENDED: {},
    SessionState.FAILED: {},
    SessionState.CANCELED: {},
}
"""For each state the states that may follow it, each with the reason for the step."""

TERMINAL: Final = frozenset(state for state, following in TRANSITIONS.items() if not following)
"""The states of a session that is over."""

ACTIVE: Final = frozenset(set(SessionState) - TERMINAL - {SessionState.CREATED})
"""The states of a session that occupies a slot."""


class LifecycleError(ValueError):
    """The table has no such step."""

    def __init__(self, old: SessionState, new: SessionState) -> None:
        super().__init__(f"a session that is {old} cannot become {new}")
        self.old = old
        self.new = new


def check(old: SessionState, new: SessionState) -> None:
    """Raise LifecycleError unless the table has the step from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        raise LifecycleError(old, new)


def terminal_state(ran: bool, reported: SessionState) -> SessionState:
    """Return the terminal state of a session that `ran` or did not and whose end was reported as `reported`.

    An end must always free the slot, so a report with the wrong kind of good end is corrected and not
    refused: a session that ran has `ended`, one that never ran was `canceled`. Raises LifecycleError if
    `reported` is not terminal.
    """
    if reported not in TERMINAL:
        raise LifecycleError(SessionState.ENDING, reported)
    if reported is SessionState.FAILED:
        return reported
    return SessionState.ENDED if ran else SessionState.CANCELED


def mermaid() -> str:
    """Return the table as a Mermaid `stateDiagram-v2`, one step a line, without a trailing newline."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {state}" for state in INITIAL]
    for state, following in TRANSITIONS.items():
        lines += [f"    {state} --> {new}: {why}" for new, why in following.items()]
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
