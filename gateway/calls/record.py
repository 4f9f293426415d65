# SPDX-License-Identifier: BSD-2-Clause
"""What is left of a call: its record in the store, and one line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.calls.ends import end_watch, end_written
from gateway.errors import CallEnd, Endings
from gateway.media.leg import Leg
from gateway.media.relay import Relay
from gateway.sessions.lifecycle import State
from gateway.sessions.session import Outcome, Traffic

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard


def traffic_of(relay: Relay | None, carrier: Leg | None) -> Traffic:
    """What has passed, or was heard of a carrier that is not coupled."""
    if relay is not None:
        return Traffic(*relay.traffic)
    heard = carrier.walker if carrier else None
    return Traffic(frames_in=heard.frames, bytes_in=heard.bytes) if heard else Traffic()


async def write_end(
    board: Switchboard,
    session_id: str,
    end: CallEnd,
    *,
    ran: bool,
    traffic: Traffic,
    first_sound_at: float | None,
) -> None:
    """Writes the end of a session, which frees its place. `ran`: its two sides were coupled."""
    ending = end.ending
    well = State.ENDED if ran else State.CANCELED
    outcome = Outcome(
        state=State.FAILED if ending.failed else well,
        ended_at=board.now(),
        reason=ending.code,
        side=ending.side,
        detail=end.words,
        close_code=ending.close_code,
        traffic=traffic,
        first_agent_sound_at=first_sound_at,
        completion_status="WS_CONNECTION_CLOSED",
    )
    written = board.store.ended(session_id, outcome)
    end_watch(board.store).ended(session_id)
    await end_written(written)


def say_end(
    log: structlog.stdlib.BoundLogger,
    end: CallEnd,
    *,
    ran: bool,
    admitted: bool,
    traffic: Traffic,
    seconds: float,
) -> None:
    """The one line from which an operator knows what happened and whose fault it was."""
    say = log.error if end.ending is Endings.internal_error else log.info
    say(
        "call ended" if ran else "call not begun" if admitted else "call refused",
        reason=end.ending.code,
        side=str(end.ending.side),
        words=end.words,
        seconds=round(seconds, 3),
        frames_in=traffic.frames_in,
        frames_out=traffic.frames_out,
    )
