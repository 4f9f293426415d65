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
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

from gateway.agents.media_socket import connect_agent
from gateway.calls.agent_translation import agent_endpoint
from gateway.calls.call_setup import BridgeSettings
from gateway.calls.control import CallNotActive, TransferRequest, transfer
from gateway.calls.hold_audio import HoldAudio
from gateway.calls.services import CallServices
from gateway.calls.state import CallProgress
from gateway.config import AgentSettings
from gateway.config.call_handling import Recording
from gateway.media.disconnect import (
    CONNECTION_ENDED,
    CONNECTION_LOST,
    AgentDisconnected,
    Disconnect,
    agent_died,
    agent_left,
)
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed
from serializers.events import Start
from texml.document import HangUp

PAUSE_S: Final = 0.25
"""Between two attempts, so that an instance that refused is not tried again at once."""

ATTEMPTS_IN_TIME: Final = 2
"""An instance that does not answer gets this part of `resume_timeout`, so that another one has a chance."""

FIRST_SPACING_S: Final = 0.5
LONGEST_SPACING_S: Final = 5.0
"""The least time from the start of one agent to that of the next, and its limit: it doubles with each agent.

So an agent that fails as soon as it begins does not greet its caller again and again. One that was lost later
is replaced at once. At most half of `resume_timeout`, so that time is left to connect.
"""

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

    __slots__ = ("_began_at", "_lasted_s", "_lost_at", "_settings", "instance", "leg", "opening", "times")

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._began_at = asyncio.get_running_loop().time()  # when the present agent was connected
        self._lasted_s: list[float] = []  # how long each lost agent had the call
        self._lost_at: list[str] = []  # the instance of each
        self.instance = settings.instance
        self.leg: Leg | None = None
        self.opening = b""
        self.times = 0

    def begin_stream(self, opening: bytes, start: Start) -> None:
        """Note the opening of the carrier's next stream: another agent gets it, and is heard on that one."""
        self.opening = opening
        if self._settings.start is not None:
            known = replace(self._settings.start, stream_id=start.stream_id)
            self._settings = replace(self._settings, start=known)

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

        Raises CallEnded: agent_lost if no agent was connected in time, or too many were lost; agent_ended if
        the new one left at once, and its instance answers.
        """
        agent = self.current_agent(services)
        self._note_loss(services, agent)
        failures = Counter({self.instance: 1})
        detail = ""
        try:
            async with asyncio.timeout(agent.resume_timeout), AsyncExitStack() as meanwhile:
                if services.capacity.cold_starts.concern(agent):  # where none is free, another is started
                    await meanwhile.enter_async_context(services.capacity.cold_starts.demand(agent))
                await carrier.wait_message_end()
                while True:
                    await self._wait_for_turn(agent)
                    instance = self.instance
                    try:
                        agent = self.current_agent(services)
                        instance = await services.capacity.move(agent, session_id, self.instance, failures)
                        await services.capacity.cold_starts.wait_if_starting(instance)
                        async with asyncio.timeout(agent.resume_timeout / ATTEMPTS_IN_TIME):
                            self.leg = await self._connect(services, instance, session_id, on_disconnect)
                    except StoreFailed as error:
                        detail = str(error)
                    except CallEnded as error:
                        if error.reason is Reasons.agent_ended:
                            raise
                        detail = error.detail
                    except TimeoutError:
                        services.health.record_failure(instance)
                        detail = "no answer"
                    else:
                        self._began_at = asyncio.get_running_loop().time()
                        self.instance = instance
                        self.times += 1
                        if self.leg is not None:
                            return
                        self._note_loss(services, agent)
                        detail = "it was lost at once"
                    failures[instance] += 1
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            summary = f"the agent was lost, and no other took over within {agent.resume_timeout:g} s"
            if self.times:
                summary = f"{self._losses()}, and no other took over within {agent.resume_timeout:g} s"
            detail = f"{summary}: {detail}" if detail else summary
            raise CallEnded(Reasons.agent_lost, detail, public_detail=summary) from None

    def _note_loss(self, services: CallServices, agent: AgentSettings) -> None:
        """Take note that the present agent was lost. Raises CallEnded(agent_lost) if it was one too many."""
        services.health.record_failure(self.instance)
        self._lasted_s.append(asyncio.get_running_loop().time() - self._began_at)
        self._lost_at.append(self.instance)
        if self.times >= agent.max_resumes:
            raise CallEnded(Reasons.agent_lost, self._losses() if self.times else "")

    async def _wait_for_turn(self, agent: AgentSettings) -> None:
        """Wait until another agent may begin."""
        spacing_s = min(FIRST_SPACING_S * 2**self.times, LONGEST_SPACING_S, agent.resume_timeout / 2)
        await asyncio.sleep(self._began_at + spacing_s - asyncio.get_running_loop().time())

    def _losses(self) -> str:
        """Return how often, where and how soon agents were lost. No addresses: the caller's side reads it."""
        instances = len(set(self._lost_at))
        where = "one instance" if instances == 1 else f"{instances} instances"
        times = ", ".join(f"{seconds:.1f}" for seconds in self._lasted_s)
        return f"{len(self._lasted_s)} agents were lost on {where}, after {times} s"

    @property
    def loss(self) -> dict[str, Any]:
        """Where and how soon the last agent was lost, as fields of a log line."""
        return {"lost_instance": self._lost_at[-1], "lasted": round(self._lasted_s[-1], 3)}

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
    ) -> Leg | None:
        """Return the leg of an agent that has accepted the call, None if it was lost at once.

        Raises CallEnded: if the instance cannot be reached; agent_ended if the agent left at once.
        """
        health, settings = services.health, self._settings
        assert settings.dialect is not None
        assert settings.start is not None
        endpoint = agent_endpoint(self.current_agent(services), settings, session_id, settings.dialect.name)
        left: list[Disconnect] = []

        def note_or_report(gone: Disconnect) -> None:
            # One that ended or lost the connection is seen below, and need not be the end of the call.
            if gone in (CONNECTION_ENDED, CONNECTION_LOST):
                left.append(gone)
            else:
                on_disconnect(gone)

        try:
            leg = await connect_agent(
                health,
                services.settings.limits,
                instance,
                session_id,
                endpoint.target,
                resumed=self.times + 1,
                on_disconnect=note_or_report,
                translator=endpoint.translator,
            )
        except CallEnded as end:
            if end.reason is Reasons.agent_unreachable:
                health.mark_unreachable(instance)
            raise
        if leg.transport.is_closing():
            await asyncio.sleep(0)  # its protocol learns of it in the next iteration of the loop
        if CONNECTION_ENDED in left and await health.answers(instance):
            raise agent_left()
        return None if left else leg


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
    return CallEnded(failure.reason, f"{failure.detail}; {action}", public_detail=failure.public_detail)


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
            await transfer(services, record, TransferRequest(to, is_configured=True, at_once=True))
    except TimeoutError:
        return "its caller was not transferred: no answer"
    except CallEnded as refused:
        return f"its caller was not transferred: {refused.detail}"
    except (CallNotActive, StoreFailed) as error:
        return f"its caller was not transferred: {error}"
    return "its caller was transferred"


async def end_of_agent(services: CallServices, instance: str, end: CallEnded) -> CallEnded:
    """Return `end`, unless the agent has ended its connection: then whether it left or died."""
    if not isinstance(end, AgentDisconnected):
        return end
    return agent_left() if await services.health.answers(instance) else agent_died()
