# SPDX-License-Identifier: BSD-2-Clause
"""Nodes in the test's own loop: real rows in a real store, and instances that are only imagined."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import Health, InstanceHealth, ProbeResult
from gateway.config import Settings
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Party
from gateway.model.session import CallDetails, SessionResult, SlotLimits, Traffic
from gateway.pool.instance_pool import InstancePool
from gateway.pool.instance_provider import InstanceEnd, StartedInstance, StartFailed, StartRequest
from gateway.pool.managed_node import ManagedNode
from gateway.pool.pool_manager import PoolManager
from gateway.pool.pool_records import InstanceRow, read_table
from gateway.pool.process_table import Usage
from gateway.simulator.waiting import WAIT_S
from gateway.store.interface import Store
from gateway.store.worker_id import WorkerId
from tests.store.conformance import StoreFactory


class ImaginedInstances:
    """An `InstanceProvider` whose instances run until the test ends them."""

    def __init__(self) -> None:
        self.running: dict[str, StartedInstance] = {}
        self.ends: dict[str, asyncio.Future[InstanceEnd]] = {}
        self.started: list[StartRequest] = []
        self.served: dict[str, int] = {}
        self.memory_bytes = 0
        self.trouble = ""
        self.may_stop = asyncio.Event()
        """Until it is set, an instance that is stopped runs on."""
        self.may_stop.set()

    async def start(self, request: StartRequest) -> StartedInstance:
        self.started.append(request)
        if self.trouble:
            raise StartFailed(self.trouble)
        instance = StartedInstance(
            request.id,
            request.agent.service_host,
            request.place,
            request.url,
            request.spec,
            0.0,
            0,
            0.0,
            "",
            "",
        )
        self.running[request.id] = instance
        self.ends[request.id] = asyncio.get_running_loop().create_future()
        return instance

    async def find(self) -> list[StartedInstance]:
        return list(self.running.values())

    async def wait_ended(self, instance: StartedInstance) -> InstanceEnd:
        return await asyncio.shield(self.ends[instance.id])

    async def stop(self, instance: StartedInstance, grace_s: float) -> None:
        await self.may_stop.wait()
        self.running.pop(instance.id, None)
        self.end(instance, -15)

    async def usage(self, instance: StartedInstance) -> Usage | None:
        return Usage(0.0, self.memory_bytes)

    async def note_served(self, instance: StartedInstance, served: int) -> None:
        self.served[instance.id] = served

    async def close(self) -> None:
        pass

    def end(self, instance: StartedInstance, status: int) -> None:
        """Let an instance end by itself."""
        if not self.ends[instance.id].done():
            self.ends[instance.id].set_result(InstanceEnd(status))


class ImaginedHealth(InstanceHealth):
    """Health of instances that are ready as the test wants."""

    def __init__(self) -> None:
        super().__init__(())
        self.answer = ProbeResult.READY
        self.seen = Health.READY

    def of(self, instance: str) -> Health:
        return self.seen

    async def probe(self, instance: str) -> ProbeResult:
        return self.answer


class Clock:
    """The time of all nodes."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """One node, its manager and the pool as its calls see it."""

    def __init__(self, name: str, store: Store, settings: Settings, clock: Clock) -> None:
        self.name, self.store, self.clock = name, store, clock
        self.directory = AgentDirectory(settings)
        self.health = ImaginedHealth()
        self.pool = InstancePool(store, self.directory, self.health, f"worker-{name}", clock)
        self.provider = ImaginedInstances()
        self.manager = self._manager()

    def _manager(self) -> PoolManager:
        host = f"10.0.0.{ord(self.name) - ord('a') + 1}"
        parts = ManagedNode(self.name, host, self.store, self.pool, self.health, self.provider, self.clock)
        return PoolManager(parts)

    async def restart(self) -> None:
        """Let another worker of the node manage: the one that did has died."""
        await self.manager.close()
        self.manager = self._manager()
        await self.manager.find_running()

    async def look(self, times: int = 1) -> None:
        """Look so often, and let what was begun go on."""
        for _ in range(times):
            await self.manager.look()
            await asyncio.sleep(0.01)
        await self.pool.refresh()

    def configure(self, *agents: dict[str, Any]) -> None:
        self.directory.configure(settings_of(*agents))

    async def rows(self) -> list[InstanceRow]:
        return list((await read_table(self.store.key_values, self.clock())).instances)

    async def states(self) -> list[str]:
        return [row.state.value for row in await self.rows()]

    async def until(self, *states: str) -> None:
        """Look until the rows have these states."""
        latest = ["not looked yet"]

        try:
            async with asyncio.timeout(WAIT_S):
                while latest != list(states):
                    await self.look()
                    latest = await self.states()
        except TimeoutError:
            raise AssertionError(f"never: {states}, but {latest}") from None

    @property
    def listed(self) -> list[str]:
        """What calls see."""
        agent = self.directory.find("support.acme")
        return [] if agent is None else agent.instances


def agent(**settings: Any) -> dict[str, Any]:
    return {
        "name": "support",
        "organization": "acme",
        "command": ["bot", "{port}"],
        "ports": "20000-29999",
        "buffer": 0,
        "cooldown": 0,
        "max_agents": 4,
        **settings,
    }


def settings_of(*agents: dict[str, Any]) -> Settings:
    return Settings.model_validate({"agents": list(agents)})


async def open_node(
    name: str, factory: StoreFactory, location: Path, clock: Clock, *agents: dict[str, Any]
) -> Node:
    store = factory(location, WorkerId.of_this_process(f"{name}-{uuid.uuid4().hex}"))
    await store.open()
    return Node(name, store, settings_of(*agents), clock)


async def admit(node: Node, url: str, session: str | None = None) -> str:
    """Let a session take a slot on an instance; return its id."""
    session_id = session or str(uuid.uuid4())
    details = CallDetails(session_id, "support.acme", "acme", "us-west", "twilio", "CA1", "MZ1", None, None)
    await node.store.admit(details, SlotLimits(((url, 0),), 1, 50), node.clock())
    return session_id


async def hang_up(node: Node, session_id: str) -> None:
    result = SessionResult(
        SessionState.ENDED, node.clock(), "caller_hangup", Party.CALLER, "", 1000, Traffic(), None
    )
    await node.store.end(session_id, result)
