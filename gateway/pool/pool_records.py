# SPDX-License-Identifier: BSD-2-Clause
"""The rows of the pool that nodes share, in the store's key-values (gateway/store/interface.py).

| kind | key | value | lives |
| --- | --- | --- | --- |
| pool_instance | AGENT.ORG/PLACE | InstanceRow | until its node removes it, or another finds that node gone |
| pool_node | NODE | NodeRow | NODE_LEASE_S, renewed by the node's manager |
| pool_demand | AGENT.ORG/WORKER | how many callers of a worker found no slot | DEMAND_LEASE_S, renewed |

A row of an instance is a place of its agent. It is made only where there is none (`put_if_absent`), and is
changed only in place of what its writer knows (`replace`): so there are never two instances at one place,
whatever two nodes do at once, and a node whose place was taken meanwhile learns of it. The instances of a
node whose own row is gone are not listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from gateway.config import AgentSettings
from gateway.pool.pool_plan import InstanceState
from gateway.store.interface import KeyValueStore, StoredValue

INSTANCE_KIND: Final = "pool_instance"
NODE_KIND: Final = "pool_node"
DEMAND_KIND: Final = "pool_demand"

NODE_LEASE_S: Final = 20.0
"""Seconds after which a node that does not renew its row is gone. Clocks may differ by half of it."""

DEMAND_LEASE_S: Final = 20.0

_PAST_S: Final = 3600.0
"""A row that is removed expires so long ago, whatever the clock of whoever reads it says."""

_SPEC: Final = ("command", "cwd", "environment", "user", "log_folder")


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """A started instance. `id`: unique among all. `spec`: see `spec_of`. `started_at`: Unix seconds."""

    id: str
    agent: str
    place: int
    node: str
    url: str
    spec: str
    state: InstanceState
    started_at: float

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{self.agent}/{self.place}"

    def as_json(self) -> str:
        """Return the value in the store."""
        return json.dumps(asdict(self), sort_keys=True)

    def at(self, state: InstanceState) -> InstanceRow:
        """Return the row with another state."""
        return replace(self, state=state)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a node starts none of an agent's instances until then, in Unix seconds."""

    failures: int
    until: float
    words: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node with a pool manager. `is_draining`: it starts nothing. `troubles`: by service host."""

    node: str
    is_draining: bool = False
    troubles: Mapping[str, Trouble] = field(default_factory=dict)

    def can_start(self, agent: str, now: float) -> bool:
        """Return True if the node starts instances of the agent now, if more are needed."""
        trouble = self.troubles.get(agent)
        return not self.is_draining and (trouble is None or now >= trouble.until)

    def as_json(self) -> str:
        """Return the value in the store."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class PoolTable:
    """The pool as the store has it. `instances`: of nodes that live, by place. `orphans`: of others."""

    nodes: Mapping[str, NodeRow]
    instances: tuple[InstanceRow, ...]
    orphans: tuple[InstanceRow, ...]

    def of(self, agent: str) -> list[InstanceRow]:
        """Return the instances of an agent, by place."""
        return [row for row in self.instances if row.agent == agent]

    def able(self, agent: str, now: float) -> list[str]:
        """Return the nodes that start instances of the agent, if more are needed."""
        return [node for node, row in self.nodes.items() if row.can_start(agent, now)]


def spec_of(agent: AgentSettings, program: int = 0) -> str:
    """Return what tells apart the settings that an instance was started by from others; no secret.

    `program`: of the deployment that the settings are of (gateway/agents/deployments.py).
    """
    text = json.dumps([program, *(getattr(agent, name) for name in _SPEC)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def read_table(values: KeyValueStore, now: float) -> PoolTable:
    """Read the pool. `now`: Unix seconds. Raises StoreFailed."""
    # The nodes last: an instance that is read was made after its node.
    stored_instances = await values.list(INSTANCE_KIND, now)
    stored_nodes = await values.list(NODE_KIND, now)
    nodes = {row.node: row for row in map(_node, stored_nodes) if row is not None}
    rows = [row for row in map(_instance, stored_instances) if row is not None]
    rows.sort(key=lambda row: (row.agent, row.place))
    return PoolTable(
        nodes,
        tuple(row for row in rows if row.node in nodes),
        tuple(row for row in rows if row.node not in nodes),
    )


async def read_instance(values: KeyValueStore, key: str, now: float) -> InstanceRow | None:
    """Read one row. Raises StoreFailed."""
    stored = await values.get(INSTANCE_KIND, key, now)
    return None if stored is None else _instance(stored)


async def claim(values: KeyValueStore, row: InstanceRow, now: float) -> bool:
    """Make a row. Return False if there is one at its place. Raises StoreFailed."""
    return await values.put_if_absent(INSTANCE_KIND, row.key, row.as_json(), now=now)


async def change(values: KeyValueStore, before: InstanceRow, after: InstanceRow, now: float) -> bool:
    """Change a row. Return False if it is not `before` any more. Raises StoreFailed."""
    return await values.replace(INSTANCE_KIND, before.key, before.as_json(), after.as_json(), now=now)


async def remove(values: KeyValueStore, row: InstanceRow, now: float) -> bool:
    """Remove a row. Return False if it is another one's by now. Raises StoreFailed."""
    text = row.as_json()
    return await values.replace(INSTANCE_KIND, row.key, text, text, now=now, expires_at=now - _PAST_S)


async def put_node(values: KeyValueStore, row: NodeRow, now: float) -> None:
    """Write a node's own row, for NODE_LEASE_S. Raises StoreFailed."""
    await values.put(NODE_KIND, row.node, row.as_json(), now=now, expires_at=now + NODE_LEASE_S)


async def put_demand(values: KeyValueStore, agent: str, worker: str, waiting: int, now: float) -> None:
    """Write how many callers of a worker found no slot, 0 for none. Raises StoreFailed."""
    key = f"{agent}/{worker}"
    if waiting:
        await values.put(DEMAND_KIND, key, str(waiting), now=now, expires_at=now + DEMAND_LEASE_S)
    else:
        await values.delete(DEMAND_KIND, key)


async def read_demand(values: KeyValueStore, now: float) -> dict[str, int]:
    """Read how many callers found no slot, by agent, over all workers. Raises StoreFailed."""
    waiting: dict[str, int] = {}
    for stored in await values.list(DEMAND_KIND, now):
        agent = stored.key.partition("/")[0]
        if stored.value.isdecimal():
            waiting[agent] = waiting.get(agent, 0) + int(stored.value)
    return waiting


def free_places(rows: Iterable[InstanceRow], max_instances: int) -> list[int]:
    """Return the places of an agent that nobody has, as far as the rows tell."""
    taken = {row.place for row in rows}
    return [place for place in range(max_instances) if place not in taken]


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that this version knows: a later one beside it may have more."""
    return {each.name: values[each.name] for each in fields(kind) if each.name in values}


def _instance(stored: StoredValue) -> InstanceRow | None:
    try:
        values = _known(InstanceRow, json.loads(stored.value))
        return InstanceRow(**{**values, "state": InstanceState(values["state"])})
    except (ValueError, TypeError, KeyError):  # another version of the gateway wrote it
        return None


def _node(stored: StoredValue) -> NodeRow | None:
    try:
        values = _known(NodeRow, json.loads(stored.value))
        troubles = {agent: Trouble(**_known(Trouble, each)) for agent, each in values["troubles"].items()}
        return NodeRow(**{**values, "troubles": troubles})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
