# SPDX-License-Identifier: BSD-2-Clause
"""The pool as one worker's calls see it: which instances are listed and which start.

A worker follows the pool's rows in the store (pool_records.py), and gives its agents the URLs of those that
are listed (`FoundInstances.replace`). It decides nothing: pool_manager.py does, in one worker of each node.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Final

import structlog

from gateway.agents.directory import AgentDirectory
from gateway.agents.found_instances import FoundInstances
from gateway.agents.instance_health import InstanceHealth
from gateway.agents.instance_sources import pool_source
from gateway.config import AgentSettings
from gateway.pool.pool_plan import InstanceState, PoolInstance, PoolLimits, needed_instances
from gateway.pool.pool_records import (
    DEMAND_LEASE_S,
    InstanceRow,
    NodeRow,
    PoolTable,
    Trouble,
    put_demand,
    read_demand,
    read_instance,
    read_table,
    spec_of,
)
from gateway.store.interface import SessionFilter, Store, StoreFailed
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

FOLLOW_S: Final = 0.1
"""The least time between two looks at the rows: with SQLite every write of another worker causes one."""

CLOSING_S: Final = 2.0
"""How long a session that got its slot on an instance that closes waits to learn whether it closes."""

CLOSING_LOOK_S: Final = 0.05

SOON_S: Final = 5.0
"""How long a caller waits for nodes whose instances have failed, until they try again."""

MAX_SESSIONS: Final = 10_000
"""Active sessions of one agent that are looked at."""

_EMPTY: Final = PoolTable({}, (), ())


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The pool of one agent, over all nodes. `needed`: instances, those in use included; see pool_plan.py.

    `troubles`: by node, why it starts none now.
    """

    needed: int
    starting: int
    ready: int
    leaving: int
    troubles: dict[str, Trouble]


class InstancePool:
    """The pool of one worker. It belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        directory: AgentDirectory,
        health: InstanceHealth,
        worker: str,
        now: Callable[[], float],
    ) -> None:
        """`worker`: unique among all. `now`: Unix seconds."""
        self._store = store
        self._values = store.key_values
        self._directory = directory
        self._health = health
        self._found = FoundInstances(directory, health)
        self._worker = worker
        self._now = now
        self._changed = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self._waiting: dict[str, int] = {}  # callers of this worker that found no slot, by agent
        self._written: dict[str, tuple[int, float]] = {}  # what of them is in the store, and since when
        self._demand_changed = asyncio.Event()
        self._wakes: set[Callable[[], None]] = set()
        self.table = _EMPTY
        """The rows as they were read last."""

    def agents(self) -> list[AgentSettings]:
        """Return the agents whose instances are started here, as their settings are now."""
        return [agent for agent in self._directory.written_here if agent.command]

    def spec_of(self, agent: AgentSettings) -> str:
        """Return what tells apart the settings that an instance was started by from those of now."""
        return spec_of(agent, self._directory.deployment_of(agent).program)

    def counts(self) -> dict[str, int]:
        """Return how many instances of all agents there are by state, as this worker last read them."""
        states = [row.state for row in self.table.instances]
        return {state.value: states.count(state) for state in InstanceState}

    # The rows

    async def refresh(self) -> None:
        """Read the rows again, and give them to this worker's calls. Raises StoreFailed."""
        async with self._refreshing:
            before = self.table
            self.table = await read_table(self._values, self._now())
            self._feed(before)
            if self.table != before:
                self._changed.set()
                self._changed = asyncio.Event()
                for wake in tuple(self._wakes):
                    wake()

    def _feed(self, before: PoolTable) -> None:
        agents = {row.agent for row in (*before.instances, *self.table.instances)}
        for agent in agents:
            rows = self.table.of(agent)
            self._found.replace(pool_source(agent), [row.url for row in rows if row.state.is_listed])
        was_ready = {row.id for row in before.instances if row.state is InstanceState.READY}
        for row in self.table.instances:
            if row.state is InstanceState.READY and row.id not in was_ready:
                self._health.probe_soon(row.url)

    async def follow(self) -> None:
        """Follow the rows for ever."""
        in_trouble = False
        with self._store.notifications.subscribe(Topic.POOL_CHANGED) as subscription:
            while True:
                await subscription.wait(min_interval_s=FOLLOW_S)
                try:
                    await self.refresh()
                    in_trouble = False
                except StoreFailed as error:
                    if not in_trouble:
                        log.warning("store", error=str(error))
                    in_trouble = True
                    subscription.retry()

    def row_of(self, url: str) -> InstanceRow | None:
        """Return the row of a started instance, None for any other."""
        return next((row for row in self.table.instances if row.url == url), None)

    # Calls

    def has_room(self, agent: AgentSettings, in_use: int) -> bool:
        """Return True if another instance of the agent may be started soon, as far as is known here.

        `in_use`: the agent's sessions. An instance that leaves and has none makes room in a moment.
        """
        if not self.table.nodes:  # the node has begun a moment ago, and has no manager yet
            return True
        rows = self.table.of(agent.service_host)
        able = self.table.able(agent.service_host, self._now() + SOON_S)
        listed = sum(1 for row in rows if row.state.is_listed)
        leaving = sum(1 for row in rows if row.state is InstanceState.LEAVING)
        busy = min(leaving, ceil(in_use / agent.sessions_per_instance))
        return listed + busy < agent.max_agents and bool(able)

    def trouble(self, service_host: str) -> str:
        """Return why no node starts an instance of the agent now; "" if one does."""
        words = [row.troubles[service_host].words for row in self._troubled(service_host)]
        return words[0] if words and len(words) == len(self.table.nodes) else ""

    def _troubled(self, service_host: str) -> list[NodeRow]:
        now = self._now()
        return [
            row
            for row in self.table.nodes.values()
            if service_host in row.troubles and not row.can_start(service_host, now)
        ]

    def is_starting(self, url: str) -> bool:
        """Return True if the instance is being started, and is not ready yet."""
        row = self.row_of(url)
        return row is not None and row.state is InstanceState.STARTING

    async def wait_started(self, url: str) -> bool:
        """Wait while an instance is being started. Return False if it has gone instead of being ready.

        Returns True at once for an instance that nobody starts. Bound the wait with `asyncio.timeout`.
        """
        row = self.row_of(url)
        while row is not None and row.state is InstanceState.STARTING:
            await self._changed.wait()
            identifier, row = row.id, self.row_of(url)
            if row is None or row.id != identifier or row.state is InstanceState.CLOSING:
                return False
        return True

    async def may_be_used(self, url: str) -> bool:
        """Return False if the instance is stopped, although a session has got a slot on it just now.

        Whoever stops an instance first writes that, and then looks for sessions on it; whoever takes a slot
        does that first, and then reads what was written. So at least one of them learns of the other.
        """
        row = self.row_of(url)
        if row is None:
            return True
        with contextlib.suppress(StoreFailed, TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                while True:
                    stored = await read_instance(self._values, row.key, self._now())
                    if stored is None or stored.id != row.id:
                        return False
                    if stored.state is not InstanceState.CLOSING:
                        return True
                    await asyncio.sleep(CLOSING_LOOK_S)
            return False
        return not self._is_closing(row)  # the store does not answer: nothing is stopped then

    def _is_closing(self, row: InstanceRow) -> bool:
        known = self.row_of(row.url)
        return known is None or known.id != row.id or known.state is InstanceState.CLOSING

    @asynccontextmanager
    async def demand(self, agent: AgentSettings, wake: Callable[[], None]) -> AsyncIterator[None]:
        """Let one more instance of the agent be started, for a caller that found no slot and waits here.

        `wake`: called whenever the listed instances have changed.
        """
        host = agent.service_host
        self._wakes.add(wake)
        self._waiting[host] = self._waiting.get(host, 0) + 1
        self._demand_changed.set()
        try:
            yield
        finally:
            self._wakes.discard(wake)
            self._waiting[host] -= 1
            self._demand_changed.set()

    async def write_demand(self) -> None:
        """Write for ever how many callers wait, when that changes, and again before it expires."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEMAND_LEASE_S / 4):
                    await self._demand_changed.wait()
            self._demand_changed.clear()
            for host, waiting in list(self._waiting.items()):
                written, at = self._written.get(host, (0, 0.0))
                if waiting == written and (not waiting or self._now() - at < DEMAND_LEASE_S / 4):
                    continue
                try:
                    await put_demand(self._values, host, self._worker, waiting, self._now())
                except StoreFailed:
                    self._demand_changed.set()
                    await asyncio.sleep(1.0)
                    continue
                self._written[host] = waiting, self._now()
                self._store.notifications.publish(Topic.POOL_CHANGED, host)
                if not waiting and not self._waiting[host]:
                    del self._waiting[host], self._written[host]

    async def status(self, agent: AgentSettings) -> PoolStatus:
        """Return how the pool of an agent is, as of now. Raises StoreFailed."""
        host, now = agent.service_host, self._now()
        table = await read_table(self._values, now)
        waiting = (await read_demand(self._values, now)).get(host, 0)
        active = SessionFilter(agent=host, active=True)
        records, _ = await self._store.sessions(active, limit=MAX_SESSIONS)
        sessions: dict[str, int] = {}
        for record in records:
            sessions[record.instance] = sessions.get(record.instance, 0) + 1
        rows = table.of(host)
        instances = [PoolInstance(row.place, row.node, row.state, sessions.get(row.url, 0)) for row in rows]
        states = [row.state for row in rows]
        return PoolStatus(
            needed=needed_instances(PoolLimits.of(agent), instances, waiting),
            starting=states.count(InstanceState.STARTING),
            ready=states.count(InstanceState.READY),
            leaving=states.count(InstanceState.LEAVING) + states.count(InstanceState.CLOSING),
            troubles={
                node: row.troubles[host]
                for node, row in table.nodes.items()
                if host in row.troubles and now < row.troubles[host].until
            },
        )
