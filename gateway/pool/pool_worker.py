# SPDX-License-Identifier: BSD-2-Clause
"""The pool of one worker: it follows it, and manages it if no other worker of its node does.

Nothing of this runs as long as no agent has a `command`.

    killed (-9), or its parent was   another worker, or gateway, of the node finds what runs
    replaced (--replace)             the workers of the new gateway manage from now on
    drains                           a worker that takes calls manages, if there is one; else the instances
                                     leave the list, and stop without a session
    has drained                      the last worker of the node to go stops what is left
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.pool.instance_files import InstanceFiles
from gateway.pool.instance_pool import InstancePool
from gateway.pool.instance_provider import InstanceProvider
from gateway.pool.managed_node import ManagedNode
from gateway.pool.node_lock import NodeLock, node_host, node_name
from gateway.pool.pool_manager import PoolManager
from gateway.pool.process_provider import ProcessProvider
from gateway.store.interface import Store, StoreFailed
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

TAKE_S: Final = 0.5
"""Seconds between two tries to manage the node's pool."""

LAST_S: Final = 2.0
"""Seconds that a worker that ends waits for one that ends just now and manages the pool still."""

END_GRACE_S: Final = 20.0
"""Longest time from SIGTERM to SIGKILL when the gateway ends, which its parent allows a minute for."""


class PoolWorker:
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
        self._directory = directory
        self._health = health
        self._now = now
        self.pool = InstancePool(store, directory, health, worker, now)
        self.files = InstanceFiles(Path(directory.settings.server.pool_folder))
        self._lock: NodeLock | None = None
        self._manager: PoolManager | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._managing: asyncio.Task[None] | None = None
        self._is_draining = False
        self._has_left = False
        self._has_successor = False
        self._is_doubled = False

    @property
    def is_managing(self) -> bool:
        """Whether this worker manages the node's pool."""
        return self._manager is not None

    async def start(self) -> None:
        """Follow the pool, if any agent needs one. Its calls see what is listed when this returns."""
        if self.pool.agents():
            with suppress(StoreFailed):
                await self.pool.refresh()
            self._follow()

    def agents_changed(self) -> None:
        """Take note that agents were read again: one may have a command now, or other numbers."""
        if self._tasks:
            self._store.notifications.receive(Topic.POOL_CHANGED, "")
        elif self.pool.agents():
            self._follow()

    def drain(self) -> None:
        """Take note that this worker takes no new calls, and that its end is meant. May be repeated."""
        if not self._is_draining:
            self._is_draining = True
            if self._lock is not None:
                self._lock.stop_serving()
            if self._manager is not None:
                self._restart_managing()

    def leave(self, *, successor: bool) -> None:
        """Leave the pool to another gateway, or the next one. Nothing is stopped when this worker ends.

        `successor`: another gateway runs. If it is none of this node's, by its settings, it does not go on
        with the instances, and the last worker of this one stops them.
        """
        if not self._has_left:
            self._has_left = True
            self._has_successor = successor
            self._restart_managing()

    async def stop(self) -> None:
        """Follow no more. The last worker that ends as it is meant to stops all instances of its node."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        for task in (*tasks, self._managing):
            if task is not None:
                task.cancel()
        await asyncio.gather(*tasks, *filter(None, [self._managing]), return_exceptions=True)
        if self._lock is None:
            return
        try:
            is_meant = self._has_successor if self._has_left else self._is_draining
            if is_meant and await self._take_as_last(self._lock):
                manager = await self._make_manager()
                await manager.stop_all(END_GRACE_S)
                await manager.close()
        finally:
            self._lock.close()
            self._lock = None

    def _follow(self) -> None:
        work: list[Coroutine[Any, Any, None]] = [self.pool.follow(), self.pool.write_demand()]
        self._tasks = [asyncio.create_task(each) for each in work]
        self._managing = asyncio.create_task(self._manage())

    def _restart_managing(self) -> None:
        """Let go of the pool, and manage it again only as this worker's state allows by now."""
        if self._managing is None:
            return
        before, self._managing = self._managing, None
        before.cancel()
        self._managing = asyncio.create_task(self._manage_after(before))

    async def _manage_after(self, before: asyncio.Task[None]) -> None:
        await asyncio.wait([before])
        if not self._has_left:
            await self._manage()

    async def _manage(self) -> None:
        """Manage the node's pool whenever no other worker does, for ever."""
        while True:
            try:
                lock = await self._locked()
                if self._may_manage(lock) and lock.take():
                    self._is_doubled = False
                    await self._run_manager(lock)
                self._note_double(lock)
            except OSError as error:
                log.error("the pool cannot be managed", error=str(error))
                await asyncio.sleep(10 * TAKE_S)
            except Exception:  # the edge of one try: the next one must come, here or in another worker
                log.exception("internal error")
                await asyncio.sleep(10 * TAKE_S)
            await asyncio.sleep(TAKE_S)

    async def _run_manager(self, lock: NodeLock) -> None:
        """Manage until this worker drains and another takes calls, or for ever."""
        manager = PoolManager(self._managed_node(), is_draining=self._is_draining)
        self._manager = manager
        log.info("this worker manages the pool", node=node_name(self._directory.settings), pid=os.getpid())
        running = asyncio.create_task(manager.run())
        try:
            while not running.done() and self._may_manage(lock):
                await asyncio.wait([running], timeout=TAKE_S)
            if running.done():
                running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await manager.close()
            self._manager = None
            lock.release()

    def _note_double(self, lock: NodeLock) -> None:
        """Say once that a gateway of the same name, with another folder, manages the pool."""
        if lock.is_doubled and not self._is_doubled:
            words = (
                "another gateway has this node's name and store, and another pool_folder: it manages the pool"
            )
            log.error("the pool cannot be managed", error=words)
        self._is_doubled = lock.is_doubled

    def _may_manage(self, lock: NodeLock) -> bool:
        return not self._is_draining or not lock.is_anyone_serving()

    async def _locked(self) -> NodeLock:
        if self._lock is None:

            def lock() -> NodeLock:
                return NodeLock(self.files.make_folder(), self._directory.settings)

            self._lock = await asyncio.to_thread(lock)
            if self._is_draining:
                self._lock.stop_serving()
        return self._lock

    async def _take_as_last(self, lock: NodeLock) -> bool:
        """Return True if this worker manages the pool now, and no other is there."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_S
        while not lock.take_folder():
            if loop.time() > until:
                return False
            await asyncio.sleep(TAKE_S / 10)
        return lock.is_last()

    async def _make_manager(self) -> PoolManager:
        manager = PoolManager(self._managed_node(), is_draining=True)
        await manager.find_running()
        return manager

    def _managed_node(self) -> ManagedNode:
        settings = self._directory.settings
        return ManagedNode(
            node=node_name(settings),
            host=node_host(settings),
            store=self._store,
            pool=self.pool,
            health=self._health,
            provider=self._make_provider(node_name(settings)),
            now=self._now,
        )

    def _make_provider(self, node: str) -> InstanceProvider:
        return ProcessProvider(self.files, node, os.environ, self._now)
