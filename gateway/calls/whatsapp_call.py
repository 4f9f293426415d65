# SPDX-License-Identifier: BSD-2-Clause
"""A call of WhatsApp: its sound goes between Meta and the agent, and here its place is held until it is over.

It is over when Meta says `terminate`, which may reach any worker, or when it is stopped or too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.calls.active import ActiveCalls
from gateway.calls.command_bus import CallCommand
from gateway.calls.services import CallServices
from gateway.calls.session_events import end_saved, session_events
from gateway.calls.termination import Termination
from gateway.media.leg import Leg
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionResult, Traffic
from gateway.store.interface import Store, StoreFailed
from serializers.events import Start

log = structlog.get_logger(__name__)

STORE_PAUSE_S: Final = 1.0
"""How long a store that failed is left alone."""


@dataclass(frozen=True, slots=True)
class WhatsAppSession:
    """A session of WhatsApp, as far as its end has to tell of it. `began_at`: Unix seconds."""

    session_id: str
    agent: str
    organization: str
    instance: str
    began_at: float


class WhatsAppCall:
    """One call that this worker holds the place of."""

    __slots__ = ("_active", "_held", "_longest_s", "_services", "session_id", "termination")

    def __init__(
        self, services: CallServices, active: ActiveCalls, held: WhatsAppSession, longest_s: float
    ) -> None:
        """`longest_s`: seconds from now until it is ended."""
        self._services = services
        self._active = active
        self._held = held
        self._longest_s = longest_s
        self.session_id = held.session_id
        self.termination = Termination()

    def handle(self, command: CallCommand) -> bool:
        """Refuse every command: Patchbay does not control the calls of WhatsApp."""
        return False

    def can_attach(self, agent: str, start: Start) -> bool:
        """Refuse: no carrier opens streams for this call."""
        return False

    def attach_stream(self, leg: Leg, start: Start) -> bool:
        """Refuse, as `can_attach` does."""
        return False

    async def hold(self) -> None:
        """Returns when the call is over. Cancelled, it ends the call: the time to drain is over then."""
        # Among the calls of the switchboard it can be stopped, and a gateway that drains waits for it.
        self._active.add(self)
        detail = f"it ran for {self._longest_s:g} s"
        limit = asyncio.get_running_loop().call_later(
            self._longest_s, self.termination.set, CallEnded(Reasons.max_duration, detail)
        )
        end: CallEnded | None = None
        try:
            async with self.termination.cancel_scope():
                await self._over()
        except CallEnded as decided:
            end = decided
        except asyncio.CancelledError:
            end = CallEnded(Reasons.draining, "the time to drain is over")
        finally:
            limit.cancel()
            self._active.remove(self)
        if end is not None:  # handed over before anything is waited for: the store may close next
            await end_saved(_end(self._services.store, self._held, end, self._services.now()))

    async def _over(self) -> None:
        """Waits until some worker has ended the session, and told it."""
        store = self._services.store
        while True:
            with session_events(store).waiting(self.session_id) as over:
                try:
                    record = await store.session(self.session_id)
                except StoreFailed as error:
                    log.warning("store", error=str(error))
                    await asyncio.sleep(STORE_PAUSE_S)
                    continue
                if record is None or record.state in TERMINAL:
                    return
                await over


async def hold_all(calls: Sequence[WhatsAppCall]) -> None:
    """Holds several calls, each until it is over. Cancelled, it ends them."""
    holding = [asyncio.create_task(call.hold()) for call in calls]
    try:
        await asyncio.wait(holding)
    except asyncio.CancelledError:
        for each in holding:
            each.cancel()
        await asyncio.wait(holding)


async def end_session(store: Store, held: WhatsAppSession, end: CallEnded, now: float) -> None:
    """Ends a session of WhatsApp, whichever worker holds it, unless it is over. `now`: Unix seconds."""
    try:
        record = await store.session(held.session_id)
    except StoreFailed as error:
        log.warning("store", error=str(error))
    else:
        if record is not None and record.state in TERMINAL:
            return
    await end_saved(_end(store, held, end, now))


def _end(store: Store, held: WhatsAppSession, end: CallEnded, now: float) -> asyncio.Future[None]:
    """Hands the end to the store, of which the first counts, and says it in one line."""
    reason = end.reason
    result = SessionResult(
        state=SessionState.FAILED if reason.failed else SessionState.ENDED,
        ended_at=now,
        reason=reason.code,
        side=reason.side,
        detail=end.detail,
        close_code=reason.close_code,
        traffic=Traffic(),
        first_agent_sound_at=None,
        completion_status="HTTP_ERROR" if reason.failed else "HTTP_COMPLETED",
    )
    written = store.ended(held.session_id, result)
    log.info(
        "whatsapp call ended",
        session=held.session_id,
        agent=held.agent,
        organization=held.organization,
        instance=held.instance,
        reason=reason.code,
        side=str(reason.side),
        words=end.detail,
        seconds=round(now - held.began_at, 3),
    )
    written.add_done_callback(lambda _: session_events(store).ended(held.session_id))
    return written
