# SPDX-License-Identifier: BSD-2-Clause
"""A call of WhatsApp: its sound goes between Meta and the agent, and here its place is held until it is over.

It is over when Meta says `terminate`, which may reach any worker, or when it is stopped or too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import structlog

from gateway.calls.ends import end_watch, end_written
from gateway.calls.fate import Fate
from gateway.calls.switchboard import Switchboard
from gateway.errors import CallEnd, Endings
from gateway.sessions.lifecycle import TERMINAL, State
from gateway.sessions.session import Outcome, Traffic
from gateway.sessions.store import Store, StoreFailed

if TYPE_CHECKING:
    from gateway.calls.call import Call

log = structlog.get_logger(__name__)

STORE_PAUSE_S: Final = 1.0
"""How long a store that failed is left alone."""


@dataclass(frozen=True, slots=True)
class Held:
    """A session of WhatsApp, as far as its end has to tell of it. `began_at`: Unix seconds."""

    session_id: str
    agent: str
    organization: str
    instance: str
    began_at: float


class WhatsAppCall:
    """One call that this worker holds the place of."""

    __slots__ = ("_board", "_held", "_longest_s", "fate", "session_id")

    def __init__(self, board: Switchboard, held: Held, longest_s: float) -> None:
        """`longest_s`: seconds from now until it is ended."""
        self._board = board
        self._held = held
        self._longest_s = longest_s
        self.session_id = held.session_id
        self.fate = Fate()

    async def hold(self) -> None:
        """Returns when the call is over. Cancelled, it ends the call: the time to drain is over then."""
        # Among the calls of the switchboard it can be stopped, and a gateway that drains waits for it.
        entry = cast("Call", self)
        self._board.calls.add(entry)
        words = f"it ran for {self._longest_s:g} s"
        limit = asyncio.get_running_loop().call_later(
            self._longest_s, self.fate.decide, CallEnd(Endings.max_duration, words)
        )
        end: CallEnd | None = None
        try:
            async with self.fate.interrupting():
                await self._over()
        except CallEnd as decided:
            end = decided
        except asyncio.CancelledError:
            end = CallEnd(Endings.draining, "the time to drain is over")
        finally:
            limit.cancel()
            self._board.calls.discard(entry)
        if end is not None:  # handed over before anything is waited for: the store may close next
            await end_written(_end(self._board.store, self._held, end, self._board.now()))

    async def _over(self) -> None:
        """Waits until some worker has ended the session, and told it."""
        store = self._board.store
        while True:
            with end_watch(store).waiting(self.session_id) as over:
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


async def end_session(store: Store, held: Held, end: CallEnd, now: float) -> None:
    """Ends a session of WhatsApp, whichever worker holds it, unless it is over. `now`: Unix seconds."""
    try:
        record = await store.session(held.session_id)
    except StoreFailed as error:
        log.warning("store", error=str(error))
    else:
        if record is not None and record.state in TERMINAL:
            return
    await end_written(_end(store, held, end, now))


def _end(store: Store, held: Held, end: CallEnd, now: float) -> asyncio.Future[None]:
    """Hands the end to the store, of which the first counts, and says it in one line."""
    ending = end.ending
    outcome = Outcome(
        state=State.FAILED if ending.failed else State.ENDED,
        ended_at=now,
        reason=ending.code,
        side=ending.side,
        detail=end.words,
        close_code=ending.close_code,
        traffic=Traffic(),
        first_agent_sound_at=None,
        completion_status="HTTP_ERROR" if ending.failed else "HTTP_COMPLETED",
    )
    written = store.ended(held.session_id, outcome)
    log.info(
        "whatsapp call ended",
        session=held.session_id,
        agent=held.agent,
        organization=held.organization,
        instance=held.instance,
        reason=ending.code,
        side=str(ending.side),
        words=end.words,
        seconds=round(now - held.began_at, 3),
    )
    written.add_done_callback(lambda _: end_watch(store).ended(held.session_id))
    return written
