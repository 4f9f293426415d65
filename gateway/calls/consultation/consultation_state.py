# SPDX-License-Identifier: BSD-2-Clause
"""The life of one consultation: one table of states and events, and the diagram drawn from it. No I/O.

`python -m gateway.calls.consultation.consultation_state` prints the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

# A consultation is the part of a warm transfer before the caller leaves the agent: a second call, to the
# person who may take the first. The caller stays on its stream with its agent, whose session runs on, and
# hears the holding sound while the agent is silent. Three rules make the table:
#
#   1. The caller's call is touched once, and only if nobody has given the consultation up before: the first
#      of "taken" and "given up" that is stored counts. The caller is then moved to the carrier's conference,
#      and the called person after it. Until then, whatever happens, the caller is where it was.
#   2. Everything that the carrier reports is stored, by whichever worker it reaches, and may come late, twice
#      and out of order. A key that takes the call is followed by the worker that its callback reaches, which
#      joins the two; the consultation's own task, in the worker that was asked for it, only sees to its end.
#      If that worker is lost, the call may still be taken, and every wait still ends at the carrier: it was
#      given how long to ring, to wait for a key, and to last.
#   3. No telephone rings on. A consultation that ends otherwise than by a report that its call is over leads
#      to HANGING_UP.
#
# In DIALING nothing else happens: a request takes some seconds at most, and what came meanwhile is seen next.
#
# A pair that the table does not have cannot occur, or changes nothing. A state without events is terminal.


class ConsultationState(StrEnum):
    """The state of a consultation."""

    DIALING = "dialing"
    """The carrier was asked for the call."""
    RINGING = "ringing"
    """The carrier has the call."""
    ANNOUNCING = "announcing"
    """It was answered: the called person hears who it is for."""
    JOINING = "joining"
    """The called person has taken it: the caller's call is being moved."""
    JOINED = "joined"
    """Both are in the carrier's conference. The session ends as `transferred`."""
    HANGING_UP = "hanging_up"
    ENDED = "ended"
    """The caller is back with the agent, or has hung up."""


class ConsultationEvent(StrEnum):
    """An event in a consultation's life; the value is its text in the diagram."""

    ACCEPTED = "carrier accepts"
    REFUSED = "carrier refuses"
    ANSWERED = "answered"
    TAKEN = "taken"
    NOT_REACHED = "busy, no answer, failed"
    LEFT = "hung up without a key"
    """The called person did not take the call: it pressed another key or none, or was a machine."""
    EXPIRED = "time is over"
    WITHDRAWN = "withdrawn"
    """The caller has hung up, the agent wants it back, or the gateway drains."""
    MOVED = "caller moved"
    NOT_MOVED = "caller not moved"
    """The carrier refused to move the caller's call, or it is over."""
    NO_CALL_LEFT = "no call left"


_S = ConsultationState
_E = ConsultationEvent

TRANSITIONS: Final[Mapping[ConsultationState, Mapping[ConsultationEvent, ConsultationState]]] = {
    _S.DIALING: {
        _E.ACCEPTED: _S.RINGING,
        _E.REFUSED: _S.ENDED,
    },
    _S.RINGING: {
        _E.ANSWERED: _S.ANNOUNCING,
        _E.TAKEN: _S.JOINING,
        _E.NOT_REACHED: _S.ENDED,
        _E.LEFT: _S.ENDED,
        _E.WITHDRAWN: _S.HANGING_UP,
        _E.EXPIRED: _S.HANGING_UP,
    },
    _S.ANNOUNCING: {
        _E.TAKEN: _S.JOINING,
        _E.NOT_REACHED: _S.ENDED,
        _E.LEFT: _S.ENDED,
        _E.WITHDRAWN: _S.HANGING_UP,
        _E.EXPIRED: _S.HANGING_UP,
    },
    _S.JOINING: {
        # A called person who leaves now is seen when the caller has been moved, or was not.
        _E.MOVED: _S.JOINED,
        _E.NOT_MOVED: _S.HANGING_UP,
        _E.EXPIRED: _S.HANGING_UP,
    },
    _S.JOINED: {},
    _S.HANGING_UP: {
        _E.NO_CALL_LEFT: _S.ENDED,
    },
    _S.ENDED: {},
}
"""The next state for each event in each state."""


def mermaid() -> str:
    """Return the table as a Mermaid `stateDiagram-v2`, one step a line, without a trailing newline."""
    lines = ["stateDiagram-v2", f"    [*] --> {_S.DIALING}"]
    for state, steps in TRANSITIONS.items():
        lines += [f"    {state} --> {following}: {event}" for event, following in steps.items()]
    lines += [f"    {state} --> [*]" for state, steps in TRANSITIONS.items() if not steps]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
