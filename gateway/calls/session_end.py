# SPDX-License-Identifier: BSD-2-Clause
"""The end of a session, whatever kind of session it is: its record in the store, and one line in the log.

Carriers' calls, outbound calls, `POST /bot` sessions and WhatsApp calls all end here; only sessions whose
worker died are ended by the store itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from gateway.calls.session_events import end_saved, session_events
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons, Severity
from gateway.model.session import SessionResult, Traffic
from gateway.observability.log import log_at
from gateway.store.interface import Store, StoreFailed

HTTP_COMPLETED: Final = "HTTP_COMPLETED"
HTTP_ERROR: Final = "HTTP_ERROR"
WS_CONNECTION_CLOSED: Final = "WS_CONNECTION_CLOSED"
"""The completion statuses of docs/reference/public-api.md, "Management"."""


UNHEARD_S: Final = 10.0
"""A caller who has heard nothing of the agent for so long was harmed, however the call has ended."""

_NO_TRAFFIC: Final = Traffic()


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How one session ended.

    `ended_at`, `first_sound_at` (the agent's first audio): Unix seconds. `ran`: the agent was connected.
    `completion_status`: one of the constants above, or None.
    """

    session_id: str
    end: CallEnded
    ended_at: float
    ran: bool
    traffic: Traffic = _NO_TRAFFIC
    first_sound_at: float | None = None
    completion_status: str | None = None

    def result(self) -> SessionResult:
        """Return the end as the store records it."""
        reason = self.end.reason
        well = SessionState.ENDED if self.ran else SessionState.CANCELED
        return SessionResult(
            state=SessionState.FAILED if reason.failed else well,
            ended_at=self.ended_at,
            reason=reason.code,
            side=reason.party,
            detail=self.end.detail,
            close_code=reason.close_code,
            traffic=self.traffic,
            first_agent_sound_at=self.first_sound_at,
            completion_status=self.completion_status,
        )


async def save(store: Store, ended: SessionEnd) -> None:
    """Save the end of a session, which frees its slot, and wake everyone who waits for it.

    The end is passed to the store before this first suspends, so it is not lost if the task is cancelled.
    Then it waits a bounded time for the write. After that the store keeps trying.
    """
    written = store.end(ended.session_id, ended.result())
    session_events(store).ended(ended.session_id)
    await end_saved(written)


async def save_if_unattached(store: Store, ended: SessionEnd) -> bool:
    """Save the end of a session that was dialed, as `save` does, unless its stream has been attached.

    Return False if it has: then the call that has the stream must end the session.
    """
    written = store.end_if_unattached(ended.session_id, ended.result())
    await end_saved(written)
    try:
        record = await store.session(ended.session_id)
    except StoreFailed:
        record = None  # the store will write this end before it attaches any stream
    if record is not None and record.stream_id is not None:
        return False
    session_events(store).ended(ended.session_id)
    return True


def correct_end(store: Store, ended: SessionEnd, traffic: Traffic) -> None:
    """Correct what the caller has heard, if it hung up during the last words of an agent that ended the call.

    `traffic`: of the call, once its sockets are closed.
    """
    if traffic.heard_ms is not None and traffic.heard_ms != ended.traffic.heard_ms:
        store.correct_played(ended.session_id, traffic.heard_ms)


def log_end(
    log: structlog.stdlib.BoundLogger,
    event: str,
    end: CallEnded,
    *,
    seconds: float,
    ran: bool,
    traffic: Traffic | None = None,
    unheard: bool = False,
    without_agent_s: float | None = None,
) -> None:
    """Log the one line that tells an operator what happened and which party was responsible.

    `seconds`: the duration, from the request to the end. `ran`: the agent was connected. `traffic`: None if
    no frames pass through here. `unheard`: the caller has heard nothing of the agent, and waited long enough.
    `without_agent_s`: since the agent was lost, None if it was not or another had taken over.
    """
    fields: dict[str, object] = {}
    if traffic is not None:
        fields = {"frames_in": traffic.frames_in, "frames_out": traffic.frames_out}
    if unheard:
        fields["unheard"] = True
    severity = Severity.ERROR if unheard else end.reason.severity(ran=ran)
    if without_agent_s is not None and end.reason is not Reasons.agent_ended:
        fields["without_agent"] = round(without_agent_s, 3)
        if severity is Severity.INFO:
            severity = Severity.WARNING
    log_at(
        log,
        severity,
        event,
        reason=end.reason.code,
        side=str(end.reason.party),
        words=end.detail,
        seconds=round(seconds, 3),
        **fields,
    )


def traffic_of(relay: Relay | None, carrier: Leg | None) -> Traffic:
    """Return what the relay has passed; without a relay, what arrived on the carrier's leg."""
    if relay is not None:
        return Traffic(*relay.traffic)
    scanner = carrier.scanner if carrier else None
    return Traffic(frames_in=scanner.frames, bytes_in=scanner.bytes) if scanner else Traffic()
