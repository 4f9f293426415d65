# SPDX-License-Identifier: BSD-2-Clause
"""What is said about a session: its call, where it may run, how it ended, and the record of it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.model.lifecycle import ACTIVE, TERMINAL, LifecycleError, SessionState
from gateway.model.reasons import Party


@dataclass(frozen=True, slots=True)
class CallDetails:
    """The call a session is for, as it is known when the session is admitted.

    `session_id`: a UUID. `agent`: the service host, "support.acme". `carrier`: as in the path, "twilio".
    `call_id`, `stream_id`, `from_number`, `to_number`: the carrier's own, None where it says none.
    """

    session_id: str
    agent: str
    organization: str
    region: str
    carrier: str
    call_id: str | None
    stream_id: str | None
    from_number: str | None
    to_number: str | None


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What may be said of a session besides its call, when it is promised or admitted.

    `transport`: how the caller's sound comes: "telephony" for a carrier, else as
    docs/reference/public-api.md, Start, names it. `start_type`: "cold" or "warm"
    (docs/reference/public-api.md, Management), None where nobody says.
    `metadata`: the client's own, JSON text. `idle_timeout`, `max_duration`: in seconds, None for the
    agent's own.
    """

    transport: str = "telephony"
    start_type: str | None = None
    metadata: str | None = None
    idle_timeout: float | None = None
    max_duration: float | None = None


TELEPHONY_OPTIONS: Final = SessionOptions()
"""A carrier's call of which nobody says more."""


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """That a call may wait where no place is free. `size`: how many wait for the agent at once.

    `until`: Unix seconds at which it will have given up, whatever becomes of its worker.
    """

    size: int
    until: float


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """Where the sessions of an agent may run.

    `instances`: URL and rank of each instance; rank 0 is ready, a larger one is less wanted.
    `per_instance`: sessions at once on one instance. `max_instances`: instances in use at once.
    `reserved`: places that this session must leave free for others.
    `queue`: None for a session that is not to wait.
    """

    instances: tuple[tuple[str, int], ...]
    per_instance: int
    max_instances: int
    reserved: int = 0
    queue: QueueLimit | None = None

    @property
    def limit(self) -> int:
        """How many sessions there may be at once."""
        distinct = len({instance for instance, _ in self.instances})
        return min(distinct, self.max_instances) * self.per_instance


@dataclass(frozen=True, slots=True)
class Traffic:
    """WebSocket data frames, and bytes with their heads: "in" from the carrier, "out" to it."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How a session ended; made once, when it is over.

    `state`: a terminal state; LifecycleError for another. `ended_at`, `first_agent_sound_at`: Unix seconds.
    `reason`, `side`, `close_code`: of an entry of the table of reasons. `detail`: a clause for the operator.
    `completion_status`: the same end in the words of docs/reference/public-api.md, Management
    ("HTTP_COMPLETED", "HTTP_ERROR", "WS_CONNECTION_CLOSED"), None where nobody says.
    """

    state: SessionState
    ended_at: float
    reason: str
    side: Party
    detail: str
    close_code: int
    traffic: Traffic
    first_agent_sound_at: float | None
    completion_status: str | None = None

    def __post_init__(self) -> None:
        if self.state not in TERMINAL:
            raise LifecycleError(SessionState.ENDING, self.state)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """All that the store keeps of one session. Times are Unix seconds; None is "not yet" or "never".

    `owner`: the id of the worker process that carries it. `instance`: the URL of the agent's instance. Both
    are "" of a session that is promised or never was more.
    The traffic of a session that is not over, or whose worker was lost, is 0: it is counted at its end.
    `created_at` is when it was promised, or admitted without; `admitted_at` when it took its place, and
    `promised_until` when its promise was to expire, None if it was not promised.
    `transport` to `max_duration`: see SessionOptions. `completion_status`: see SessionResult.
    `completed_at`: when the agent's side reported; with it come `reported_seconds`, its duration in seconds,
    and `transcript` and `results`, JSON text, as far as it said them.
    `resumed`: how often its agent was lost and another one took its place.
    """

    session_id: str
    agent: str
    organization: str
    region: str
    carrier: str
    instance: str
    owner: str
    call_id: str | None
    stream_id: str | None
    from_number: str | None
    to_number: str | None
    state: SessionState
    created_at: float
    started_at: float | None
    first_agent_sound_at: float | None
    ended_at: float | None
    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int
    reason: str | None
    side: Party | None
    detail: str | None
    close_code: int | None
    admitted_at: float | None
    promised_until: float | None
    transport: str
    start_type: str | None
    metadata: str | None
    idle_timeout: float | None
    max_duration: float | None
    stop_requested_at: float | None
    completion_status: str | None
    completed_at: float | None
    reported_seconds: float | None
    transcript: str | None
    results: str | None
    resumed: int = 0

    @property
    def active(self) -> bool:
        """Whether the session holds a place."""
        return self.state in ACTIVE
