# SPDX-License-Identifier: BSD-2-Clause
"""Slots on instances that the gateway starts (gateway/pool): a session may wait for its instance to exist.

    no slot is free → one more instance is needed, and is listed while it is being started
    → the session takes a slot on it → it waits until the instance is ready → its agent is connected

An instance that fails to start, or is stopped just as a session gets a slot on it, is left for another one,
with the same session.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from gateway.agents.directory import AgentDirectory
from gateway.config import AgentSettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.pool.instance_pool import InstancePool
from gateway.store.interface import AtCapacity, Store
from gateway.store.notifications import Topic

log = structlog.get_logger(__name__)

ASK_S: Final = 0.05
"""The least time between two requests of one session for a slot."""

RECHECK_S: Final = 1.0
"""The longest time between them."""

PAUSE_S: Final = 0.1
"""Seconds until a session tries an instance again that it did not reach."""

END_LOOKS: Final = 10
"""How often it is looked, PAUSE_S apart, whether an instance has ended."""

NOT_STARTED: Final = "no instance of the agent could be started"

Attempt = Callable[[AgentSettings], Awaitable[str]]
"""A request for a slot of the agent as it is by then. Returns the instance; raises AtCapacity and others."""

Move = Callable[[AgentSettings, str, Mapping[str, int]], Awaitable[str]]
"""A request for a slot instead of that on the instance, given how often each has failed the session."""


class ColdStarts:
    """Waiting for started instances, for one worker's sessions."""

    def __init__(self, store: Store, agents: AgentDirectory, pool: InstancePool | None) -> None:
        """`pool`: None if no agent's instances are started here."""
        self._store = store
        self._agents = agents
        self._pool = pool

    def concern(self, agent: AgentSettings) -> bool:
        """Return True if the agent's instances are started."""
        return self._pool is not None and bool(agent.command)

    def is_starting(self, instance: str) -> bool:
        """Return True if the instance is being started now."""
        return self._pool is not None and self._pool.is_starting(instance)

    def trouble(self, agent: AgentSettings) -> str:
        """Return why no instance of the agent can be started now, "" if one can."""
        return self._pool.trouble(agent.service_host) if self._pool is not None else ""

    async def take(self, agent: AgentSettings, attempt: Attempt) -> str:
        """Take a slot; while none is free and more instances may be started, wait for one.

        At most `start_limit`. Raises AtCapacity if none is free then, CallEnded(unknown_agent) if the agent
        was removed meanwhile, and what `attempt` raises.
        """
        assert self._pool is not None
        try:
            return await attempt(agent)
        except AtCapacity as full:
            if not self._pool.has_room(agent, full.in_use):
                raise
            latest = full
        async with self.demand(agent) as wait:
            with suppress(TimeoutError):
                async with asyncio.timeout(agent.start_limit):
                    while True:
                        await wait()
                        agent = self._current(agent)
                        try:
                            return await attempt(agent)
                        except AtCapacity as full:
                            latest = full
                        if not self._pool.has_room(agent, latest.in_use):
                            break
        raise latest

    @asynccontextmanager
    async def demand(self, agent: AgentSettings) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Let one more instance be started meanwhile. Yields a function that waits for what may be a slot."""
        assert self._pool is not None
        with self._store.notifications.subscribe(Topic.SLOT_FREED, urgent=True) as freed:
            async with self._pool.demand(agent, freed.wake):

                async def wait() -> None:
                    await freed.wait(RECHECK_S, min_interval_s=ASK_S)

                yield wait

    async def wait_started(
        self, agent: AgentSettings, instance: str, move: Move, *, has_failed: bool = False
    ) -> str:
        """Wait until the instance of a session's slot is ready. Return it, or another that it was moved to.

        `move`: moves the session. `has_failed`: the session did not reach this one, and gets another.

        Raises CallEnded: agent_start_timeout if no instance was ready within `start_limit`,
        agent_unreachable if none can be started; and what `move` raises.
        """
        if self._pool is None or not agent.command:
            return instance
        failures: Counter[str] = Counter()
        try:
            async with asyncio.timeout(agent.start_limit):
                while has_failed or not await self._is_ready(instance):
                    has_failed = False
                    failures[instance] += 1
                    left = instance

                    async def attempt(current: AgentSettings) -> str:
                        return await move(current, left, failures)  # noqa: B023 - called in this iteration

                    try:
                        instance = await self.take(self._current(agent), attempt)
                    except AtCapacity:
                        words = self.trouble(agent) or "its instance was stopped, and no other is free"
                        raise CallEnded(Reasons.agent_unreachable, words, public_detail=NOT_STARTED) from None
                    if instance == left:  # the only one that is listed; its end is noticed in a moment
                        await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            words = f"its instance was not ready within {agent.start_limit:g} s"
            raise CallEnded(Reasons.agent_start_timeout, words) from None
        return instance

    async def has_ended(self, instance: str) -> bool:
        """Return True if an instance that did not answer has ended, which is noticed in a moment."""
        assert self._pool is not None
        for _ in range(END_LOOKS):
            if not await self._pool.may_be_used(instance):
                return True
            await asyncio.sleep(PAUSE_S)
        return False

    async def _is_ready(self, instance: str) -> bool:
        assert self._pool is not None
        return await self._pool.may_be_used(instance) and await self._pool.wait_started(instance)

    async def wait_if_starting(self, instance: str) -> None:
        """Wait while the instance is being started. Bound the wait with `asyncio.timeout`."""
        if self._pool is not None:
            await self._pool.wait_started(instance)

    def _current(self, agent: AgentSettings) -> AgentSettings:
        current = self._agents.find(agent.service_host)
        if current is None:
            raise CallEnded(Reasons.unknown_agent, "the agent was removed while the call waited for it")
        return current
