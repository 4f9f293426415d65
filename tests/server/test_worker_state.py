# SPDX-License-Identifier: BSD-2-Clause
"""The life of a worker: every event in every state, the deadlines, and the diagram."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest

from gateway.server import worker_state
from gateway.server.worker_state import TRANSITIONS, Step, WorkerEvent, WorkerLife, WorkerState, mermaid

DRAIN_TIMEOUT_S = 60.0
GRACE_S = 1.0

SERVING, LEAVING_PORT, PORT_LEFT, DRAINING, STOPPING = WorkerState
TAKES_CALLS = (SERVING, LEAVING_PORT, PORT_LEFT)

EXPECTED = {
    **{(state, event): DRAINING for state in TAKES_CALLS for event in ("SIGTERM", "SIGINT", "parent died")},
    **{(state, "SIGQUIT"): STOPPING for state in (*TAKES_CALLS, DRAINING)},
    (SERVING, "port handed over"): LEAVING_PORT,
    (LEAVING_PORT, "grace period over"): PORT_LEFT,
    (PORT_LEFT, "grace period over"): DRAINING,
    (DRAINING, "SIGINT"): STOPPING,
    (DRAINING, "drain timeout"): STOPPING,
    (DRAINING, "no call running"): STOPPING,
}
"""The next state, written down once more. In every other pair the state stays as it is."""

EVENTS_TO = {
    SERVING: [],
    LEAVING_PORT: [WorkerEvent.PORT_HANDED_OVER],
    PORT_LEFT: [WorkerEvent.PORT_HANDED_OVER, WorkerEvent.GRACE_OVER],
    DRAINING: [WorkerEvent.SIGTERM],
    STOPPING: [WorkerEvent.SIGQUIT],
}


def a_worker(state: WorkerState = SERVING) -> WorkerLife:
    """A worker that came into `state` at time 0."""
    life = WorkerLife(drain_timeout_s=DRAIN_TIMEOUT_S, grace_s=GRACE_S)
    for event in EVENTS_TO[state]:
        life.handle(event, 0.0)
    assert life.state is state
    return life


@pytest.mark.parametrize(("state", "event"), list(product(WorkerState, WorkerEvent)))
def test_every_event_in_every_state(state: WorkerState, event: WorkerEvent) -> None:
    life = a_worker(state)
    step = life.handle(event, 0.0)
    assert life.state is step.state is EXPECTED.get((state, event), state)
    assert life.refuses_calls == (life.state in (DRAINING, STOPPING))
    assert step.closes_port == (
        (state, event) in {(LEAVING_PORT, "grace period over"), (DRAINING, "grace period over")}
        or (event == "parent died" and state is not STOPPING)
    )


def test_the_table_has_every_state_and_one_end() -> None:
    assert set(TRANSITIONS) == set(WorkerState)
    assert [state for state, steps in TRANSITIONS.items() if not steps] == [STOPPING]


def test_without_a_signal_a_worker_serves_for_ever_also_without_calls() -> None:
    life = a_worker()
    for event in life.due_events(1e9, running_calls=0):
        life.handle(event, 1e9)
    assert life.state is SERVING


def test_a_drain_ends_with_the_last_call() -> None:
    life = a_worker(DRAINING)
    assert life.due_events(1.0, running_calls=2) == []
    assert life.seconds_left(1.0) == DRAIN_TIMEOUT_S - 1.0
    (event,) = life.due_events(2.0, running_calls=0)
    life.handle(event, 2.0)
    assert life.state is STOPPING


def test_a_drain_ends_with_its_timeout_however_many_calls_run() -> None:
    life = a_worker(DRAINING)
    life.handle(WorkerEvent.SIGTERM, DRAIN_TIMEOUT_S - 1)  # a repeated signal does not prolong it
    assert life.due_events(DRAIN_TIMEOUT_S, running_calls=2) == [WorkerEvent.DRAIN_TIMEOUT]


def test_a_worker_that_stops_leaves_no_time() -> None:
    life = a_worker(DRAINING)
    life.handle(WorkerEvent.SIGQUIT, 1.0)
    assert life.seconds_left(1.0) == 0.0


def test_a_port_that_is_handed_over_is_closed_after_one_grace_period_and_drained_after_two() -> None:
    life = a_worker(LEAVING_PORT)
    assert life.due_events(0.9 * GRACE_S, running_calls=1) == []
    (first,) = life.due_events(GRACE_S, running_calls=1)
    assert life.handle(first, GRACE_S).closes_port
    assert not life.refuses_calls
    assert life.due_events(1.9 * GRACE_S, running_calls=1) == []
    (second,) = life.due_events(2 * GRACE_S, running_calls=1)
    assert not life.handle(second, 2 * GRACE_S).closes_port
    assert life.state is DRAINING
    assert life.seconds_left(2 * GRACE_S) == DRAIN_TIMEOUT_S
    assert life.due_events(9 * GRACE_S, running_calls=1) == []


def test_a_second_hand_over_does_not_prolong_the_grace_period() -> None:
    life = a_worker(LEAVING_PORT)
    life.handle(WorkerEvent.PORT_HANDED_OVER, 0.5 * GRACE_S)
    assert life.due_events(GRACE_S, running_calls=1) == [WorkerEvent.GRACE_OVER]


@pytest.mark.parametrize(
    "events",
    [
        [WorkerEvent.PORT_HANDED_OVER, WorkerEvent.SIGTERM],
        [WorkerEvent.SIGTERM, WorkerEvent.PORT_HANDED_OVER],
    ],
)
def test_a_worker_that_drains_still_leaves_the_port(events: list[WorkerEvent]) -> None:
    life = a_worker()
    for event in events:
        life.handle(event, 0.0)
    assert life.state is DRAINING
    assert life.due_events(GRACE_S, running_calls=1) == [WorkerEvent.GRACE_OVER]
    assert life.handle(WorkerEvent.GRACE_OVER, GRACE_S) == Step(DRAINING, closes_port=True)


def test_the_diagram_has_every_step_of_the_table_and_no_other() -> None:
    first, *lines = mermaid().splitlines()
    assert first == "stateDiagram-v2"
    drawn = set()
    for line in lines:
        arrow, _, labels = line.strip().partition(": ")
        drawn |= {(arrow, label) for label in labels.split(", ")}
    assert drawn == {("[*] --> serving", ""), ("stopping --> [*]", "")} | {
        (f"{state} --> {step.state}", str(event))
        for state, steps in TRANSITIONS.items()
        for event, step in steps.items()
    }


def test_the_module_prints_the_diagram() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", worker_state.__name__], capture_output=True, text=True, check=True, timeout=120
    )
    assert printed.stdout == mermaid() + "\n"
