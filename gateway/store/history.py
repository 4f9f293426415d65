# SPDX-License-Identifier: BSD-2-Clause
"""The history: what the store keeps of sessions that are over and of changes by the API, and for how long.

Nothing here is on the way of a call. Totals by day outlive the sessions that they count.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class ManagementCall:
    """A request that changed something, or tried to, with the key that it came with.

    `at`: Unix seconds. `path`: as it was requested, without the query. `peer`: the client's address.
    """

    at: float
    organization: str
    key_id: str
    method: str
    path: str
    status: int
    request_id: str
    peer: str


@dataclass(frozen=True, slots=True)
class DayUsage:
    """The usage of one agent on one day.

    `day`: days since 1970-01-01, of the moment when they got their slots (UTC). `sessions`: those that got a
    slot. `seconds`: from the slot to the end of each, or until now.
    """

    day: int
    agent: str
    sessions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Removed:
    """The numbers of sessions blanked, and of sessions and calls removed, by `History.prune`."""

    blanked: int
    sessions: int
    management_calls: int

    @property
    def total(self) -> int:
        return self.blanked + self.sessions + self.management_calls


class History(Protocol):
    """Records of all workers. An `async` method answers within seconds or raises StoreFailed."""

    def record_call(self, call: ManagementCall) -> asyncio.Future[None]:
        """Record a management call. Returns at once; the write is retried until it succeeds."""

    async def management_calls(
        self, organization: str, since: float, before: float, *, limit: int, offset: int
    ) -> tuple[list[ManagementCall], int]:
        """Return a page of an organization's calls, newest first, and the number of all.

        `since` (inclusive), `before` (exclusive): Unix seconds.
        """

    async def usage(
        self, organization: str, first_day: int, last_day: int, now: float
    ) -> tuple[DayUsage, ...]:
        """Return what an organization used on these days, both included, ordered by day and agent.

        Sessions that are not over are counted until `now`.
        """

    async def prune(self, sessions_before: float, calls_before: float, limit: int) -> Removed:
        """Remove what is older, at most `limit` rows of each kind, the oldest first.

        Of sessions that ended before `sessions_before` first the numbers, the carrier's ids, metadata,
        transcript and results are blanked; once no such session has them, the sessions are removed. Calls
        before `calls_before` are removed. 0 keeps everything. A store with a bound on what it keeps at all
        (`[store] max_history`) removes the oldest above it, too.
        """
