# SPDX-License-Identifier: BSD-2-Clause
"""Starts wait for a cold agent, as calls do, and as long as those (`agent_connect_timeout`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.agents.instance_health import Health
from gateway.calls.bot_session import NotReady
from gateway.model.reasons import CallEnded, Reasons
from gateway.simulator.waiting import eventually
from tests.harness.agent import AgentPort
from tests.harness.bot_requests import bot_of, holds
from tests.harness.start_api import Worker, gives_up_after, start_bot

SHORT_S = 0.6


async def test_a_start_waits_for_an_agent_that_says_it_is_starting(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    agent = await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Health.STARTING)
    starting = asyncio.create_task(start_bot(worker))
    asked = agent.health
    await eventually(lambda: agent.health > asked + 1, "the start asks for it")
    assert agent.upgrades == 0
    agent.ready = 200
    started = await starting
    assert (await bot_of(agent)).session == started.session_id


async def test_a_start_waits_for_an_agent_that_does_not_listen_yet(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    starting = asyncio.create_task(start_bot(worker))
    await eventually(
        lambda: worker.services.calls.health.of(port.url) is Health.UNREACHABLE, "its connection is refused"
    )
    agent = await agent_at(port, holds)
    started = await starting
    assert (await bot_of(agent)).session == started.session_id


@pytest.mark.parametrize("transport", [None, "webrtc"])
async def test_the_api_waits_too(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, transport: str | None
) -> None:
    agent = await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Health.STARTING)
    starting = asyncio.create_task(worker.start("support", {"transport": transport} if transport else {}))
    asked = agent.health
    await eventually(lambda: agent.health > asked, "the start asks for it")
    agent.ready = 200
    reply = await starting
    assert reply.status == 200, reply.body
    assert (await bot_of(agent)).session == reply.body["sessionId"]


async def test_the_wait_is_over_when_the_agent_is_not_ready_in_time(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    gives_up_after(worker, SHORT_S)
    agent = await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Health.STARTING)
    with pytest.raises(NotReady):
        await start_bot(worker)
    assert agent.upgrades == 0
    await worker.assert_nothing_left()
    reply = await worker.start()
    assert (reply.status, reply.body["code"]) == (400, "PCC-1001")


async def test_the_wait_is_over_when_nothing_listens_in_time(worker: Worker) -> None:
    gives_up_after(worker, SHORT_S)
    with pytest.raises(CallEnded) as caught:
        await start_bot(worker)
    assert caught.value.reason is Reasons.agent_unreachable
    await worker.assert_nothing_left()


async def test_a_start_that_waits_may_be_stopped(worker: Worker, port: AgentPort) -> None:
    session_id = "0b4c7a3e-6d7d-4a8c-9a6a-3c4e8c1c5b7f"
    starting = asyncio.create_task(start_bot(worker, session_id=session_id))
    await eventually(lambda: worker.bots.running == 1, "it waits")
    assert worker.bots.stop(session_id, CallEnded(Reasons.stopped))
    with pytest.raises(CallEnded) as caught:
        await starting
    assert caught.value.reason is Reasons.stopped
    await worker.assert_nothing_left()
