# SPDX-License-Identifier: BSD-2-Clause
"""What is left of a call: its record in the store, and one line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.calls.session_events import end_saved, session_events
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionResult, Traffic

if TYPE_CHECKING:
    from gateway.calls.services import CallServices


def traffic_of(relay: Relay | None, carrier: Leg | None) -> Traffic:
    """What has passed, or was heard of a carrier that is not coupled."""
    if relay is not None:
        return Traffic(*relay.traffic)
    heard = carrier.scanner if carrier else None
    return Traffic(frames_in=heard.frames, bytes_in=heard.bytes) if heard else Traffic()


async def save_end(
    services: CallServices,
    session_id: str,
    end: CallEnded,
    *,
    ran: bool,
    traffic: Traffic,
    first_sound_at: float | None,
) -> None:
    """Writes the end of a session, which frees its place. `ran`: its two sides were coupled."""
    reason = end.reason
    well = SessionState.ENDED if ran else SessionState.CANCELED
    result = SessionResult(
        state=SessionState.FAILED if reason.failed else well,
        ended_at=services.now(),
        reason=reason.code,
        side=reason.side,
        detail=end.detail,
        close_code=reason.close_code,
        traffic=traffic,
        first_agent_sound_at=first_sound_at,
        completion_status="WS_CONNECTION_CLOSED",
    )
    written = services.store.ended(session_id, result)
    session_events(services.store).ended(session_id)
    await end_saved(written)


def log_end(
    log: structlog.stdlib.BoundLogger,
    end: CallEnded,
    *,
    ran: bool,
    admitted: bool,
    traffic: Traffic,
    seconds: float,
) -> None:
    """The one line from which an operator knows what happened and whose fault it was."""
    say = log.error if end.reason is Reasons.internal_error else log.info
    say(
        "call ended" if ran else "call not begun" if admitted else "call refused",
        reason=end.reason.code,
        side=str(end.reason.side),
        words=end.detail,
        seconds=round(seconds, 3),
        frames_in=traffic.frames_in,
        frames_out=traffic.frames_out,
    )
