# SPDX-License-Identifier: BSD-2-Clause
"""Slots on agent instances: which instance takes a session, and the queue of those that must wait.

Every session gets its slot here, whatever it is: a carrier's call, an outbound call, `POST /bot`, WhatsApp,
or a running call that moves to another instance. So there is one place that ranks instances by their health
and circuit, that keeps reserved slots free, and that starts the trial of an instance whose circuit is half
open.
The store takes the slot, in one atomic step over all workers. It is free again when the session is over, or,
if the instance may still be busy then, when that is seen to be free (slot_release.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import structlog

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.calls.call_queue import CallQueues
from gateway.calls.cold_start import NOT_STARTED, ColdStarts
from gateway.calls.session_end import SessionEnd, save
from gateway.calls.slot_release import SlotReleases
from gateway.config import AgentSettings
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import (
    MEDIA_SOCKETS,
    TELEPHONY_OPTIONS,
    CallDetails,
    QueueLimit,
    SessionOptions,
    SlotLimits,
)
from gateway.pool.instance_pool import InstancePool
from gateway.store.interface import AtCapacity, NotPending, Queued, SessionFilter, Store, StoreFailed

log = structlog.get_logger(__name__)

SLACK_S: Final = 5.0
"""Seconds beyond `queue_timeout` after which the store drops a queued call: its worker must have failed."""

MANY_INSTANCES: Final = 64
FEW_INSTANCES: Final = 16
"""Of an agent with more than so many instances, a session is first offered so many of them, by chance."""

_AFTER_ALL: Final = len(Health)
"""Added to an instance's rank for each failure of the session that moves: it is tried after all others."""


class Capacity:
    """The slots of all agents, as one worker takes them."""

    def __init__(
        self,
        store: Store,
        agents: AgentDirectory,
        health: InstanceHealth,
        queues: CallQueues,
        now: Callable[[], float],
        *,
        pool: InstancePool | None = None,
    ) -> None:
        """`agents`: as they are while a call waits. `now`: Unix seconds. `pool`: None if there is none."""
        self._store = store
        self._agents = agents
        self._health = health
        self._queues = queues
        self._now = now
        self._trial = asyncio.Lock()
        self.cold_starts = ColdStarts(store, agents, pool)
        """Slots on instances that are started for them."""
        self.releases = SlotReleases(store, health, now)
        """The slots of sessions that are over, and whose instances may still be busy."""

    def start_type(self, agent: AgentSettings) -> str:
        """Return "warm" if an instance that may get the next session is ready, else "cold"."""
        usable = self._health.ranks(agent.instances)
        is_ready = any(self._health.of(instance) is Health.READY for instance, _ in usable)
        return "warm" if is_ready else "cold"

    async def check(self, agent: AgentSettings, sessions: int = 1) -> None:
        """Return if the agent has free slots now. It takes none: a later `acquire` may find one gone.

        `sessions`: how many slots.

        Raises CallEnded: at_capacity, store_failed.
        """
        try:
            _, active = await self._store.sessions(
                SessionFilter(agent=agent.service_host, active=True), limit=0
            )
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
        limit = SlotLimits(
            tuple((instance, 0) for instance in agent.instances),
            agent.sessions_per_instance,
            agent.max_agents,
        ).limit
        if self.cold_starts.concern(agent):  # as many as there may be
            limit = agent.max_agents * agent.sessions_per_instance
        if active + sessions > limit:
            raise _at_capacity(active, limit)

    async def acquire(
        self,
        agent: AgentSettings,
        details: CallDetails,
        options: SessionOptions = TELEPHONY_OPTIONS,
        *,
        is_outbound: bool = False,
        on_queued: Callable[[], None] | None = None,
    ) -> str:
        """Take a slot for the session `details.session_id` and return the URL of its instance.

        The session is then `starting`, and the caller must end it. An `options.start_type` of None is filled
        in, and so are its limits (`with_limits`). `is_outbound`: the slots that stay free are those reserved
        for inbound calls, not the outbound ones. `on_queued`: called when the session must wait in the
        agent's queue; None: it cannot wait. One that waits gets a slot of the agent as it is by then, and
        none if it was removed.

        Raises CallEnded: at_capacity, unauthorized, unknown_agent, store_failed. No slot is taken then, nor
        if this is cancelled.
        """
        may_wait = on_queued is not None and agent.queue_size > 0
        waits_until = self._now() + agent.queue_timeout + SLACK_S
        queue = QueueLimit(agent.queue_size, waits_until) if may_wait else None

        async def ask(agent: AgentSettings, queue: QueueLimit | None = queue) -> str:
            reserved = agent.reserve_inbound if is_outbound else agent.reserve_outbound
            if not reserved and (few := self._few(agent)):
                is_ready = any(self._health.of(each) is Health.READY for each, _ in few)
                start_type = options.start_type or ("warm" if is_ready else "cold")
                limits = SlotLimits(few, agent.sessions_per_instance, agent.max_agents)
                with contextlib.suppress(AtCapacity):  # then one of the others may have room
                    return await admit(agent, limits, start_type)
            limits = self._limits(agent, reserved=reserved, queue=queue)
            return await admit(agent, limits, options.start_type or self.start_type(agent))

        async def admit(agent: AgentSettings, limits: SlotLimits, start_type: str) -> str:
            own = with_limits(options, agent, start_type=start_type)
            instance = await self._store.admit(details, limits, self._now(), own)
            actual = "warm" if self._health.of(instance) is Health.READY else "cold"
            if actual != start_type:  # those that are ready were taken, or came to be meanwhile
                self._store.correct_start_type(details.session_id, actual)
            return instance

        try:
            try:
                if self.cold_starts.concern(agent):
                    with contextlib.suppress(AtCapacity):  # then it waits in the queue, if there is one
                        return await self._take_cold(agent, partial(ask, queue=None))
                return await self._take(agent, ask)
            except Queued as queued:
                if on_queued is None:
                    raise
                on_queued()
                return await self._wait(agent, details.session_id, queued.number, ask)
        except AtCapacity as full:
            if trouble := self.cold_starts.trouble(agent):
                raise CallEnded(Reasons.at_capacity, trouble, public_detail=NOT_STARTED) from None
            raise _at_capacity(full.in_use, full.limit) from None
        except NotPending as error:
            raise _session_over(error) from None
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None

    async def wait_started(
        self, agent: AgentSettings, session_id: str, instance: str, *, has_failed: bool = False
    ) -> str:
        """Wait until the instance on which a session has its slot is ready, if the gateway starts it.

        Return it, or another one that the session was moved to because this one failed. Its own limit bounds
        the wait; for any other instance it returns at once. The session has a slot still if this raises or
        is cancelled, and its caller must end it. `has_failed`: the session did not reach the instance, which
        may have ended by itself a moment ago.

        Raises CallEnded: agent_start_timeout, agent_unreachable, unknown_agent, unauthorized, store_failed.
        """

        async def move(current: AgentSettings, instance: str, failures: Mapping[str, int]) -> str:
            return await self._move(current, session_id, instance, failures)

        try:
            return await self.cold_starts.wait_started(agent, instance, move, has_failed=has_failed)
        except NotPending as error:
            raise _session_over(error) from None
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None

    async def acquire_started(
        self, agent: AgentSettings, details: CallDetails, options: SessionOptions
    ) -> str:
        """Acquire a slot, and wait until its instance is ready.

        Raises CallEnded as both. No slot is taken then, nor if this is cancelled.
        """
        instance = await self.acquire(agent, details, options)
        end = CallEnded(Reasons.stopped, "whoever started it gave up")  # if this is cancelled
        try:
            instance = await self.wait_started(agent, details.session_id, instance)
            is_ready = True
        except CallEnded as failure:
            is_ready, end = False, failure
            raise
        except asyncio.CancelledError:
            is_ready = False
            raise
        finally:
            if not is_ready:
                ended = SessionEnd(details.session_id, end, self._now(), ran=False)
                await asyncio.shield(save(self._store, ended))
        return instance

    async def attach_stream(self, details: CallDetails) -> str:
        """Take over the slot of a session that was dialed, whose stream came here. Return its instance's URL.

        The session was admitted by the worker that dialed it, and this worker must end it from now on.

        Raises CallEnded: unauthorized if it is over or has a stream already, store_failed.
        """
        try:
            instance = await self._store.attach_stream(details, self._now())
        except NotPending as error:
            raise _session_over(error) from None
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
        self._health.trial_started(instance)
        return instance

    async def move(
        self, agent: AgentSettings, session_id: str, instance: str, failures: Mapping[str, int]
    ) -> str:
        """Move a session's slot from `instance` to the best one and return that; it may be the same.

        `failures`: how often each instance has failed this session; those are tried last. If the store
        does not answer the session stays on `instance`. Raises CallEnded(at_capacity); NotPending if the
        session is over.
        """

        try:
            return await self._move(agent, session_id, instance, failures)
        except AtCapacity as full:
            raise _at_capacity(full.in_use, full.limit) from None
        except NotPending:
            raise
        except StoreFailed:
            self._health.trial_started(instance)
            return instance

    async def _move(
        self, agent: AgentSettings, session_id: str, instance: str, failures: Mapping[str, int]
    ) -> str:
        """Do the same as `move`. Raises AtCapacity, NotPending, StoreFailed."""

        async def ask(agent: AgentSettings) -> str:
            ranks: dict[str, int] = dict(self._health.ranks(agent.instances))
            if instance in agent.instances:
                ranks.setdefault(instance, Health.UNREACHABLE)  # its own slot is better than none
            limits = SlotLimits(
                tuple((url, rank + _AFTER_ALL * failures.get(url, 0)) for url, rank in ranks.items()),
                agent.sessions_per_instance,
                agent.max_agents,
            )
            return await self._store.move(session_id, limits)

        return await self._take(agent, ask)

    async def _take_cold(self, agent: AgentSettings, ask: Callable[[AgentSettings], Awaitable[str]]) -> str:
        async def attempt(agent: AgentSettings) -> str:
            return await self._take(agent, ask)

        return await self.cold_starts.take(agent, attempt)

    def _few(self, agent: AgentSettings) -> tuple[tuple[str, int], ...]:
        """Return some instances of an agent with many, any of which may have the next session; else none.

        A call's set-up would otherwise cost more the more instances there are: each is ranked, and the store
        looks at each. An agent with a queue is offered whole, because its order is over all slots.
        """
        if len(agent.instances) <= MANY_INSTANCES or agent.queue_size:
            return ()
        worst = Health.READY if agent.health_interval else Health.UNKNOWN
        some = random.sample(agent.instances, FEW_INSTANCES)
        return tuple(each for each in self._health.ranks(some) if each[1] <= worst)

    def _limits(self, agent: AgentSettings, *, reserved: int, queue: QueueLimit | None) -> SlotLimits:
        return SlotLimits(
            instances=self._health.ranks(agent.instances),
            per_instance=agent.sessions_per_instance,
            max_instances=agent.max_agents,
            reserved=reserved,
            queue=queue,
        )

    async def _take(self, agent: AgentSettings, ask: Callable[[AgentSettings], Awaitable[str]]) -> str:
        """Ask the store for a slot, and start the trial of the chosen instance if its circuit is half open.

        While a circuit is half open, sessions ask one after another: a second one that asked before the first
        has its answer would be offered the same instance, which is to get exactly one session.
        """
        is_half_open = self._health.has_half_open(agent.instances)
        async with self._trial if is_half_open else contextlib.nullcontext():
            instance = await ask(agent)
            self._health.trial_started(instance)
            return instance

    async def _wait(
        self,
        agent: AgentSettings,
        session_id: str,
        number: int,
        ask: Callable[[AgentSettings], Awaitable[str]],
    ) -> str:
        log.info("call waits for a place", session=session_id, agent=agent.service_host)

        async def ask_again() -> str:
            current = self._agents.find(agent.service_host)
            if current is None:
                raise CallEnded(Reasons.unknown_agent, "the agent was removed while the call waited for it")
            return await self._take(current, ask)

        try:
            return await self._queues.wait(agent.service_host, number, ask_again, agent.queue_timeout)
        except TimeoutError:
            detail = f"no place became free within {agent.queue_timeout:g} s"
            raise CallEnded(Reasons.at_capacity, detail) from None
        finally:
            self._store.leave_queue(session_id)


def with_limits(
    options: SessionOptions, agent: AgentSettings, *, start_type: str | None = None
) -> SessionOptions:
    """Return a session's options with this start type, and the limits that hold for it with this agent.

    A session never lasts longer than its agent allows. Only where the gateway hears the caller does silence
    end it.
    """
    longest_s = float(agent.max_session_duration)
    idle_s = options.idle_timeout
    if idle_s is None and options.transport in MEDIA_SOCKETS:
        idle_s = agent.idle_timeout
    return SessionOptions(
        transport=options.transport,
        start_type=start_type,
        metadata=options.metadata,
        idle_timeout=idle_s,
        max_duration=longest_s if options.max_duration is None else min(options.max_duration, longest_s),
    )


def _at_capacity(active: int, limit: int) -> CallEnded:
    if limit == 0:
        return CallEnded(Reasons.at_capacity, "the agent has no instance now")
    return CallEnded(Reasons.at_capacity, f"{active} of {limit} places are taken")


def _session_over(error: NotPending) -> CallEnded:
    return CallEnded(Reasons.unauthorized, f"the session of this token is over: {error}")
