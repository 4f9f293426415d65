# SPDX-License-Identifier: BSD-2-Clause
"""A WhatsApp call: its audio passes between Meta and the agent; Patchbay holds its slot until it is over.

It is over when Meta sends `terminate`, which may reach any worker, when it is stopped, or after its longest
duration.
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
from gateway.calls.session_end import HTTP_COMPLETED, HTTP_ERROR, SessionEnd, log_end, save
from gateway.calls.session_events import session_events
from gateway.calls.slot_release import HeldSlot
from gateway.calls.state import CallState
from gateway.calls.termination import Termination
from gateway.media.leg import Leg
from gateway.model.lifecycle import TERMINAL, SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import ReleasedBy
from gateway.store.interface import Store, StoreFailed
from serializers.events import Start

log = structlog.get_logger(__name__)

STORE_PAUSE_S: Final = 1.0
"""Seconds until a store that failed is read again."""


@dataclass(frozen=True, slots=True)
class WhatsAppSession:
    """A WhatsApp call's session, as every worker knows it. `began_at`: Unix seconds."""

    session_id: str
    agent: str
    organization: str
    instance: str
    began_at: float


class WhatsAppCall:
    """One WhatsApp call whose slot this worker holds. An `ActiveCall`."""

    __slots__ = ("_active", "_max_duration_s", "_services", "_session", "session_id", "termination")

    def __init__(
        self,
        services: CallServices,
        active: ActiveCalls,
        session: WhatsAppSession,
        max_duration_s: float,
    ) -> None:
        """`max_duration_s`: seconds from now until the call is ended."""
        self._services = services
        self._active = active
        self._session = session
        self._max_duration_s = max_duration_s
        self.session_id = session.session_id
        self.termination = Termination()

    @property
    def state(self) -> CallState:
        """The call's state: it is active here from its agent's acceptance to its end."""
        return CallState.BRIDGED

    @property
    def bridge(self) -> None:
        """None: its audio passes elsewhere."""
        return None

    def handle(self, command: CallCommand) -> bool:
        """Refuse every command: Patchbay does not control WhatsApp calls."""
        return False

    def can_attach(self, agent: str, start: Start | None) -> bool:
        """Refuse: no carrier opens streams for this call."""
        return False

    def attach_stream(self, leg: Leg, start: Start | None) -> bool:
        """Refuse, as `can_attach` does."""
        return False

    async def hold(self) -> None:
        """Return when the call is over. If this is cancelled it ends the call: the time to drain is over."""
        # As an active call it can be stopped, and a worker that drains waits for it.
        self._active.add(self)
        detail = f"it ran for {self._max_duration_s:g} s"
        limit = asyncio.get_running_loop().call_later(
            self._max_duration_s, self.termination.set, CallEnded(Reasons.max_duration, detail)
        )
        end: CallEnded | None = None
        try:
            async with self.termination.cancel_scope():
                await self._ended_elsewhere()
        except CallEnded as termination:
            end = termination
        except asyncio.CancelledError:
            end = CallEnded(Reasons.draining, "the time to drain is over")
        finally:
            limit.cancel()
            self._active.remove(self)
        if end is not None:  # without a read of the store before: the store may close next
            await end_unreported(self._services, self._session, end, ran=True)

    async def _ended_elsewhere(self) -> None:
        """Return when a worker has saved the session's end."""
        store = self._services.store
        in_trouble = False
        while True:
            with session_events(store).waiting(self.session_id) as over:
                try:
                    record = await store.session(self.session_id)
                except StoreFailed as error:
                    if not in_trouble and not error.is_reported:
                        log.warning("store", error=str(error))
                    in_trouble = True
                    await asyncio.sleep(STORE_PAUSE_S)
                    continue
                in_trouble = False
                if record is None or record.state in TERMINAL:
                    return
                await over


async def hold_all(calls: Sequence[WhatsAppCall]) -> None:
    """Hold several calls, each until it is over. If this is cancelled it ends them."""
    holding = [asyncio.create_task(call.hold()) for call in calls]
    try:
        await asyncio.wait(holding)
    except asyncio.CancelledError:
        for task in holding:
            task.cancel()
        await asyncio.wait(holding)


async def end_session(
    store: Store, session: WhatsAppSession, end: CallEnded, now: float, *, ran: bool
) -> None:
    """End a WhatsApp call's session, whichever worker holds it, unless it is over already.

    The agent has been told: one that had been ended without its knowledge is over now.
    `now`: Unix seconds. `ran`: the agent had accepted the call.
    """
    try:
        record = await store.session(session.session_id)
    except StoreFailed as error:
        log.warning("store", error=str(error))
    else:
        if record is not None and record.state in TERMINAL:
            return
        if record is not None and record.state is SessionState.ENDING:
            store.release(session.session_id, now, ReleasedBy.ANSWERED)
            return
    await _save(store, session, end, now, ran=ran)


async def end_unreported(
    services: CallServices, session: WhatsAppSession, end: CallEnded, *, ran: bool
) -> None:
    """End a session whose agent does not know of it: its slot is free once the instance is."""
    agent, now = services.agents.find(session.agent), services.now()
    timeout_s = 0.0 if agent is None else agent.stop_timeout
    held = HeldSlot(session.session_id, session.instance, session.began_at, now, timeout_s)
    _log_end(session, end, now, ran=ran)
    await services.capacity.releases.end(_ended(session, end, now, ran=ran), held)


async def _save(store: Store, session: WhatsAppSession, end: CallEnded, now: float, *, ran: bool) -> None:
    _log_end(session, end, now, ran=ran)
    await save(store, _ended(session, end, now, ran=ran))


def _ended(session: WhatsAppSession, end: CallEnded, now: float, *, ran: bool) -> SessionEnd:
    status = HTTP_ERROR if end.reason.failed else HTTP_COMPLETED
    return SessionEnd(session.session_id, end, now, ran=ran, completion_status=status)


def _log_end(session: WhatsAppSession, end: CallEnded, now: float, *, ran: bool) -> None:
    bound = log.bind(
        session=session.session_id,
        agent=session.agent,
        organization=session.organization,
        instance=session.instance,
    )
    log_end(bound, "whatsapp call ended", end, seconds=now - session.began_at, ran=ran)
