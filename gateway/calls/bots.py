# SPDX-License-Identifier: BSD-2-Clause
"""The sessions of this worker that run as `POST /bot` held open: every start but a media socket's.

Whoever starts one is answered once an instance has taken the request; from then on it is its own (bot.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from gateway.agents.readiness import Probes, Readiness
from gateway.calls.bot import Bot, BotRequest, Means, bots_http
from gateway.config import AgentSettings
from gateway.errors import CallEnd, Endings
from gateway.sessions.session import CallFacts, Places, SessionExtras
from gateway.sessions.store import AtCapacity, Store, StoreFailed

__all__ = ["Bots", "NotReady", "StartedBot", "bots_http"]


START_WRITE_S: Final = 1.0
"""How long a start waits for its session to be written down as running; the store goes on trying."""


class NotReady(CallEnd):
    """There are places, and every instance that has one says that it takes no session now."""

    def __init__(self) -> None:
        super().__init__(Endings.agent_start_timeout, "none of the agent's instances is ready")


@dataclass(frozen=True, slots=True)
class StartedBot:
    """A session whose request is on its way. `instance`: the URL of the instance that runs it."""

    session_id: str
    instance: str


class Bots:
    """The sessions of this worker that run as `POST /bot`."""

    def __init__(
        self,
        store: Store,
        probes: Probes,
        http: aiohttp.ClientSession,
        now: Callable[[], float],
        *,
        connect_timeout_s: float,
    ) -> None:
        """`http`: of `bots_http`; ValueError for one that shares or counts connections. `now`: Unix seconds.

        `connect_timeout_s`: from admission until the instance has taken the request.
        """
        connector = http.connector
        if connector is None or connector.limit or not connector.force_close:
            raise ValueError("sessions need a client of their own: gateway.calls.bots.bots_http()")
        self._store = store
        self._probes = probes
        self._now = now
        self._means = Means(store, probes, http, now, connect_timeout_s)
        self._bots: dict[str, Bot] = {}
        self._closing: CallEnd | None = None

    @property
    def running(self) -> int:
        """How many sessions there are, those that are being started or ended included."""
        return len(self._bots)

    async def expect_place(self, agent: AgentSettings) -> None:
        """Raises what `start` would raise now for want of a place, and takes none: for whoever has to make
        something first. CallEnd(at_capacity), NotReady, CallEnd(store_failed)."""
        try:
            _, taken = await self._store.sessions(agent=agent.service_host, active=True, limit=0)
        except StoreFailed as error:
            raise CallEnd(Endings.store_failed, str(error)) from None
        places = min(len(set(agent.instances)), agent.max_agents) * agent.sessions_per_instance
        if taken >= places:
            raise _at_capacity(taken, places)
        if self._none_ready(agent):
            raise NotReady

    async def start(  # noqa: PLR0917 - what a session is made of, in the order of its making
        self,
        agent: AgentSettings,
        facts: CallFacts,
        extras: SessionExtras,
        headers: Mapping[str, str],
        body: bytes,
        max_duration_s: float,
    ) -> StartedBot:
        """Starts the session `facts.session_id`, and returns once an instance has taken the request.

        `headers`: the `x-daily-…` ones beside the session's id, which is told in any case. `body`: JSON.
        `max_duration_s`: from then on; that is when the session is ended.

        Raises CallEnd: at_capacity, agent_unreachable, agent_start_timeout (NotReady among them),
        agent_failed, agent_lost, store_failed, overloaded, draining, or as the session was stopped
        meanwhile. Its place is free then. If this is cancelled, the session is stopped.
        """
        if self._closing is not None:
            raise CallEnd(self._closing.ending, self._closing.detail)
        if self._none_ready(agent):
            await self.expect_place(agent)  # which says what is wanting
        instance = await self._admit(agent, facts, extras)
        bot = Bot(self._means, facts, instance, BotRequest(headers, body), max_duration_s)
        self._bots[facts.session_id] = bot
        if self._closing is not None:
            bot.fate.decide(self._closing)
        bot.task.add_done_callback(lambda _: self._bots.pop(facts.session_id, None))
        try:
            await asyncio.shield(bot.taken)
            if bot.written is not None:  # so that whoever is answered finds it running, at any worker
                await asyncio.wait([bot.written], timeout=START_WRITE_S)
        except asyncio.CancelledError:
            bot.fate.decide(CallEnd(Endings.stopped, "whoever started it gave up"))
            raise
        return StartedBot(facts.session_id, instance)

    def stop(self, session_id: str, end: CallEnd) -> bool:
        """Ends a session at once, by breaking off its request; False where this worker has none of it."""
        bot = self._bots.get(session_id)
        if bot is not None:
            bot.fate.decide(end)
        return bot is not None

    async def end_all(self, end: CallEnd) -> None:
        """Ends every session, starts no more, and returns when the ends are told to the store."""
        self._closing = end
        while self._bots:
            for bot in self._bots.values():
                bot.fate.decide(end)
            await asyncio.wait([bot.task for bot in self._bots.values()])
            await asyncio.sleep(0)  # the tasks' callbacks forget them

    def _none_ready(self, agent: AgentSettings) -> bool:
        """Whether an instance said that it takes none now, and no other may."""
        seen = {self._probes.readiness(instance) for instance in agent.instances}
        return Readiness.STARTING in seen and seen <= {Readiness.STARTING, Readiness.UNREACHABLE}

    async def _admit(self, agent: AgentSettings, facts: CallFacts, extras: SessionExtras) -> str:
        places = Places(
            instances=self._probes.ranks(agent.instances),
            per_instance=agent.sessions_per_instance,
            max_instances=agent.max_agents,
            reserved=agent.reserve_outbound,
        )
        try:
            return await self._store.admit(facts, places, self._now(), extras)
        except AtCapacity as full:
            raise _at_capacity(full.taken, full.limit) from None
        except StoreFailed as error:
            raise CallEnd(Endings.store_failed, str(error)) from None


def _at_capacity(taken: int, places: int) -> CallEnd:
    return CallEnd(Endings.at_capacity, f"{taken} of {places} places are taken")
