# SPDX-License-Identifier: BSD-2-Clause
"""Events of WhatsApp calls that come in another order than they happened.

Meta sends each event on a connection of its own and repeats what was not answered with 200, so `terminate`
may overtake `connect` (chatwoot/chatwoot#14836).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.model.lifecycle import SessionState
from gateway.simulator.waiting import eventually
from tests.api.webhooks.whatsapp.test_whatsapp_process import settings as process_settings
from tests.api.webhooks.whatsapp.test_whatsapp_process import states, tell
from tests.harness import whatsapp_events as meta
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.gateway import Gateway
from tests.harness.start_api import Worker
from tests.harness.whatsapp_events import agrees, answers, call, event, send_event

IGNORED = (200, {"status": "ignored"})


async def test_a_call_whose_end_comes_first_starts_nothing(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    for what in ("terminate", "connect", "connect", "terminate"):
        answer = await send_event(url, event(call(what)))
        assert (answer.status, answer.json) == IGNORED
    assert all(agent.calls.empty() for agent in agents)
    assert await worker.records() == []
    assert (await send_event(url, event(call("connect", "wacid.2")))).status == 200, "another call"


async def test_a_call_that_ends_between_two_tries_of_its_start(
    worker: Worker, url: str, agents: list[Agent]
) -> None:
    agents[0].answer = answers(500)
    assert (await send_event(url, event(call("connect")))).status == 502
    agents[0].answer = agrees
    assert (await send_event(url, event(call("terminate")))).status == 200
    answer = await send_event(url, event(call("connect")))
    assert (answer.status, answer.json) == IGNORED
    assert all(agent.calls.empty() for agent in agents)
    await worker.assert_nothing_left()


async def test_a_call_that_ends_while_its_start_fails(worker: Worker, url: str, agents: list[Agent]) -> None:
    may_answer = asyncio.Event()

    async def fails_late(agent: Agent, received: AgentCall) -> None:
        await may_answer.wait()
        await answers(500)(agent, received)

    agents[0].answer = fails_late
    connecting = asyncio.create_task(send_event(url, event(call("connect"))))
    await eventually(lambda: agents[0].upgrades, "the agent hears of it")
    ending = asyncio.create_task(send_event(url, event(call("terminate"))))
    may_answer.set()
    assert (await connecting).status == 502
    assert (await ending).status == 200
    agents[0].answer = agrees
    answer = await send_event(url, event(call("connect")))
    assert (answer.status, answer.json) == IGNORED
    await worker.assert_nothing_left()


async def test_the_end_and_the_start_arrive_together(worker: Worker, url: str, agents: list[Agent]) -> None:
    """Whichever is read first, nothing goes on."""
    for number in range(8):
        what = [event(call(each, f"wacid.{number}")) for each in ("terminate", "connect")]
        replies = await asyncio.gather(*(send_event(url, each) for each in what))
        assert [each.status for each in replies] == [200, 200]

    async def all_over() -> bool:
        return all(record.state is SessionState.ENDED for record in await worker.records())

    async with asyncio.timeout(60):
        while not await all_over():
            await asyncio.sleep(0.01)
    await worker.assert_nothing_left()


async def test_the_end_comes_first_at_another_worker(
    start_gateway: Callable[..., Gateway], agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    port = agent_port()
    agent = await agent_at(port, meta.agrees)
    gateway = start_gateway(**process_settings(port, workers=2))
    calls = [f"wacid.{number}" for number in range(8)]
    assert {await tell(gateway, "terminate", each) for each in calls} == {200}
    assert {await tell(gateway, "connect", each) for each in calls} == {200}
    assert agent.calls.empty()
    assert states(gateway) == {}
    assert await tell(gateway, "connect", "wacid.next") == 200, "the place is free"
    assert await tell(gateway, "terminate", "wacid.next") == 200
