# SPDX-License-Identifier: BSD-2-Clause
"""The life of one worker process: one table of states and events, and the diagram drawn from it. No I/O.

`python -m gateway.server.worker_state` prints the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final

# A worker serves until a signal ends its life. There are three kinds:
#
#   drain       SIGTERM, a first Ctrl-C, or the death of the parent process. Running calls go on, new ones are
#               refused with 503, and the process ends with its last call or after `drain_timeout`. After the
#               death of the parent the port is closed at once: nobody would know whom to ask for it, and the
#               gateway is likely to be started again.
#   stop        SIGQUIT, or a Ctrl-C while the worker drains. Running calls are ended now.
#   hand over   Another gateway listens on the port and gets every new connection (takeover.py).
#               A client cannot know that it was connected to the old gateway, so this worker must not refuse
#               the clients that are still on their way. It leaves in two grace periods of the same length:
#
#                 LEAVING_PORT   The port stays open: a TCP handshake that began with this worker completes
#                                here. At the end the backlog is accepted and the port closed.
#                 PORT_LEFT      The clients that were accepted last send their requests, and become running
#                                calls.
#
#               Only then does it drain.
#
# A worker that drains still has to leave a port that is handed over: the new gateway waits until the old
# sockets are gone (takeover.take_port). So DRAINING takes the hand-over, too, and a grace period goes on when
# a drain interrupts it. The port is then closed without a change of state; closing it twice has no effect.
#
# Three of the events are no commands but conditions, a deadline that has passed or no running call, which
# `WorkerLife.due_events` reports as long as they hold. A pair that the table does not have changes nothing.
# A state without events is terminal.


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    SERVING = "serving"
    LEAVING_PORT = "leaving_port"
    PORT_LEFT = "port_left"
    DRAINING = "draining"
    STOPPING = "stopping"


class WorkerEvent(StrEnum):
    """An event that may change the state of a worker; the value is its text in the diagram."""

    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGQUIT = "SIGQUIT"
    PARENT_DIED = "parent died"
    PORT_HANDED_OVER = "port handed over"
    GRACE_OVER = "grace period over"
    DRAIN_TIMEOUT = "drain timeout"
    NO_CALLS = "no call running"


@dataclass(frozen=True, slots=True)
class Step:
    """One cell of the table: the next state, and the work that the step causes.

    `starts_grace`: a grace period begins, unless one is running. `closes_port`: the worker accepts what waits
    in the port's backlog and closes the port.
    """

    state: WorkerState
    starts_grace: bool = False
    closes_port: bool = False


_LEAVING: Final = {
    WorkerEvent.SIGTERM: Step(WorkerState.DRAINING),
    WorkerEvent.SIGINT: Step(WorkerState.DRAINING),
    WorkerEvent.PARENT_DIED: Step(WorkerState.DRAINING, closes_port=True),
    WorkerEvent.SIGQUIT: Step(WorkerState.STOPPING),
}
"""The ways out of every state in which calls are still taken."""

TRANSITIONS: Final[Mapping[WorkerState, Mapping[WorkerEvent, Step]]] = {
    WorkerState.SERVING: {
        **_LEAVING,
        WorkerEvent.PORT_HANDED_OVER: Step(WorkerState.LEAVING_PORT, starts_grace=True),
    },
    WorkerState.LEAVING_PORT: {
        **_LEAVING,
        WorkerEvent.GRACE_OVER: Step(WorkerState.PORT_LEFT, starts_grace=True, closes_port=True),
    },
    WorkerState.PORT_LEFT: {
        **_LEAVING,
        WorkerEvent.GRACE_OVER: Step(WorkerState.DRAINING),
    },
    WorkerState.DRAINING: {
        WorkerEvent.SIGINT: Step(WorkerState.STOPPING),
        WorkerEvent.SIGQUIT: Step(WorkerState.STOPPING),
        WorkerEvent.DRAIN_TIMEOUT: Step(WorkerState.STOPPING),
        WorkerEvent.NO_CALLS: Step(WorkerState.STOPPING),
        WorkerEvent.PARENT_DIED: Step(WorkerState.DRAINING, closes_port=True),
        WorkerEvent.PORT_HANDED_OVER: Step(WorkerState.DRAINING, starts_grace=True),
        WorkerEvent.GRACE_OVER: Step(WorkerState.DRAINING, closes_port=True),
    },
    WorkerState.STOPPING: {},
}
"""The step that each event causes in each state. A missing pair changes nothing."""

REFUSES_CALLS: Final = frozenset({WorkerState.DRAINING, WorkerState.STOPPING})
"""The states in which new calls are refused and `/readyz` answers 503."""


class WorkerLife:
    """The state of one worker, with its two deadlines. Times are seconds of one monotonic clock."""

    def __init__(self, *, drain_timeout_s: float, grace_s: float) -> None:
        """`drain_timeout_s`: how long DRAINING may last. `grace_s`: length of one grace period."""
        self.state = WorkerState.SERVING
        self._drain_timeout_s = drain_timeout_s
        self._grace_s = grace_s
        self._drain_deadline: float | None = None
        self._grace_deadline: float | None = None

    @property
    def refuses_calls(self) -> bool:
        """Whether new calls are refused in the current state."""
        return self.state in REFUSES_CALLS

    def seconds_left(self, now: float) -> float:
        """Return the seconds until running calls are ended. 0 before the worker drains, and once it stops."""
        if self.state is WorkerState.STOPPING or self._drain_deadline is None:
            return 0.0
        return max(0.0, self._drain_deadline - now)

    def due_events(self, now: float, running_calls: int) -> list[WorkerEvent]:
        """Return the events that time and the number of running calls cause, in the order to handle them."""
        events = []
        if self._grace_deadline is not None and now >= self._grace_deadline:
            events.append(WorkerEvent.GRACE_OVER)
        if self._drain_deadline is not None and now >= self._drain_deadline:
            events.append(WorkerEvent.DRAIN_TIMEOUT)
        if not running_calls:
            events.append(WorkerEvent.NO_CALLS)
        return events

    def handle(self, event: WorkerEvent, now: float) -> Step:
        """Take the step that `event` causes, and return it; its state is the same if nothing changes."""
        if event is WorkerEvent.GRACE_OVER:
            self._grace_deadline = None
        step = TRANSITIONS[self.state].get(event, Step(self.state))
        if step.starts_grace and self._grace_deadline is None:
            self._grace_deadline = now + self._grace_s
        if step.state is WorkerState.DRAINING and self._drain_deadline is None:
            self._drain_deadline = now + self._drain_timeout_s
        self.state = step.state
        return step


def mermaid() -> str:
    """Return the table as a Mermaid `stateDiagram-v2`, without a trailing newline.

    Events that lead from one state to the same next one share a line.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {WorkerState.SERVING}"]
    for state, steps in TRANSITIONS.items():
        by_next = sorted(steps.items(), key=lambda item: list(WorkerState).index(item[1].state))
        for following, group in groupby(by_next, key=lambda item: item[1].state):
            lines.append(f"    {state} --> {following}: {', '.join(event for event, _ in group)}")
    lines += [f"    {state} --> [*]" for state, steps in TRANSITIONS.items() if not steps]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
