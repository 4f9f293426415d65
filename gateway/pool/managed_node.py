# SPDX-License-Identifier: BSD-2-Clause
"""The parts of a worker that its pool manager works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.agents.instance_health import InstanceHealth
from gateway.pool.instance_pool import InstancePool
from gateway.pool.instance_provider import InstanceProvider
from gateway.store.interface import Store


@dataclass(frozen=True, slots=True)
class ManagedNode:
    """The parts that a manager works with. `node`, `host`: see node_lock.py."""

    node: str
    host: str
    store: Store
    pool: InstancePool
    health: InstanceHealth
    provider: InstanceProvider
    now: Callable[[], float]
