# SPDX-License-Identifier: BSD-2-Clause
"""The life cycle of a session: its table, its ends, its picture."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest

from gateway.model import lifecycle
from gateway.model.lifecycle import (
    INITIAL,
    TERMINAL,
    TRANSITIONS,
    LifecycleError,
    SessionState,
    check,
    mermaid,
    terminal_state,
)

STEPS = {
    ("created", "starting"),
    ("created", "canceled"),
    ("created", "failed"),
    ("starting", "running"),
    ("starting", "ending"),
    ("starting", "canceled"),
    ("starting", "failed"),
    ("running", "ending"),
    ("running", "failed"),
    ("ending", "ended"),
    ("ending", "failed"),
    ("ending", "canceled"),
}


@pytest.mark.parametrize(("old", "new"), list(product(SessionState, SessionState)))
def test_a_session_takes_the_steps_of_the_table_and_no_other(old: SessionState, new: SessionState) -> None:
    if (old, new) in STEPS:
        check(old, new)
    else:
        with pytest.raises(LifecycleError, match=f"a session that is {old} cannot become {new}"):
            check(old, new)


def test_the_table_speaks_of_every_state() -> None:
    assert set(TRANSITIONS) == set(SessionState)


def test_a_session_that_is_over_stays_so() -> None:
    assert {"ended", "failed", "canceled"} == TERMINAL
    assert not any(TRANSITIONS[state] for state in TERMINAL)


def test_every_state_can_be_reached_and_left_towards_an_end() -> None:
    reached = set(INITIAL)
    for _ in SessionState:
        reached |= {new for state in reached for new in TRANSITIONS[state]}
    assert reached == set(SessionState)
    finishing = set(TERMINAL)
    for _ in SessionState:
        finishing |= {state for state in SessionState if finishing & set(TRANSITIONS[state])}
    assert finishing == set(SessionState)


def test_whatever_is_not_over_can_fail_because_a_process_can_die_at_any_time() -> None:
    assert all(SessionState.FAILED in TRANSITIONS[state] for state in SessionState if state not in TERMINAL)


@pytest.mark.parametrize(
    ("ran", "wanted", "is_over_as"),
    [
        (True, SessionState.ENDED, SessionState.ENDED),
        (True, SessionState.CANCELED, SessionState.ENDED),
        (True, SessionState.FAILED, SessionState.FAILED),
        (False, SessionState.ENDED, SessionState.CANCELED),
        (False, SessionState.CANCELED, SessionState.CANCELED),
        (False, SessionState.FAILED, SessionState.FAILED),
    ],
)
def test_the_end_of_a_session_fits_whether_it_ran(
    ran: bool, wanted: SessionState, is_over_as: SessionState
) -> None:
    assert terminal_state(ran, wanted) is is_over_as
    check(SessionState.ENDING if ran else SessionState.STARTING, is_over_as)


@pytest.mark.parametrize("state", [state for state in SessionState if state not in TERMINAL])
def test_no_session_ends_in_the_middle_of_its_life(state: SessionState) -> None:
    with pytest.raises(LifecycleError):
        terminal_state(True, state)


def test_the_diagram_has_every_step_once_and_nothing_else() -> None:
    first, *lines = mermaid().splitlines()
    assert first == "stateDiagram-v2"
    drawn = [line.split(":")[0].strip() for line in lines]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == (
        {f"{old} --> {new}" for old, new in STEPS}
        | {f"[*] --> {state}" for state in INITIAL}
        | {f"{state} --> [*]" for state in TERMINAL}
    )


def test_the_module_prints_the_diagram() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", lifecycle.__name__], capture_output=True, text=True, check=True, timeout=120
    )
    assert printed.stdout == mermaid() + "\n"
