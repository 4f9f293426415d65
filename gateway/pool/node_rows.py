# SPDX-License-Identifier: BSD-2-Clause
"""The rows of one node in the pool's table: its own, and those of its instances."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from gateway.pool.managed_node import ManagedNode
from gateway.pool.own_instance import OwnInstance, Troubles, row_of
from gateway.pool.pool_plan import InstanceState
from gateway.pool.pool_records import (
    NODE_LEASE_S,
    InstanceRow,
    NodeRow,
    PoolTable,
    change,
    claim,
    free_places,
    put_node,
    remove,
)
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

RENEW_S: Final = NODE_LEASE_S / 4


class NodeRows:
    """Brings the rows of a node and its instances together. It belongs to one event loop."""

    def __init__(self, parts: ManagedNode, own: Mapping[str, OwnInstance], troubles: Troubles) -> None:
        """`own`: the instances of the node by id, as its manager knows them at each moment."""
        self._parts = parts
        self._values = parts.store.key_values
        self._own = own
        self._troubles = troubles
        self._node_row: NodeRow | None = None
        self._renewed_at = 0.0

    async def renew_node(self, now: float, *, is_draining: bool) -> None:
        """Say that this node lives, and how it is, if that has changed or a while ago. Raises StoreFailed."""
        loop_now = _loop_now()
        self._troubles.forget_overcome(list(self._own.values()))
        row = NodeRow(
            self._parts.node,
            is_draining,
            self._troubles.all(),
        )
        if row != self._node_row or loop_now - self._renewed_at >= RENEW_S:
            await put_node(self._values, row, now)
            if row != self._node_row:
                self._parts.store.notifications.publish(Topic.POOL_CHANGED, "")
            self._node_row, self._renewed_at = row, loop_now

    async def reconcile(self, table: PoolTable, now: float) -> None:
        """Bring the rows of this node and its instances together again, and remove those of nodes gone.

        Raises StoreFailed.
        """
        for row in table.orphans:
            if await remove(self._values, row, now):
                self.publish(row.agent)
        rows = {row.id: row for row in table.instances}
        for row in rows.values():
            # One of an earlier manager, which did not come to start it.
            if row.node == self._parts.node and row.id not in self._own:
                await remove(self._values, row, now)
                self.publish(row.agent)
        for own in list(self._own.values()):
            async with own.changing:
                if own.is_stopping:
                    continue
                known = rows.get(own.started.id)
                if known is not None and (own.row is None or known.state is not own.row.state):
                    own.row = known
                elif known is None:
                    own.row = await self._claim_again(own, table, now)

    async def _claim_again(self, own: OwnInstance, table: PoolTable, now: float) -> InstanceRow | None:
        """Make a row for an instance that runs without one: the store lost it, or a node took its place."""
        started = own.started
        limits = {agent.service_host: agent.max_agents for agent in self._parts.pool.agents()}
        state = InstanceState.STARTING if own.ready_at is None else InstanceState.READY
        free = free_places(table.of(started.agent), limits.get(started.agent, 0))
        for place in sorted(free, key=lambda place: place != started.place):
            row = row_of(started, self._parts.node, place, InstanceState.LEAVING if own.left_at else state)
            if await claim(self._values, row, now):
                self.publish(started.agent)
                return row
        return None  # there are as many as there may be: it is not listed, and stops without a session

    async def change(self, own: OwnInstance, state: InstanceState) -> bool:
        """Change the state of an instance in the store. Return False if its row is not its own any more.

        Raises StoreFailed.
        """
        async with own.changing:
            before = own.row
            if before is None or own.is_stopping:
                return False
            if not await change(self._values, before, before.at(state), self._parts.now()):
                own.row = None
                return False
            own.row = before.at(state)
            if state is InstanceState.LEAVING and own.left_at is None:
                own.left_at = _loop_now()
                log.info("instance leaves", agent=own.started.agent, instance=own.started.url)
        self.publish(own.started.agent)
        return True

    def publish(self, agent: str) -> None:
        """Publish that the pool of an agent has changed."""
        self._parts.store.notifications.publish(Topic.POOL_CHANGED, agent)


def _loop_now() -> float:
    return asyncio.get_running_loop().time()
