# SPDX-License-Identifier: BSD-2-Clause
"""The circuit breaker of one agent instance: an instance that fails repeatedly gets no sessions for a while.

Pure: time is an argument. A health probe alone is not enough, because an instance can report that it is ready
and still fail every session. So the breaker counts failures of sessions: a connection that could not be made,
or an agent that was lost.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

WINDOW_S: Final = 30.0
"""Seconds for which a failure counts."""

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
"""Seconds that the circuit stays open at first and at most; each pause is twice the one before."""

TRIAL_S: Final = 10.0
"""Seconds without a failure, from the start of the trial session, that close the circuit again."""


class CircuitState(Enum):
    """The state of an instance's circuit.

    The whole table; every event that is not in it changes nothing:

    | state     | event                                              | next state                       |
    |-----------|----------------------------------------------------|----------------------------------|
    | CLOSED    | `max_failures` failures within WINDOW_S            | OPEN, for FIRST_PAUSE_S          |
    | OPEN      | a probe is answered after the pause                | HALF_OPEN                        |
    | HALF_OPEN | a session gets a slot on the instance              | TRIAL                            |
    | HALF_OPEN | a failure, of a session that began before          | OPEN, for twice the last pause   |
    | TRIAL     | a failure                                          | OPEN, for twice the last pause   |
    | TRIAL     | TRIAL_S without a failure                          | CLOSED, all failures forgotten   |

    An instance takes sessions while CLOSED, and exactly one while HALF_OPEN.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"
    TRIAL = "trial"


class CircuitBreaker:
    """One instance's circuit. Every `now` is in seconds, of one clock that does not go back."""

    __slots__ = ("_failures", "_max_failures", "_pause_s", "_state", "_until")

    def __init__(self, max_failures: int) -> None:
        """Close the circuit. `max_failures`: failures within WINDOW_S that open it; at least 1."""
        self._max_failures = max_failures
        self._state = CircuitState.CLOSED
        self._failures: list[float] = []  # their times, while CLOSED
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0  # the end of the pause (OPEN) or of the trial (TRIAL)

    def state(self, now: float) -> CircuitState:
        """Return the state at `now`. A trial that has lasted TRIAL_S ends here: no timer does it."""
        if self._state is CircuitState.TRIAL and now >= self._until:
            self._state = CircuitState.CLOSED
            self._pause_s = FIRST_PAUSE_S
        return self._state

    def admits(self, now: float) -> bool:
        """Return True if the instance may be given a session."""
        return self.state(now) in (CircuitState.CLOSED, CircuitState.HALF_OPEN)

    def record_failure(self, now: float) -> None:
        """Count a connection that failed, or an agent that was lost."""
        state = self.state(now)
        if state is CircuitState.CLOSED:
            self._failures = [at for at in self._failures if now - at < WINDOW_S] + [now]
            if len(self._failures) >= self._max_failures:
                self._open(now)
        elif state is not CircuitState.OPEN:
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._open(now)

    def record_answer(self, now: float) -> None:
        """Note that the instance answered a health probe and did not report that it is starting."""
        if self.state(now) is CircuitState.OPEN and now >= self._until:
            self._state = CircuitState.HALF_OPEN

    def start_trial(self, now: float) -> None:
        """Note that a session got a slot on the instance. No effect unless the circuit is HALF_OPEN."""
        if self.state(now) is CircuitState.HALF_OPEN:
            self._state = CircuitState.TRIAL
            self._until = now + TRIAL_S

    def _open(self, now: float) -> None:
        self._state = CircuitState.OPEN
        self._until = now + self._pause_s
        self._failures.clear()
