# SPDX-License-Identifier: BSD-2-Clause
"""Another agent for a caller whose agent was lost: docs/resume.md.

    move the session to another instance → connect it → (the bridge joins the legs)
    no instance in time → do what the agent's `fallback` says

The relay has released the carrier's leg before, and what the caller says meanwhile is buffered on that leg.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway.agents.media_socket import connect_agent
from gateway.calls.call_setup import BridgeSettings
from gateway.calls.control import CallNotActive, TransferRequest, transfer
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.services import CallServices
from gateway.calls.state import CallProgress
from gateway.config import AgentSettings
from gateway.config.call_handling import Recording
from gateway.media.disconnect import CONNECTION_LOST, Disconnect
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from texml.document import HangUp

PAUSE_S: Final = 0.25
"""Between two attempts, so that an instance that refused is not tried again at once."""

ATTEMPTS_IN_TIME: Final = 2
"""An instance that does not answer gets this part of `resume_timeout`, so that another one has a chance."""

FALL_BACK_S: Final = 15.0
"""How long the carrier's REST API may take to transfer the caller."""


def may_fail_over(agent: AgentSettings) -> bool:
    """Return True if the agent's settings want anything done for a caller whose agent is lost."""
    return agent.max_resumes > 0 or agent.fallback != HangUp()


class AgentFailover:
    """The data of a bridged call by which another agent can be connected.

    `opening`: the opening frames that the agent was sent; the next agent gets them too. `instance`: the URL
    of the present agent. `times`: how often the agent was replaced. `leg`: of the next agent, once it is
    connected and until it is bridged.
    """

    __slots__ = ("_settings", "instance", "leg", "opening", "times")

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self.instance = settings.instance
        self.leg: Leg | None = None
        self.opening = b""
        self.times = 0

    def current_agent(self, services: CallServices) -> AgentSettings:
        """Return the agent's settings as they are now: its instances may have changed meanwhile."""
        return services.agents.find(self._settings.agent.service_host) or self._settings.agent

    async def connect_next(
        self,
        services: CallServices,
        session_id: str,
        carrier: Leg,
        on_disconnect: Callable[[Disconnect], None],
    ) -> None:
        """Connect another agent. Its leg must be bridged before anything else is awaited.

        `carrier`: the leg that waits. `on_disconnect`: called if the new agent closes before it is bridged.

        Raises CallEnded(agent_lost) if no agent was connected in time, or too many were lost.
        """
        agent = self.current_agent(services)
        services.health.record_failure(self.instance)
        if self.times >= agent.max_resumes:
            raise CallEnded(Reasons.agent_lost, f"{self.times + 1} agents were lost" if self.times else "")
        failures = Counter({self.instance: 1})
        detail = ""
        try:
            async with asyncio.timeout(agent.resume_timeout):
                await carrier.wait_message_end()
                while True:
                    instance = self.instance
                    try:
                        instance = await services.capacity.move(agent, session_id, self.instance, failures)
                        async with asyncio.timeout(agent.resume_timeout / ATTEMPTS_IN_TIME):
                            self.leg = await self._connect(services, instance, session_id, on_disconnect)
                    except StoreFailed as error:
                        detail = str(error)
                    except CallEnded as error:
                        detail = error.detail
                    except TimeoutError:
                        services.health.record_failure(instance)
                        detail = "no answer"
                    else:
                        self.instance = instance
                        self.times += 1
                        return
                    failures[instance] += 1
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            summary = f"the agent was lost, and no other took over within {agent.resume_timeout:g} s"
            raise CallEnded(Reasons.agent_lost, f"{summary}: {detail}" if detail else summary) from None

    def take_leg(self) -> Leg:
        """Return the next agent's leg, which belongs to the caller of this from now on."""
        assert self.leg is not None, "no agent is connected"
        leg, self.leg = self.leg, None
        return leg

    async def _connect(
        self,
        services: CallServices,
        instance: str,
        session_id: str,
        on_disconnect: Callable[[Disconnect], None],
    ) -> Leg:
        """Raise CallEnded if the instance cannot be reached, or is lost as soon as it is connected."""
        health = services.health
        try:
            leg = await connect_agent(
                health,
                services.settings.limits,
                instance,
                session_id,
                self._settings.query,
                resumed=self.times + 1,
                # A lost connection is seen below and is no end: another instance is tried.
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
    services: CallServices,
    progress: CallProgress,
    agent: AgentSettings,
    failure: CallEnded,
    hold_audio: HoldAudio,
) -> CallEnded:
    """Do for the caller what the agent's `fallback` says: hang up, play a recording, or transfer.

    Return the end of the call. Its reason is that of `failure`; its detail also says what was done.
    """
    fallback = agent.fallback
    if isinstance(fallback, HangUp):
        return failure
    if isinstance(fallback, Recording):
        action = await _play(fallback, progress, hold_audio)
    else:
        hold_audio.stop()
        action = await _transfer(services, progress.session_id, fallback.number)
    return CallEnded(failure.reason, f"{failure.detail}; {action}")


async def _play(recording: Recording, progress: CallProgress, hold_audio: HoldAudio) -> str:
    try:
        async with progress.termination.cancel_scope():
            await hold_audio.play(recording)
    except CallEnded as end:
        return f"its caller was being told: {end.detail}"
    return "its caller was told"


async def _transfer(services: CallServices, session_id: str, to: str) -> str:
    try:
        async with asyncio.timeout(FALL_BACK_S):
            record = await services.store.session(session_id)
            if record is None:
                return "its caller was not transferred: the store does not know the session"
            await transfer(services, record, TransferRequest(to, is_configured=True))
    except TimeoutError:
        return "its caller was not transferred: no answer"
    except CallEnded as refused:
        return f"its caller was not transferred: {refused.detail}"
    except (CallNotActive, StoreFailed) as error:
        return f"its caller was not transferred: {error}"
    return "its caller was transferred"
