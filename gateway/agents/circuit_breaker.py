# SPDX-License-Identifier: BSD-2-Clause
"""Whether an instance that fails again and again gets another caller. Pure: time comes from outside.

An instance can say that it is ready and still lose every caller it gets. So what counts here is what became
of callers: a connection that failed, an agent that was lost.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

WINDOW_S: Final = 30.0
"""For how long a failure counts."""

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
"""How long it is left alone before it is asked again; each pause is twice the one before."""

TRIAL_S: Final = 10.0
"""How long after its one caller came it must not fail."""


class CircuitState(Enum):
    """How an instance stands.

    The whole table; what is not in it changes nothing:

    | standing  | what happens                             | standing then                   |
    |-----------|------------------------------------------|---------------------------------|
    | IN_USE    | `most` failures within WINDOW_S          | ASIDE, for FIRST_PAUSE_S        |
    | ASIDE     | it answers, and the pause is over        | HALF_OPEN                       |
    | HALF_OPEN | a caller is sent to it                   | ON_TRIAL                        |
    | HALF_OPEN | a failure, of a call it had before       | ASIDE, for twice the last pause |
    | ON_TRIAL  | a failure                                | ASIDE, for twice the last pause |
    | ON_TRIAL  | none for TRIAL_S                         | IN_USE, as if nothing had been  |

    Callers are sent to it IN_USE and HALF_OPEN, the latter to one.
    """

    IN_USE = "in use"
    ASIDE = "aside"
    HALF_OPEN = "half open"
    ON_TRIAL = "on trial"


class CircuitBreaker:
    """One instance's. Every `now` is in seconds, of one clock that does not go back."""

    __slots__ = ("_failures", "_most", "_pause_s", "_standing", "_until")

    def __init__(self, most: int) -> None:
        """`most`: the failures that set it aside; at least 1."""
        self._most = most
        self._standing = CircuitState.IN_USE
        self._failures: list[float] = []  # when, while it is in use
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0  # the end of the pause or of the trial

    def standing(self, now: float) -> CircuitState:
        """How it stands now."""
        if self._standing is CircuitState.ON_TRIAL and now >= self._until:
            self._standing = CircuitState.IN_USE
            self._pause_s = FIRST_PAUSE_S
        return self._standing

    def takes_callers(self, now: float) -> bool:
        """Whether a caller may be sent to it."""
        return self.standing(now) in (CircuitState.IN_USE, CircuitState.HALF_OPEN)

    def failed(self, now: float) -> None:
        """A connection to it failed, or an agent of it was lost."""
        standing = self.standing(now)
        if standing is CircuitState.IN_USE:
            self._failures = [at for at in self._failures if now - at < WINDOW_S] + [now]
            if len(self._failures) >= self._most:
                self._set_aside(now)
        elif standing is not CircuitState.ASIDE:
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._set_aside(now)

    def answered(self, now: float) -> None:
        """It was asked, and answered as one that is ready does."""
        if self.standing(now) is CircuitState.ASIDE and now >= self._until:
            self._standing = CircuitState.HALF_OPEN

    def taken(self, now: float) -> None:
        """A caller is sent to it."""
        if self.standing(now) is CircuitState.HALF_OPEN:
            self._standing = CircuitState.ON_TRIAL
            self._until = now + TRIAL_S

    def _set_aside(self, now: float) -> None:
        self._standing = CircuitState.ASIDE
        self._until = now + self._pause_s
        self._failures.clear()
