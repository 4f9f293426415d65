# SPDX-License-Identifier: BSD-2-Clause
"""The connection of a call to its first agent; how another takes over later is in agent_failover.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from gateway.agents.media_socket import connect_agent
from gateway.calls.agent_failover import fall_back
from gateway.calls.agent_translation import agent_endpoint
from gateway.calls.call_setup import BridgeSettings, CallSetup
from gateway.calls.services import CallServices
from gateway.calls.state import CallProgress
from gateway.config import AgentSettings
from gateway.media.leg import Leg
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoreFailed

_NO_AGENT: Final = (Reasons.agent_start_timeout, Reasons.agent_unreachable)

STARTED_ATTEMPTS: Final = 3
"""Instances that a call tries, of those that the gateway starts: any of them may end when it likes."""


async def wait_for_first_agent(
    services: CallServices, progress: CallProgress, setup: CallSetup, agent: AgentSettings, instance: str
) -> str:
    """Wait until the call's instance runs, if the gateway has to start it, with the hold sound.

    Until then `agent_connect_timeout` does not count. Return the instance, or another that the call was moved
    to. Raises CallEnded, after what the agent's `fallback` says was done for the caller.
    """
    try:
        return await services.capacity.wait_started(agent, progress.session_id, instance)
    except CallEnded as failure:
        raise await _after_fallback(services, progress, setup, agent, failure) from None


async def connect_first_agent(
    services: CallServices,
    progress: CallProgress,
    setup: CallSetup,
    settings: BridgeSettings,
    carrier: str,
) -> BridgeSettings:
    """Connect the agent's media socket (docs/reference/agent-container.md), once its instance is ready.

    A failure counts against the instance. Return the settings, with another instance if this one, which the
    gateway started, has ended a moment ago. Raises CallEnded.
    """
    await _note_account(services, progress, setup, settings, carrier)
    capacity, agent = services.capacity, settings.agent
    attempts = STARTED_ATTEMPTS if capacity.cold_starts.concern(agent) else 1
    while True:
        attempts -= 1
        try:
            setup.agent_leg = await _connect(services, progress, settings, carrier)
            return settings
        except CallEnded as end:
            if end.reason is not Reasons.agent_unreachable or not attempts:
                raise await _after_fallback(services, progress, setup, agent, end) from None
        try:
            instance = await capacity.wait_started(
                agent, progress.session_id, settings.instance, has_failed=True
            )
        except CallEnded as end:
            raise await _after_fallback(services, progress, setup, agent, end) from None
        setup.instance = instance
        progress.log = progress.log.bind(instance=instance)
        settings = replace(settings, instance=instance)


async def _after_fallback(
    services: CallServices,
    progress: CallProgress,
    setup: CallSetup,
    agent: AgentSettings,
    failure: CallEnded,
) -> CallEnded:
    """Do what `fallback` says, if no instance of an agent could be started. Return the end of the call."""
    is_started = services.capacity.cold_starts.concern(agent)
    if not is_started or setup.hold_audio is None or failure.reason not in _NO_AGENT:
        return failure
    return await fall_back(services, progress, agent, failure, setup.hold_audio)


async def _connect(
    services: CallServices, progress: CallProgress, settings: BridgeSettings, carrier: str
) -> Leg:
    health, limits, instance = services.health, services.settings.limits, settings.instance
    timeout_s, session_id = limits.agent_connect_timeout, progress.session_id
    endpoint = agent_endpoint(settings.agent, settings, session_id, carrier)
    try:
        async with asyncio.timeout(timeout_s):
            return await connect_agent(
                health,
                limits,
                instance,
                session_id,
                endpoint.target,
                on_disconnect=progress.agent_gone,
                translator=endpoint.translator,
            )
    except TimeoutError:
        health.record_failure(instance)
        raise CallEnded(Reasons.agent_start_timeout, f"no answer within {timeout_s:g} s") from None
    except CallEnded as end:
        if end.reason is Reasons.agent_unreachable:
            health.mark_unreachable(instance)
        raise


async def _note_account(
    services: CallServices,
    progress: CallProgress,
    setup: CallSetup,
    settings: BridgeSettings,
    carrier: str,
) -> None:
    """Store the carrier account, which has no column, and call id, if call control cannot know them."""
    start = settings.start
    if start is None:
        return
    accounts = services.accounts.of(settings.agent.organization, carrier)
    if len(accounts) > 1 or setup.is_dialed:
        try:
            await services.call_log.record_details(
                progress.session_id,
                carrier=carrier,
                account=start.account_id,
                call_id=start.call_id,
            )
        except StoreFailed as error:
            raise CallEnded(Reasons.store_failed, str(error)) from None
