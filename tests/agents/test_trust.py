# SPDX-License-Identifier: BSD-2-Clause
"""The table of an instance that fails its callers: each row, and what is not in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.circuit_breaker import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    TRIAL_S,
    WINDOW_S,
    CircuitBreaker,
    CircuitState,
)

MOST = 3


@pytest.fixture
def trust() -> CircuitBreaker:
    return CircuitBreaker(MOST)


def set_aside(trust: CircuitBreaker, now: float) -> float:
    """Fails until it is aside; the end of its first pause."""
    for _ in range(MOST):
        trust.failed(now)
    assert trust.standing(now) is CircuitState.ASIDE
    return now + FIRST_PAUSE_S


def on_trial(trust: CircuitBreaker, now: float) -> float:
    """The time at which its one caller comes."""
    after = set_aside(trust, now)
    trust.answered(after)
    assert trust.standing(after) is CircuitState.HALF_OPEN
    trust.taken(after)
    assert trust.standing(after) is CircuitState.ON_TRIAL
    return after


def test_few_failures_are_borne(trust: CircuitBreaker) -> None:
    for now in range(MOST - 1):
        trust.failed(float(now))
    assert trust.takes_callers(MOST)


def test_failures_are_forgotten(trust: CircuitBreaker) -> None:
    for now in range(20):
        trust.failed(now * WINDOW_S / (MOST - 1))
        assert trust.standing(now * WINDOW_S / (MOST - 1)) is CircuitState.IN_USE


def test_many_within_the_window_set_it_aside(trust: CircuitBreaker) -> None:
    for now in (0.0, WINDOW_S / 2, WINDOW_S - 0.1):
        assert trust.takes_callers(now)
        trust.failed(now)
    assert not trust.takes_callers(WINDOW_S)


def test_an_answer_before_the_pause_is_over_changes_nothing(trust: CircuitBreaker) -> None:
    until = set_aside(trust, 100.0)
    trust.answered(until - 0.1)
    trust.taken(until - 0.1)
    trust.failed(until - 0.1)  # of a call that it had before: the pause is no longer for that
    assert trust.standing(until) is CircuitState.ASIDE, "it was not asked since"
    trust.answered(until)
    assert trust.standing(until) is CircuitState.HALF_OPEN


def test_one_caller_tries_it(trust: CircuitBreaker) -> None:
    until = set_aside(trust, 100.0)
    trust.answered(until)
    assert trust.takes_callers(until)
    trust.taken(until)
    assert not trust.takes_callers(until)


def test_a_trial_that_goes_well(trust: CircuitBreaker) -> None:
    came = on_trial(trust, 100.0)
    trust.answered(came + 1)
    assert not trust.takes_callers(came + TRIAL_S - 0.1)
    assert trust.standing(came + TRIAL_S) is CircuitState.IN_USE
    for _ in range(MOST - 1):
        trust.failed(came + TRIAL_S)
    assert trust.takes_callers(came + TRIAL_S), "nothing of before is held against it"


def test_a_trial_that_goes_wrong(trust: CircuitBreaker) -> None:
    came = on_trial(trust, 100.0)
    trust.failed(came + 1)
    again = came + 1 + 2 * FIRST_PAUSE_S
    trust.answered(again - 0.1)
    assert not trust.takes_callers(again - 0.1), "it is left alone for longer than before"
    trust.answered(again)
    assert trust.takes_callers(again)


def test_a_call_it_had_before_fails_before_the_trial(trust: CircuitBreaker) -> None:
    until = set_aside(trust, 100.0)
    trust.answered(until)
    trust.failed(until)
    assert trust.standing(until) is CircuitState.ASIDE


def test_pauses_grow_up_to_the_longest_and_begin_anew(trust: CircuitBreaker) -> None:
    now = on_trial(trust, 0.0)
    for _ in range(20):
        trust.failed(now)
        now += LONGEST_PAUSE_S
        trust.answered(now)
        assert trust.takes_callers(now)
        trust.taken(now)
    now += TRIAL_S
    assert trust.takes_callers(now)
    trust.answered(set_aside(trust, now))
    assert trust.takes_callers(now + FIRST_PAUSE_S)


@given(st.lists(st.tuples(st.sampled_from(["failed", "answered", "taken"]), st.floats(0, 60)), max_size=80))
def test_one_that_answers_and_does_not_fail_comes_back(story: list[tuple[str, float]]) -> None:
    """Whatever was: nobody is set aside for good."""
    trust, now = CircuitBreaker(MOST), 0.0
    for what, later in story:
        now += later
        getattr(trust, what)(now)
    for _ in range(3):
        now += LONGEST_PAUSE_S
        trust.answered(now)
        if trust.takes_callers(now):
            trust.taken(now)
    assert trust.standing(now + TRIAL_S) is CircuitState.IN_USE
