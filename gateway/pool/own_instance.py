# SPDX-License-Identifier: BSD-2-Clause
"""The state that a node's manager has of its own instances, and of agents whose instances fail there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from gateway.agents.instance_health import Health
from gateway.pool.instance_provider import StartedInstance
from gateway.pool.pool_plan import STEADY_S, InstanceState, pause_s
from gateway.pool.pool_records import InstanceRow, Trouble

log = structlog.get_logger(__name__)

SILENT_S: Final = 30.0
"""Seconds after which an instance without a session is stopped that answers no health check."""


@dataclass(slots=True)
class OwnInstance:
    """An instance of this node. Times are of the loop's clock.

    `row`: as it is in the store, None if that has no place for it. `ready_at`: None while it is started.
    `sessions`: the ids of those that it has, None if that was not looked at yet; `active`: how many.
    `left_at`: when it was taken off the list. `silent_since`: from when on it has answered no health check.
    `changing`: held while its row is changed.
    """

    started: StartedInstance
    row: InstanceRow | None
    ready_at: float | None = None
    idle_since: float = 0.0
    left_at: float | None = None
    served: int = 0
    sessions: frozenset[str] | None = None
    active: int = 0
    memory_bytes: int = 0
    silent_since: float | None = None
    is_stopping: bool = False
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def note_health(self, health: Health, now: float) -> bool:
        """Return True once it has answered no health check for SILENT_S, though it has no session."""
        is_well = health in (Health.READY, Health.STARTING)
        if is_well or self.active or self.ready_at is None or self.is_stopping:
            self.silent_since = None
        elif self.silent_since is None:
            self.silent_since = now
        elif now - self.silent_since >= SILENT_S:
            self.silent_since = now
            return True
        return False

    def is_steady(self, since: float, now: float) -> bool:
        """Return True if it has become ready after `since`, and has proved itself."""
        if self.ready_at is None or self.ready_at < since:
            return False
        return now - self.ready_at >= STEADY_S or self.served > 0


def row_of(started: StartedInstance, node: str, place: int, state: InstanceState) -> InstanceRow:
    """Return the row of an instance that runs, at this place."""
    return InstanceRow(
        id=started.id,
        agent=started.agent,
        place=place,
        node=node,
        url=started.url,
        spec=started.spec,
        state=state,
        started_at=started.started_at,
    )


class Troubles:
    """Agents of which instances failed, each with the pause until this node starts another."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: Unix seconds."""
        self._now = now
        self._known: dict[str, tuple[Trouble, float]] = {}  # by agent; with the loop's time of the failure

    def add(self, agent: str, instance: str | None, words: str) -> None:
        """Note a failure, and log it. `words`: for the operator. `instance`: None if there was none yet."""
        known = self._known.get(agent)
        failures = known[0].failures + 1 if known is not None else 1
        wait_s = pause_s(failures)
        log.warning(
            "instance failed", agent=agent, instance=instance, error=words, failures=failures, seconds=wait_s
        )
        until = self._now() + wait_s
        self._known[agent] = Trouble(failures, until, words), asyncio.get_running_loop().time()

    def may_start(self, agent: str, now: float) -> bool:
        """Return True if there is no pause now. `now`: Unix seconds."""
        known = self._known.get(agent)
        return known is None or now >= known[0].until

    def forget_overcome(self, instances: Iterable[OwnInstance]) -> None:
        """Forget the failures of agents that have had an instance since then which is steady."""
        now, running = asyncio.get_running_loop().time(), list(instances)
        for agent, (_, failed_at) in list(self._known.items()):
            if any(own.started.agent == agent and own.is_steady(failed_at, now) for own in running):
                del self._known[agent]

    def all(self) -> Mapping[str, Trouble]:
        """Return them by agent."""
        return {agent: trouble for agent, (trouble, _) in self._known.items()}
