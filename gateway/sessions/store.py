# SPDX-License-Identifier: BSD-2-Clause
"""The store: what outlives a worker, behind one small interface. Nothing else counts sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.sessions.admission import AtCapacity
from gateway.sessions.lifecycle import State
from gateway.sessions.session import CallFacts, Outcome, Places, SessionRecord

__all__ = ["AtCapacity", "Counts", "Store", "StoreFailed"]


class StoreFailed(Exception):  # noqa: N818 - read as a sentence, like the entry `store_failed`
    """The store does not answer, cannot be opened, or is closed. `str()` says why, in words."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many sessions there are, of all workers together.

    `active`: those that hold a place, by state; every state that is not terminal is there, also with 0.
    `over`: those that are over, since the store was made, by terminal state, also with 0.
    """

    active: Mapping[State, int]
    over: Mapping[State, int]

    @property
    def total_active(self) -> int:
        return sum(self.active.values())

    @property
    def total(self) -> int:
        return self.total_active + sum(self.over.values())


class Store(Protocol):
    """Sessions of all workers. Every time is Unix seconds and comes from the caller.

    A method with `await` answers within seconds, or raises StoreFailed. To be used from one event loop.
    """

    async def open(self) -> None:
        """Makes the store ready. Raises StoreFailed, and then needs no close."""

    async def close(self) -> None:
        """Writes what is owed, for a bounded time, and frees everything. May be called twice."""

    async def admit(self, facts: CallFacts, places: Places, now: float) -> str:
        """Takes a place and returns the URL of its instance: one atomic step over all workers.

        The session is then `starting`, and whoever called owes its `ended`. Raises AtCapacity or StoreFailed;
        then, and when this is cancelled, there is no session.
        """

    def started(self, session_id: str, at: float) -> asyncio.Future[None]:
        """The agent runs: the session is `running`.

        Returns at once. The future is done when it is written; nobody needs to await it, the write is tried
        until it succeeds, in order with `ended`.
        """

    def ended(self, session_id: str, outcome: Outcome) -> asyncio.Future[None]:
        """The session is over and its place is free. The first end wins; a later one changes nothing.

        Returns at once, as `started` does. An unknown session is a log line and no more.
        """

    async def session(self, session_id: str) -> SessionRecord | None:
        """The record of one session."""

    async def sessions(
        self,
        *,
        agent: str | None = None,
        organization: str | None = None,
        active: bool | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[SessionRecord], int]:
        """One page of the sessions that match, newest first, and how many match in all."""

    async def counts(self) -> Counts:
        """How many sessions there are, by state."""

    async def beat(self, now: float) -> None:
        """This worker lives. To be called several times in STALE_S (owner.py)."""

    async def reap(self, now: float) -> list[SessionRecord]:
        """Ends the sessions of dead workers as `gateway_lost` and returns them, oldest first.

        A worker is dead when its process is gone, or, where its process cannot be looked up from here
        (another machine or container), when it was silent for STALE_S while this one was heard without a gap.
        """
