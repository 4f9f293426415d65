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

from gateway.agents.media_socket import connect_agent
from gateway.calls.control import CallNotActive, transfer
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.termination import Termination
from gateway.config import AgentSettings
from gateway.config.call_handling import Recording
from gateway.media.disconnect import CONNECTION_LOST, Disconnect
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from serializers.dialect import Dialect
from serializers.events import Start
from texml.document import HangUp

if TYPE_CHECKING:
    from gateway.calls.services import CallServices

PAUSE_S: Final = 0.25
"""Between two tries: an instance that refused is not asked again at once."""

TRIES_IN_TIME: Final = 2
"""One that answers nothing gets no more than this part of `resume_timeout`, so that another has a chance."""

FALL_BACK_S: Final = 15.0
"""How long the carrier's REST may take to send the caller elsewhere."""


def may_fail_over(agent: AgentSettings) -> bool:
    """Whether anything is done for a caller whose agent is lost."""
    return agent.max_resumes > 0 or agent.fallback != HangUp()


class AgentFailover:
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

    def agent(self, services: CallServices) -> AgentSettings:
        """The agent's settings now: its instances may have been replaced since the call began."""
        return services.agents.find(self._agent.service_host) or self._agent

    async def another(
        self,
        services: CallServices,
        session_id: str,
        carrier: Leg,
        on_disconnect: Callable[[Disconnect], None],
    ) -> tuple[Leg, str]:
        """The leg of the agent that takes over, and its instance. To be coupled before anything else is done.

        `carrier`: the leg that was taken back. `on_gone`: the new agent has closed already, as one does.
        Raises CallEnded(agent_lost) where there is none in time, or there have been too many.
        """
        agent = self.agent(services)
        services.health.record_failure(self._instance)
        if self.times >= agent.max_resumes:
            raise CallEnded(Reasons.agent_lost, f"{self.times + 1} agents were lost" if self.times else "")
        failed = Counter({self._instance: 1})
        why = ""
        try:
            async with asyncio.timeout(agent.resume_timeout):
                await carrier.wait_message_end()
                while True:
                    instance = self._instance
                    try:
                        instance = await services.capacity.move(agent, session_id, self._instance, failed)
                        async with asyncio.timeout(agent.resume_timeout / TRIES_IN_TIME):
                            leg = await self._connect(services, instance, session_id, on_disconnect)
                    except StoreFailed as error:
                        why = str(error)
                    except CallEnded as error:
                        why = error.detail
                    except TimeoutError:
                        services.health.record_failure(instance)
                        why = "no answer"
                    else:
                        self._instance = instance
                        self.times += 1
                        return leg, instance
                    failed[instance] += 1
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            detail = f"the agent was lost, and no other took over within {agent.resume_timeout:g} s"
            raise CallEnded(Reasons.agent_lost, f"{detail}: {why}" if why else detail) from None

    async def _connect(
        self,
        services: CallServices,
        instance: str,
        session_id: str,
        on_disconnect: Callable[[Disconnect], None],
    ) -> Leg:
        """Raises CallEnded where it cannot be reached, or is lost as it comes."""
        health = services.health
        try:
            leg = await connect_agent(
                health,
                services.settings.limits,
                instance,
                session_id,
                self._body,
                resumed=self.times + 1,
                on_disconnect=lambda gone: None if gone is CONNECTION_LOST else on_disconnect(gone),
            )
        except CallEnded as end:
            if end.reason is Reasons.agent_unreachable:
                health.mark_unreachable(instance)
            raise
        if leg.transport.is_closing():
            health.record_failure(instance)
            raise CallEnded(Reasons.agent_lost)
        return leg

    async def fall_back(
        self,
        services: CallServices,
        session_id: str,
        lost: CallEnded,
        *,
        hold: HoldAudio,
        termination: Termination,
    ) -> CallEnded:
        """Does for the caller what the agent's settings say; the end, in words that tell what came of it."""
        fallback = self.agent(services).fallback
        if isinstance(fallback, HangUp):
            return lost
        if isinstance(fallback, Recording):
            what = await _say(fallback, hold, termination)
        else:
            hold.stop()
            what = await _transfer(services, session_id, fallback.number)
        return CallEnded(lost.reason, f"{lost.detail}; {what}")


async def _say(recording: Recording, hold: HoldAudio, termination: Termination) -> str:
    try:
        async with termination.cancel_scope():
            await hold.play(recording)
    except CallEnded as end:
        return f"its caller was being told: {end.detail}"
    return "its caller was told"


async def _transfer(services: CallServices, session_id: str, to: str) -> str:
    try:
        async with asyncio.timeout(FALL_BACK_S):
            record = await services.store.session(session_id)
            if record is None:
                return "its caller was not transferred: the store does not know the session"
            await transfer(services, record, to, caller_id=None, timeout_s=None)
    except TimeoutError:
        return "its caller was not transferred: no answer"
    except CallEnded as refused:
        return f"its caller was not transferred: {refused.detail}"
    except (CallNotActive, StoreFailed) as error:
        return f"its caller was not transferred: {error}"
    return "its caller was transferred"
