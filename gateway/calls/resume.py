# SPDX-License-Identifier: BSD-2-Clause
"""Another agent for a caller whose agent is lost: docs/resume.md.

    move the session to another instance → connect it → (the call couples it) → or, in time, fall back

The relay has given the carrier's side back by then; what the caller says meanwhile is kept on it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.agents.readiness import Readiness
from gateway.calls.agent_leg import connect_agent
from gateway.calls.control import NotCarried, transfer
from gateway.calls.fate import Fate
from gateway.calls.hold import Hold
from gateway.config import AgentSettings
from gateway.config.values import RECORDING
from gateway.errors import CallEnd, Endings
from gateway.media.ends import LOST, Gone
from gateway.media.leg import Leg
from gateway.sessions.session import Places
from gateway.sessions.store import AtCapacity, NotPromised, StoreFailed
from serializers.dialect import Dialect
from serializers.events import Start

if TYPE_CHECKING:
    from gateway.calls.switchboard import Switchboard

PAUSE_S: Final = 0.25
"""Between two tries: an instance that refused is not asked again at once."""

TRIES_IN_TIME: Final = 2
"""One that answers nothing gets no more than this part of `resume_timeout`, so that another has a chance."""

FALL_BACK_S: Final = 15.0
"""How long the carrier's REST may take to send the caller elsewhere."""

_LAST: Final = len(Readiness)
"""A rank behind every readiness: who has just failed this caller is asked last."""


def may_resume(agent: AgentSettings) -> bool:
    """Whether anything is done for a caller whose agent is lost."""
    return agent.max_resumes > 0 or agent.fallback != "hangup"


class Resumption:
    """What a running call keeps for the case that its agent is lost; `times`: how often that was so."""

    __slots__ = ("_agent", "_body", "_instance", "dialect", "opening", "start", "times")

    def __init__(
        self, agent: AgentSettings, dialect: Dialect, start: Start, *, instance: str, body: str | None
    ) -> None:
        self._agent = agent
        self._instance = instance
        self._body = body
        self.dialect = dialect
        self.start = start
        self.opening = b""  # as the first agent was sent it
        self.times = 0

    def agent(self, board: Switchboard) -> AgentSettings:
        """The agent's settings now: its instances may have been replaced since the call began."""
        known = (one for one in board.directory.agents if one.service_host == self._agent.service_host)
        return next(known, self._agent)

    async def another(
        self, board: Switchboard, session_id: str, carrier: Leg, on_gone: Callable[[Gone], None]
    ) -> tuple[Leg, str]:
        """The leg of the agent that takes over, and its instance. To be coupled before anything else is done.

        `carrier`: the leg that was taken back. `on_gone`: the new agent has closed already, as one does.
        Raises CallEnd(agent_lost) where there is none in time, or there have been too many.
        """
        agent = self.agent(board)
        board.probes.lost(self._instance)
        if self.times >= agent.max_resumes:
            raise CallEnd(Endings.agent_lost, f"{self.times + 1} agents were lost" if self.times else "")
        failed = Counter({self._instance: 1})
        why = ""
        try:
            async with asyncio.timeout(agent.resume_timeout):
                await carrier.whole()
                while True:
                    instance = self._instance
                    try:
                        instance = await self._move(board, session_id, self._places(board, agent, failed))
                        async with asyncio.timeout(agent.resume_timeout / TRIES_IN_TIME):
                            leg = await self._connect(board, instance, session_id, on_gone)
                    except AtCapacity as full:
                        why = f"{full.taken} of {full.limit} places are taken"
                    except StoreFailed as error:
                        why = str(error)
                    except CallEnd as error:
                        why = error.words
                    except TimeoutError:
                        board.probes.lost(instance)
                        why = "no answer"
                    else:
                        self._instance = instance
                        self.times += 1
                        return leg, instance
                    failed[instance] += 1
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            words = f"the agent was lost, and no other took over within {agent.resume_timeout:g} s"
            raise CallEnd(Endings.agent_lost, f"{words}: {why}" if why else words) from None

    async def _move(self, board: Switchboard, session_id: str, places: Places) -> str:
        """The instance where the session has its place now; while the store fails, it stays where it was."""
        try:
            return await board.store.move(session_id, places)
        except NotPromised:
            raise
        except StoreFailed:
            return self._instance

    def _places(self, board: Switchboard, agent: AgentSettings, failed: Counter[str]) -> Places:
        """Every instance that callers are sent to, and, behind them, the one where it has its place."""
        ranks: dict[str, int] = dict(board.probes.ranks(agent.instances))
        if self._instance in agent.instances:
            ranks.setdefault(self._instance, Readiness.UNREACHABLE)
        return Places(
            instances=tuple((instance, rank + _LAST * failed[instance]) for instance, rank in ranks.items()),
            per_instance=agent.sessions_per_instance,
            max_instances=agent.max_agents,
        )

    async def _connect(
        self, board: Switchboard, instance: str, session_id: str, on_gone: Callable[[Gone], None]
    ) -> Leg:
        """Raises CallEnd where it cannot be reached, or is lost as it comes."""
        probes = board.probes
        probes.taken(instance)
        try:
            leg = await connect_agent(
                board,
                instance,
                session_id,
                self._body,
                resumed=self.times + 1,
                on_gone=lambda gone: None if gone is LOST else on_gone(gone),
            )
        except CallEnd as end:
            if end.ending is Endings.agent_unreachable:
                probes.unreachable(instance)
            raise
        if leg.transport.is_closing():
            probes.lost(instance)
            raise CallEnd(Endings.agent_lost)
        return leg

    async def fall_back(
        self, board: Switchboard, session_id: str, lost: CallEnd, *, hold: Hold, fate: Fate
    ) -> CallEnd:
        """Does for the caller what the agent's settings say; the end, in words that tell what came of it."""
        to = self.agent(board).fallback
        if to == "hangup":
            return lost
        if to.endswith(RECORDING):
            what = await _say(to, hold, fate)
        else:
            hold.stop()
            what = await _transfer(board, session_id, to)
        return CallEnd(lost.ending, f"{lost.words}; {what}")


async def _say(recording: str, hold: Hold, fate: Fate) -> str:
    try:
        async with fate.interrupting():
            await hold.say(recording)
    except CallEnd as end:
        return f"its caller was being told: {end.words}"
    return "its caller was told"


async def _transfer(board: Switchboard, session_id: str, to: str) -> str:
    try:
        async with asyncio.timeout(FALL_BACK_S):
            record = await board.store.session(session_id)
            if record is None:
                return "its caller was not transferred: the store does not know the session"
            await transfer(board, record, to, caller_id=None, timeout_s=None)
    except TimeoutError:
        return "its caller was not transferred: no answer"
    except CallEnd as refused:
        return f"its caller was not transferred: {refused.words}"
    except (NotCarried, StoreFailed) as error:
        return f"its caller was not transferred: {error}"
    return "its caller was transferred"
