# SPDX-License-Identifier: BSD-2-Clause
"""The pool's manager of one node: it looks at the pool's rows, and starts and stops this node's instances.

It looks whenever the store has changed, and once in LOOK_S. What is to be done is decided by pool_plan.py;
this module does it. One worker of the node has it (pool_worker.py); when that dies, another makes one, which
finds what runs.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from gateway.agents.instance_health import ProbeResult
from gateway.config import AgentSettings
from gateway.config.agent_command import port_range
from gateway.pool.free_port import FreePorts
from gateway.pool.instance_pool import MAX_SESSIONS
from gateway.pool.instance_provider import (
    InstanceEnd,
    StartFailed,
    StartRequest,
)
from gateway.pool.managed_node import ManagedNode
from gateway.pool.node_rows import NodeRows
from gateway.pool.own_instance import SILENT_S, OwnInstance, Troubles
from gateway.pool.pool_plan import (
    InstanceState,
    PoolInstance,
    PoolLimits,
    make_plan,
)
from gateway.pool.pool_records import (
    InstanceRow,
    PoolTable,
    change,
    claim,
    free_places,
    read_demand,
    read_table,
    remove,
)
from gateway.pool.session_resources import SessionMeter
from gateway.store.interface import SessionFilter, StoreFailed
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
"""The longest time between two looks."""

LEAST_LOOK_S: Final = 0.2
"""The least: with SQLite every write of another worker causes one."""

PROBE_S: Final = 0.1
"""Seconds between two probes of an instance that is being started."""

LEAVE_S: Final = 1.0
"""Seconds from when an instance was taken off the list until it may be stopped: the workers learn of it."""

USAGE_S: Final = 5.0
"""Seconds between two looks at what an instance uses."""

SURVIVORS_S: Final = 2.0
"""Seconds for what an instance that has ended by itself has left running, until it is killed."""

KILL_S: Final = 10.0
"""Seconds for what is killed to end, when the gateway ends."""


class PoolManager:
    """The manager of one node's pool. It belongs to one event loop."""

    def __init__(self, parts: ManagedNode, *, is_draining: bool = False) -> None:
        """`is_draining`: the node takes no new calls, so its instances leave the list."""
        self._parts = parts
        self._values = parts.store.key_values
        self.is_draining = is_draining
        self._own: dict[str, OwnInstance] = {}  # by id
        self._troubles = Troubles(parts.now)
        self._rows = NodeRows(parts, self._own, self._troubles)
        self._measured_at = 0.0
        self._ports = FreePorts()
        self._meter = SessionMeter(parts.store.key_values)
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    # Life

    async def run(self) -> None:
        """Manage for ever. What runs goes on when this is cancelled."""
        await self.find_running()
        in_trouble = False
        with self._parts.store.notifications.subscribe(
            Topic.POOL_CHANGED, Topic.AGENTS_CHANGED, Topic.SLOT_FREED, Topic.SESSION_CHANGED
        ) as subscription:
            while True:
                await subscription.wait(LOOK_S, min_interval_s=LEAST_LOOK_S)
                try:
                    await self.look()
                    in_trouble = False
                except StoreFailed as error:  # what runs goes on; nothing is started or stopped meanwhile
                    if not in_trouble:
                        log.warning("store", error=str(error))
                    in_trouble = True
                except Exception:  # the edge of one look: the next one must come
                    log.exception("internal error")

    async def close(self) -> None:
        """End what this object does; what runs goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._parts.provider.close()

    async def find_running(self) -> None:
        """Go on with what an earlier process of this node started."""
        found = await self._parts.provider.find()
        loop_now = _loop_now()
        for started in found:
            own = OwnInstance(started, None, served=started.served, idle_since=loop_now)
            self._own[started.id] = own
            self._begin(self._watch(own))
        if found:
            log.info("instances run already", instances=len(found))

    async def stop_all(self, longest_grace_s: float) -> None:
        """Stop all instances of this node: the gateway ends for good. Their sessions are over by now.

        What the kernel cannot end, because a disk hangs, is left after a while.
        """
        stopping = [self._stop(own, min(own.started.stop_grace_s, longest_grace_s)) for own in self._all()]
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_grace_s + KILL_S):
                await asyncio.gather(*stopping)
        with suppress(StoreFailed):
            await self._values.delete("pool_node", self._parts.node)
        self._parts.store.notifications.publish(Topic.POOL_CHANGED, "")

    def _all(self) -> list[OwnInstance]:
        return list(self._own.values())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # A look

    async def look(self) -> None:
        """Look at the pool once, and begin what is to be done. Raises StoreFailed."""
        now = self._parts.now()
        await self._rows.renew_node(now, is_draining=self.is_draining)
        table = await read_table(self._values, now)
        await self._rows.reconcile(table, now)
        demand = await read_demand(self._values, now)
        agents = {agent.service_host: agent for agent in self._parts.pool.agents()}
        await self._measure()
        hosts = {row.agent for row in table.instances} | {own.started.agent for own in self._all()}
        for host in sorted(hosts | agents.keys()):
            await self._look_at(host, agents.get(host), table, demand.get(host, 0))
        running = {session_id for own in self._all() for session_id in own.sessions or ()}
        await self._meter.settle(running, now)

    async def _measure(self) -> None:
        loop_now = _loop_now()
        if loop_now - self._measured_at < USAGE_S:
            return
        self._measured_at = loop_now
        agents = {agent.service_host: agent for agent in self._parts.pool.agents()}
        for own in self._all():
            agent = agents.get(own.started.agent)
            if agent is None:
                continue
            # Of several sessions at a time nobody could tell which one uses what.
            sessions = list(own.sessions or ()) if agent.sessions_per_instance == 1 else []
            if not (len(sessions) == 1 or agent.recycle_above_mb):
                continue
            used = await self._parts.provider.usage(own.started)
            own.memory_bytes = 0 if used is None else used.memory_bytes
            if used is not None and len(sessions) == 1:
                self._meter.add(sessions[0], self._parts.now(), used.cpu_s, used.memory_bytes)

    async def _look_at(self, host: str, agent: AgentSettings | None, table: PoolTable, waiting: int) -> None:
        """Look at one agent. `agent`: None if it has no command any more, or was removed."""
        now, rows = self._parts.now(), table.of(host)
        owned = [own for own in self._all() if own.started.agent == host]
        if not (rows or owned or waiting) and (agent is None or not (agent.min_agents or agent.buffer)):
            return
        sessions = await self._sessions(host) if rows or owned else {}
        for own in owned:
            await self._note_sessions(own, sessions.get(own.started.url, frozenset()))
        limits = PoolLimits.of(agent) if agent is not None else PoolLimits(max_instances=0, buffer=0)
        current = "" if agent is None else self._parts.pool.spec_of(agent)
        instances = [self._view(row, current, len(sessions.get(row.url, ()))) for row in rows]
        plan = make_plan(limits, instances, waiting, self._able(host, table, now), self._parts.node)
        by_place = {own.row.place: own for own in owned if own.row is not None}
        retired = [by_place[place] for place in plan.retire if place in by_place]
        if self.is_draining or agent is None:
            retired = [own for own in owned if own.row is not None and own.row.state.is_listed]
        for own in retired:
            # One that is being started may have a session that waits for it: it leaves when it is ready.
            if own.ready_at is not None:
                await self._rows.change(own, InstanceState.LEAVING)
            elif not own.active and not own.is_stopping:
                await self._close(own)
        for own in owned:
            if agent is not None and agent.health_interval:
                await self._close_if_silent(own)
            if own.row is not None and own.row.state is InstanceState.STARTING and own.ready_at is not None:
                await self._rows.change(own, InstanceState.READY)
            # One without a row has no place; one that was closing when it was found is closed.
            is_leaving = own.row is None or own.row.state in (InstanceState.LEAVING, InstanceState.CLOSING)
            if is_leaving and not own.active and not own.is_stopping and self._has_left(own):
                await self._close(own)
        if agent is not None and plan.start and not self.is_draining:
            await self._start(agent, plan.start, free_places(rows, agent.max_agents))

    def _able(self, host: str, table: PoolTable, now: float) -> list[str]:
        """Return the nodes that start the agent's instances; of itself this one knows more than the table."""
        others = [node for node in table.able(host, now) if node != self._parts.node]
        is_able = not self.is_draining and self._troubles.may_start(host, now)
        return [*others, self._parts.node] if is_able else others

    def _has_left(self, own: OwnInstance) -> bool:
        if own.left_at is None:
            own.left_at = _loop_now()
        return _loop_now() - own.left_at >= LEAVE_S

    def _view(self, row: InstanceRow, current: str, sessions: int) -> PoolInstance:
        own, loop_now = self._own.get(row.id), _loop_now()
        state = row.state if own is None or own.row is None else own.row.state
        known: dict[str, Any] = {}
        if own is not None:
            known = {
                "idle_s": 0.0 if own.ready_at is None else loop_now - max(own.idle_since, own.ready_at),
                "served": own.served,
                "memory_bytes": own.memory_bytes,
            }
        is_current = row.spec == current
        return PoolInstance(row.place, row.node, state, sessions, is_current, **known)

    async def _sessions(self, host: str) -> Mapping[str, frozenset[str]]:
        """Return the ids of the sessions that have a slot now, by the URL of their instance."""
        active = SessionFilter(agent=host, active=True)
        records, _ = await self._parts.store.sessions(active, limit=MAX_SESSIONS)
        by_url: dict[str, set[str]] = {}
        for record in records:
            by_url.setdefault(record.instance, set()).add(record.session_id)
        return {url: frozenset(ids) for url, ids in by_url.items()}

    async def _note_sessions(self, own: OwnInstance, sessions: frozenset[str]) -> None:
        # What runs when an instance is found again was counted before.
        began = frozenset[str]() if own.sessions is None else sessions - own.sessions
        if own.active and not sessions:
            own.idle_since = _loop_now()
        own.sessions, own.active = sessions, len(sessions)
        if began:
            own.served += len(began)
            own.idle_since = _loop_now()
            await self._parts.provider.note_served(own.started, own.served)

    # Starting

    async def _start(self, agent: AgentSettings, count: int, places: Iterable[int]) -> None:
        """Start instances at free places. Each is listed from the beginning."""
        left = count
        for place in places:
            if not left:
                return
            port = await self._free_port(agent)
            if port is None:
                self._troubles.add(agent.service_host, None, f"no port of {agent.ports} is free")
                return
            request = StartRequest(
                id=uuid.uuid4().hex,
                agent=agent,
                place=place,
                host=self._parts.host,
                port=port,
                spec=self._parts.pool.spec_of(agent),
            )
            row = InstanceRow(
                id=request.id,
                agent=agent.service_host,
                place=place,
                node=self._parts.node,
                url=request.url,
                spec=request.spec,
                state=InstanceState.STARTING,
                started_at=self._parts.now(),
            )
            if not await claim(self._values, row, self._parts.now()):
                continue  # another node was faster
            left -= 1
            self._rows.publish(agent.service_host)
            if not await self._start_at(request, row):
                return

    async def _start_at(self, request: StartRequest, row: InstanceRow) -> bool:
        host = row.agent
        try:
            started = await self._parts.provider.start(request)
        except StartFailed as failure:
            await remove(self._values, row, self._parts.now())
            self._rows.publish(host)
            self._troubles.add(host, row.url, str(failure))
            return False
        own = OwnInstance(started, row, idle_since=_loop_now(), sessions=frozenset())
        self._own[started.id] = own
        log.info("instance is started", agent=host, instance=started.url)
        self._begin(self._watch(own))
        return True

    async def _free_port(self, agent: AgentSettings) -> int | None:
        """Return a port that no instance of this node has had lately. A session may still name its URL."""
        taken = {int(own.started.url.rpartition(":")[2]) for own in self._all()}
        return await asyncio.to_thread(self._ports.find, port_range(agent.ports), taken)

    async def _watch(self, own: OwnInstance) -> None:
        """Wait until the instance is ready, then until it ends; see to what its end leaves."""
        ending = asyncio.create_task(self._parts.provider.wait_ended(own.started))
        readiness = asyncio.create_task(self._wait_ready(own))
        try:
            await asyncio.wait((ending, readiness), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done() and not readiness.result():
                self._troubles.add(own.started.agent, own.started.url, "it was not ready in time")
                await self._stop(own, own.started.stop_grace_s)
                return
            end = await ending
        finally:
            for task in (ending, readiness):
                task.cancel()
            await asyncio.gather(ending, readiness, return_exceptions=True)
        if not own.is_stopping:
            self._note_end(own, end)
            await self._stop(own, SURVIVORS_S)

    def _note_end(self, own: OwnInstance, end: InstanceEnd) -> None:
        started = own.started
        if end.is_clean and own.served:
            log.info("instance ended", agent=started.agent, instance=started.url, sessions=own.served)
        else:
            words = end.words if own.ready_at is not None else f"{end.words}, before it was ready"
            self._troubles.add(started.agent, started.url, words)

    async def _wait_ready(self, own: OwnInstance) -> bool:
        """Return True once the instance is ready, False if it is not in time."""
        agent = next((a for a in self._parts.pool.agents() if a.service_host == own.started.agent), None)
        limit_s = 60.0 if agent is None else agent.start_limit
        began = _loop_now()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while await self._parts.health.probe(own.started.url) is not ProbeResult.READY:  # noqa: ASYNC110
                    await asyncio.sleep(PROBE_S)
                own.ready_at = _loop_now()
                seconds = round(own.ready_at - began, 3)
                log.info(
                    "instance is ready", agent=own.started.agent, instance=own.started.url, seconds=seconds
                )
                while own.row is not None and own.row.state is InstanceState.STARTING:
                    try:
                        await self._rows.change(own, InstanceState.READY)
                    except StoreFailed:
                        await asyncio.sleep(PROBE_S)
                return True
        return own.ready_at is not None

    # Ending

    async def _close(self, own: OwnInstance) -> None:
        """Stop an instance without sessions, unless one has got a slot on it just now."""
        before = own.row.state if own.row is not None else InstanceState.LEAVING
        if own.row is not None and not await self._rows.change(own, InstanceState.CLOSING):
            return
        sessions = await self._sessions(own.started.agent)
        if sessions.get(own.started.url):
            is_starting = before is InstanceState.STARTING
            await self._rows.change(own, before if is_starting else InstanceState.LEAVING)
            return
        self._begin(self._stop(own, own.started.stop_grace_s))

    async def _close_if_silent(self, own: OwnInstance) -> None:
        if own.note_health(self._parts.health.of(own.started.url), _loop_now()):
            words = f"it runs, and did not answer for {SILENT_S:g} s"
            self._troubles.add(own.started.agent, own.started.url, words)
            await self._close(own)

    async def _stop(self, own: OwnInstance, grace_s: float) -> None:
        """Stop an instance. Its place is free when nothing of it runs."""
        async with own.changing:
            if own.is_stopping:
                return
            own.is_stopping = True
            with suppress(StoreFailed):
                if own.row is not None and own.row.state is not InstanceState.CLOSING:
                    closing = own.row.at(InstanceState.CLOSING)
                    changed = await change(self._values, own.row, closing, self._parts.now())
                    own.row = closing if changed else None
                    self._rows.publish(own.started.agent)
        await self._parts.provider.stop(own.started, grace_s)
        while own.row is not None:
            try:
                await remove(self._values, own.row, self._parts.now())
                own.row = None
            except StoreFailed:
                await asyncio.sleep(LOOK_S)
        self._own.pop(own.started.id, None)
        log.info("instance is stopped", agent=own.started.agent, instance=own.started.url)
        self._rows.publish(own.started.agent)


def _loop_now() -> float:
    return asyncio.get_running_loop().time()
