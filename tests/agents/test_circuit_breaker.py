# SPDX-License-Identifier: BSD-2-Clause
"""The circuit breaker of an instance: each row of its table, and events that are not in it."""

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

MAX_FAILURES = 3


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker(MAX_FAILURES)


def open_circuit(breaker: CircuitBreaker, now: float) -> float:
    """Fail until the circuit is open. Return the end of its first pause."""
    for _ in range(MAX_FAILURES):
        breaker.record_failure(now)
    assert breaker.state(now) is CircuitState.OPEN
    return now + FIRST_PAUSE_S


def begin_trial(breaker: CircuitBreaker, now: float) -> float:
    """Open the circuit and start its trial. Return the time at which the trial session starts."""
    after = open_circuit(breaker, now)
    breaker.record_answer(after)
    assert breaker.state(after) is CircuitState.HALF_OPEN
    breaker.start_trial(after)
    assert breaker.state(after) is CircuitState.TRIAL
    return after


def test_few_failures_leave_the_circuit_closed(breaker: CircuitBreaker) -> None:
    for now in range(MAX_FAILURES - 1):
        breaker.record_failure(float(now))
    assert breaker.admits(MAX_FAILURES)


def test_failures_are_forgotten_after_the_window(breaker: CircuitBreaker) -> None:
    for number in range(20):
        now = number * WINDOW_S / (MAX_FAILURES - 1)
        breaker.record_failure(now)
        assert breaker.state(now) is CircuitState.CLOSED


def test_many_failures_within_the_window_open_the_circuit(breaker: CircuitBreaker) -> None:
    for now in (0.0, WINDOW_S / 2, WINDOW_S - 0.1):
        assert breaker.admits(now)
        breaker.record_failure(now)
    assert not breaker.admits(WINDOW_S)


def test_an_answer_before_the_pause_is_over_changes_nothing(breaker: CircuitBreaker) -> None:
    until = open_circuit(breaker, 100.0)
    breaker.record_answer(until - 0.1)
    breaker.start_trial(until - 0.1)
    breaker.record_failure(until - 0.1)  # of a session that began before: the pause gets no longer
    assert breaker.state(until) is CircuitState.OPEN, "it was not probed since"
    breaker.record_answer(until)
    assert breaker.state(until) is CircuitState.HALF_OPEN


def test_a_half_open_instance_gets_one_session(breaker: CircuitBreaker) -> None:
    until = open_circuit(breaker, 100.0)
    breaker.record_answer(until)
    assert breaker.admits(until)
    breaker.start_trial(until)
    assert not breaker.admits(until)


def test_a_trial_without_a_failure_closes_the_circuit(breaker: CircuitBreaker) -> None:
    began = begin_trial(breaker, 100.0)
    breaker.record_answer(began + 1)
    assert not breaker.admits(began + TRIAL_S - 0.1)
    assert breaker.state(began + TRIAL_S) is CircuitState.CLOSED
    for _ in range(MAX_FAILURES - 1):
        breaker.record_failure(began + TRIAL_S)
    assert breaker.admits(began + TRIAL_S), "earlier failures do not count any more"


def test_a_trial_with_a_failure_opens_the_circuit_for_twice_as_long(breaker: CircuitBreaker) -> None:
    began = begin_trial(breaker, 100.0)
    breaker.record_failure(began + 1)
    until = began + 1 + 2 * FIRST_PAUSE_S
    breaker.record_answer(until - 0.1)
    assert not breaker.admits(until - 0.1), "the second pause is longer than the first"
    breaker.record_answer(until)
    assert breaker.admits(until)


def test_an_earlier_session_fails_before_the_trial(breaker: CircuitBreaker) -> None:
    until = open_circuit(breaker, 100.0)
    breaker.record_answer(until)
    breaker.record_failure(until)
    assert breaker.state(until) is CircuitState.OPEN


def test_pauses_double_up_to_the_longest_and_start_again_at_the_first(breaker: CircuitBreaker) -> None:
    now = begin_trial(breaker, 0.0)
    for _ in range(20):
        breaker.record_failure(now)
        now += LONGEST_PAUSE_S
        breaker.record_answer(now)
        assert breaker.admits(now)
        breaker.start_trial(now)
    now += TRIAL_S
    assert breaker.admits(now)
    breaker.record_answer(open_circuit(breaker, now))
    assert breaker.admits(now + FIRST_PAUSE_S)


EVENTS = st.sampled_from(["record_failure", "record_answer", "start_trial"])


@given(st.lists(st.tuples(EVENTS, st.floats(0, 60)), max_size=80))
def test_an_instance_that_answers_and_does_not_fail_is_used_again(history: list[tuple[str, float]]) -> None:
    """Whatever happened before: no circuit stays open for ever."""
    breaker, now = CircuitBreaker(MAX_FAILURES), 0.0
    for event, seconds in history:
        now += seconds
        getattr(breaker, event)(now)
    for _ in range(3):
        now += LONGEST_PAUSE_S
        breaker.record_answer(now)
        if breaker.admits(now):
            breaker.start_trial(now)
    assert breaker.state(now + TRIAL_S) is CircuitState.CLOSED
