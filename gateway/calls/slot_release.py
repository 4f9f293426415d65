# SPDX-License-Identifier: BSD-2-Clause
"""The slots of sessions that are over, and whose instances may still be busy with them.

Breaking a request or a socket off does not end what an agent does: most servers tell their handler, if it
asks, and let it run on. A slot that was free at once would put the next caller into the same process. So the
session is `ending` until its instance is seen to be free:

    answered    it answered the request of the session, or agreed to its end
    ready       its /readyz says 200, and said 503 while the session ran: it tells when it is busy.
                For a media socket any 200 will do: an agent that runs has learned of its socket's end
    gone        it refuses connections: its process has ended
    timeout     none of these within the agent's `stop_timeout`

An agent that ended by itself, or answered the close frame of its media socket, is free at once.
The store keeps what this module has to see to: after a crash another worker goes on with it (`take_over`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth, ProbeResult
from gateway.calls.session_end import SessionEnd, save
from gateway.calls.session_events import session_events
from gateway.model.session import MEDIA_SOCKETS, ReleasedBy, SessionRecord
from gateway.store.interface import Store, StoreFailed

log = structlog.get_logger(__name__)

PROBE_S: Final = 1.0
"""Seconds between two probes of an instance that is to become free."""


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """The slot of a session that is ending.

    `instance`: its URL. `requested_at`: when the agent was requested to run the session; `ending_at`: when
    there was a reason to end it; both in Unix seconds. `timeout_s`: after which the instance counts as free
    anyway. `had_socket`: the agent was on a media socket, which was closed.
    """

    session_id: str
    instance: str
    requested_at: float
    ending_at: float
    timeout_s: float
    had_socket: bool = False


class SlotReleases:
    """The sessions of this worker that are ending. It belongs to one event loop."""

    def __init__(self, store: Store, health: InstanceHealth, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._store = store
        self._health = health
        self._now = now
        self._held: dict[str, asyncio.Task[None] | None] = {}  # None: the session itself sees to it

    @property
    def held(self) -> int:
        """The number of sessions that are ending."""
        return len(self._held)

    def begin(self, ended: SessionEnd) -> None:
        """Make the session `ending`. The caller calls `release`, or `watch`, when it knows no more itself."""
        self._held.setdefault(ended.session_id, None)
        self._store.begin_end(ended.session_id, ended.result())
        session_events(self._store).ending(ended.session_id)

    def release(self, held: HeldSlot, by: ReleasedBy) -> None:
        """Note that the instance is free: the session is over, and its slot can be taken."""
        self._held.pop(held.session_id, None)
        now = self._now()
        self._store.release(held.session_id, now, by)
        session_events(self._store).ended(held.session_id)
        log.info(
            "instance is free again",
            session=held.session_id,
            instance=held.instance,
            released_by=by.value,
            seconds=round(now - held.ending_at, 3),
        )

    def watch(self, held: HeldSlot) -> None:
        """Release the slot once the instance is seen to be free."""
        self._held[held.session_id] = asyncio.create_task(self._watch(held))

    async def end(self, ended: SessionEnd, held: HeldSlot) -> None:
        """End a session whose instance may still be busy with it, and return at once.

        The end is passed to the store before this first suspends.
        """
        if held.timeout_s <= 0:
            await save(self._store, ended)
            return
        self.begin(ended)
        self.watch(held)

    async def take_over(self, agents: AgentDirectory) -> None:
        """See to the sessions that dead workers left `ending`, or without an end. Raises StoreFailed."""
        for record in await self._store.ending():
            if record.session_id not in self._held:
                self.watch(_held(record, agents))

    async def close(self) -> None:
        """Watch no more. What is still `ending` stays so, and another worker sees to it."""
        tasks = [task for task in self._held.values() if task is not None]
        self._held.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, held: HeldSlot) -> None:
        with session_events(self._store).waiting(held.session_id) as over:
            while not over.done():
                by = await self._seen(held)
                if by is not None:
                    self.release(held, by)
                    return
                left_s = held.ending_at + held.timeout_s - self._now()
                await asyncio.wait([over], timeout=max(0.0, min(PROBE_S, left_s)))
        self._held.pop(held.session_id, None)

    async def _seen(self, held: HeldSlot) -> ReleasedBy | None:
        """Probe the instance. Return how it was seen to be free, None if it was not."""
        now = self._now()
        if now - held.ending_at >= held.timeout_s:
            return ReleasedBy.TIMEOUT
        result = await self._health.probe(held.instance)
        if result is ProbeResult.REFUSED:
            return ReleasedBy.GONE
        if result is not ProbeResult.READY:
            return None
        since_s = self._now() - held.requested_at
        if held.had_socket or self._health.was_not_ready_within(held.instance, since_s):
            return ReleasedBy.READY
        return None


def _held(record: SessionRecord, agents: AgentDirectory) -> HeldSlot:
    """Return the slot of a session that another worker has left."""
    agent = agents.find(record.agent)
    ending_at = record.ending_at or record.created_at
    return HeldSlot(
        record.session_id,
        record.instance,
        requested_at=record.started_at or record.admitted_at or record.created_at,
        ending_at=ending_at,
        timeout_s=0.0 if agent is None else agent.stop_timeout,  # without the agent nobody gets its slots
        had_socket=record.transport in MEDIA_SOCKETS,
    )


async def take_over_or_warn(releases: SlotReleases, agents: AgentDirectory) -> bool:
    """Do what `take_over` does. Return False if the store fails; it is asked again when it answers."""
    try:
        await releases.take_over(agents)
    except StoreFailed as error:
        if not error.is_reported:
            log.warning("store", error=str(error))
        return False
    return True
