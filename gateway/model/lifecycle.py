# SPDX-License-Identifier: BSD-2-Clause
"""The life cycle of a session: one table, and the diagram drawn from it.

`python -m gateway.model.lifecycle` prints the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

# A session is one run of an agent for one caller. It begins when a place was taken for it, or when it was
# promised one: a call that is refused never becomes a session and leaves nothing behind, so there is no state
# for refusals.
#
# Three things happen to a session, in this order, and each at most once:
#
#   1. the agent is asked to run        created  -> starting
#   2. the agent runs                   starting -> running
#   3. somebody or something ends it    running  -> ending
#
# `created` is a session that was promised: its id was given out, and its socket has not come. It holds no
# place and no worker carries it; a promise costs nothing, and the place is taken, or refused, when the socket
# comes. A session that begins with a carrier's stream is born `starting`. `ending` is the time between the
# reason to end and the close of both legs; it is over within seconds, so the store does not write it down:
# what it is told next is the end.
#
# There are three ways to be over, and every session comes to exactly one of them:
#
#   ended     it ran, and went as calls go: a hang-up, a longest duration, a stop
#   failed    something broke, whenever that was; also when the process that carried it died
#   canceled  it was over before it ran, and nothing broke: the caller gave up, or somebody stopped it
#
# Hence the shape of the table: whatever is not over can fail, at any time and with no step between, because a
# process may die in any state. Only what never ran can be canceled, and only what ran can be ended.
# A state without a way out is terminal. A terminal session holds no place, and nothing changes it any more.


class SessionState(StrEnum):
    """Where a session is in its life."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    FAILED = "failed"
    CANCELED = "canceled"


INITIAL: Final = (SessionState.CREATED, SessionState.STARTING)
"""The states in which a session may be born."""

TRANSITIONS: Final[Mapping[SessionState, Mapping[SessionState, str]]] = {
    SessionState.CREATED: {
        SessionState.STARTING: "the socket came",
        SessionState.CANCELED: "stopped, or the socket never came",
        SessionState.FAILED: "the gateway was lost",
    },
    SessionState.STARTING: {
        SessionState.RUNNING: "the agent is connected",
        SessionState.CANCELED: "over before the agent was connected",
        SessionState.FAILED: "the agent did not start",
    },
    SessionState.RUNNING: {
        SessionState.ENDING: "there is a reason to end",
        SessionState.FAILED: "the gateway was lost",
    },
    SessionState.ENDING: {
        SessionState.ENDED: "both legs closed, as calls go",
        SessionState.FAILED: "both legs closed, after a fault",
    },
    SessionState.ENDED: {},
    SessionState.FAILED: {},
    SessionState.CANCELED: {},
}
"""For each state the states that may follow it, each with what makes it so."""

TERMINAL: Final = frozenset(state for state, following in TRANSITIONS.items() if not following)
"""The states of a session that is over."""

ACTIVE: Final = frozenset(set(SessionState) - TERMINAL - {SessionState.CREATED})
"""The states of a session that holds a place."""


class LifecycleError(ValueError):
    """A step that the table does not have."""

    def __init__(self, old: SessionState, new: SessionState) -> None:
        super().__init__(f"a session that is {old} cannot become {new}")
        self.old = old
        self.new = new


def check(old: SessionState, new: SessionState) -> None:
    """Raises LifecycleError unless the table has the step from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        raise LifecycleError(old, new)


def over(ran: bool, wanted: SessionState) -> SessionState:
    """The terminal state of a session that `ran` or did not, where its end was meant to be `wanted`.

    An end must always free its place, so one that names the wrong kind of good end is put right rather than
    refused: what never ran was canceled, what ran has ended. Raises LifecycleError if `wanted` is no end.
    """
    if wanted not in TERMINAL:
        raise LifecycleError(SessionState.ENDING, wanted)
    if wanted is SessionState.FAILED:
        return wanted
    return SessionState.ENDED if ran else SessionState.CANCELED


def mermaid() -> str:
    """The table as a Mermaid `stateDiagram-v2`, one step a line, without a trailing newline."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {state}" for state in INITIAL]
    for state, following in TRANSITIONS.items():
        lines += [f"    {state} --> {new}: {why}" for new, why in following.items()]
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
