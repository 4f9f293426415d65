# SPDX-License-Identifier: BSD-2-Clause
"""The values that describe a session: its call, the slots it may take, its end, and the stored record."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.model.lifecycle import ACTIVE, TERMINAL, LifecycleError, SessionState
from gateway.model.reasons import Party


@dataclass(frozen=True, slots=True)
class CallDetails:
    """The call of a session, as known when the session is admitted.

    `session_id`: a UUID. `agent`: the service host, "support.acme". `carrier`: as in the path, "twilio".
    `call_id`, `stream_id`, `from_number`, `to_number`: as the carrier names them, None if it does not.
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
    """The properties of a session besides its call, set when it is created or admitted.

    `transport`: the way of the caller's audio: "telephony" for a carrier, else as in
    docs/reference/public-api.md, Start. `start_type`: "cold" or "warm" (docs/reference/public-api.md,
    Management), None if unknown. `metadata`: the API client's, JSON text. `idle_timeout`, `max_duration`: in
    seconds, None for the agent's settings; once the session is stored, what holds for it, and None for a
    silence that does not end it.
    """

    transport: str = "telephony"
    start_type: str | None = None
    metadata: str | None = None
    idle_timeout: float | None = None
    max_duration: float | None = None


TELEPHONY_OPTIONS: Final = SessionOptions()
"""The options of a carrier's call without any more properties."""

MEDIA_SOCKETS: Final = ("telephony", "websocket")
"""The transports whose agents have a media socket, and end when it does."""


class ReleasedBy(StrEnum):
    """How the instance of a session that was `ending` was seen to be free."""

    ANSWERED = "answered"
    """It answered the session's request, or was told of the end and agreed."""
    READY = "ready"
    """Its `/readyz` says 200, and said 503 while the session ran."""
    GONE = "gone"
    """It refuses connections: its process has ended."""
    TIMEOUT = "timeout"
    """It was not seen to be free within the agent's `stop_timeout`."""


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """The queue that a call may join if no slot is free.

    `size`: the number of calls that may wait for the agent at once. `until`: Unix seconds from which the call
    counts as gone, even if its worker does not remove it.
    """

    size: int
    until: float


@dataclass(frozen=True, slots=True)
class PendingLimit:
    """The pending sessions that one API key of an organisation may have at once, over all workers.

    `key_id`: the name of the key, which the session is counted for.
    """

    key_id: str
    max_sessions: int


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """The slots of an agent that a session may take.

    `instances`: URL and rank of each instance; the lowest rank is preferred. `per_instance`: sessions at once
    on one instance. `max_instances`: instances in use at once. `reserved`: slots that this session must leave
    free. `queue`: None if the session must not wait.
    """

    instances: tuple[tuple[str, int], ...]
    per_instance: int
    max_instances: int
    reserved: int = 0
    queue: QueueLimit | None = None

    @property
    def limit(self) -> int:
        """The number of sessions that the agent may have at once."""
        distinct = len({instance for instance, _ in self.instances})
        return min(distinct, self.max_instances) * self.per_instance


@dataclass(frozen=True, slots=True)
class Traffic:
    """Numbers of WebSocket data frames and of bytes, headers included: "in" from the carrier, "out" to it.

    `heard_ms`: of the agent's sound that the caller has heard, None if that cannot be counted.
    """

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    heard_ms: int | None = None


@dataclass(frozen=True, slots=True)
class LiveTraffic:
    """The traffic of a running session so far. `first_agent_sound_at`: Unix seconds, None before that."""

    session_id: str
    traffic: Traffic
    first_agent_sound_at: float | None


@dataclass(frozen=True, slots=True)
class SessionResult:
    """The end of a session. Raises LifecycleError if `state` is not terminal.

    `ended_at`, `first_agent_sound_at`: Unix seconds. `reason`, `side`, `close_code`: from the table of
    reasons (reasons.py). `detail`: a clause for the operator. `completion_status`: the end as
    docs/reference/public-api.md, Management, names it ("HTTP_COMPLETED", "HTTP_ERROR",
    "WS_CONNECTION_CLOSED"), None if it has no such name.
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
    """The stored record of one session. Times are Unix seconds; None means "not yet" or "never".

    `owner`: the id of the worker that owns it. `instance`: the URL of the agent's instance. Both are "" while
    the session is pending, and stay so if it was never admitted.
    `first_agent_sound_at`, `frames_in` to `bytes_out`, `heard_ms` (see Traffic): written with the worker's
    heartbeats and at the end; if the worker was lost, as it wrote them last.
    `created_at`: when the session was created as pending or admitted. `admitted_at`: when it got its slot.
    `promised_until`: until when it could be admitted if it was pending first.
    `transport` to `max_duration`: see SessionOptions. `completion_status`: see SessionResult.
    `completed_at`: when the agent reported on the session, with `reported_seconds`, the duration by its own
    account, and `transcript` and `results`, JSON text, each None if not reported.
    `resumed`: how often the agent was lost and another one took over.
    `ending_at`: when there was a reason to end, if the instance was not known to be free then; `ended_at` is
    the same once it is. `released_at`, `released_by`: when and how it was seen to be free (`ReleasedBy`).
    `queued`: the session is pending, its socket has come, and it waits in its agent's queue for a slot.
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
    ending_at: float | None = None
    released_at: float | None = None
    released_by: str | None = None
    heard_ms: int | None = None
    queued: bool = False

    @property
    def active(self) -> bool:
        """Whether the session occupies a slot."""
        return self.state in ACTIVE

    def used_seconds(self, now: float) -> float:
        """Return the seconds from when the session got its slot to its end; 0 without a slot.

        So starting the agent counts, and an instance that is still busy after the end does not, as in the
        totals by day. `now`: Unix seconds.
        """
        if self.admitted_at is None:
            return 0.0
        until = self.ended_at or self.ending_at
        return max(0.0, (now if until is None else until) - self.admitted_at)
