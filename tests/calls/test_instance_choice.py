# SPDX-License-Identifier: BSD-2-Clause
"""Every kind of session gets its slot from the same place: none is given an instance whose circuit is open,
and a half-open one gets one session, whatever its kind.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.agents.circuit_breaker import FIRST_PAUSE_S, TRIAL_S
from gateway.agents.instance_health import Health
from gateway.api.webhooks.whatsapp import WHATSAPP
from gateway.model.session import CallDetails, SlotLimits
from tests.harness.agent import Agent, AgentCall, AgentPort
from tests.harness.bot_requests import holds
from tests.harness.clock import Clock
from tests.harness.http_requests import serving
from tests.harness.start_api import Worker, running_worker, start_bot, tables
from tests.harness.whatsapp_events import SECRET, agrees, call, event, send_event

FAILURES = 2
SESSIONS = 4
"""At once: fewer than the slots of one instance, so that none has to share."""


@dataclass
class Pair:
    """A worker whose agent has two ready instances; `failing` comes first in the configuration."""

    worker: Worker
    clock: Clock
    whatsapp_url: str
    failing: str
    healthy: str
    agents: list[Agent]

    def open_circuit(self) -> None:
        for _ in range(FAILURES):
            self.worker.services.calls.health.record_failure(self.failing)

    async def half_open_circuit(self) -> None:
        self.open_circuit()
        self.clock.now += FIRST_PAUSE_S
        await self.worker.sees(self.failing, Health.READY)
        assert self.worker.services.calls.health.has_half_open([self.failing])


async def answer(agent: Agent, request: AgentCall) -> None:
    """Hold a session that starts as `POST /bot`, and accept a WhatsApp call."""
    await (agrees if request.path == "/whatsapp" else holds)(agent, request)


@pytest.fixture
async def pair(
    agent_at: Callable[..., Any], agent_port: Callable[[], AgentPort], tmp_path: Path
) -> AsyncIterator[Pair]:
    ports = [agent_port(), agent_port()]
    agents = [await agent_at(port, answer) for port in ports]
    settings = tables(
        *(port.url for port in ports),
        acme={"whatsapp": {"app_secrets": [SECRET]}},
        agent={"sessions_per_instance": 2 * SESSIONS},
        limits={"instance_failures": FAILURES},
    )
    clock = Clock()
    async with (
        running_worker(tmp_path / "patchbay.db", settings, clock=clock) as worker,
        serving(worker, WHATSAPP) as address,
    ):
        for port in ports:
            await worker.sees(port.url, Health.READY)
        url = f"{address}/v1/public/webhooks/acme/support/whatsapp"
        yield Pair(worker, clock, url, ports[0].url, ports[1].url, agents)


def details(carrier: str) -> CallDetails:
    return CallDetails(str(uuid.uuid4()), "support.acme", "acme", "us-west", carrier, None, None, None, None)


async def instance_of(pair: Pair, session_id: str) -> str:
    record = await pair.worker.store.session(session_id)
    assert record is not None
    return record.instance


async def start_bot_session(pair: Pair) -> str:
    return (await start_bot(pair.worker)).instance


async def start_whatsapp_call(pair: Pair) -> str:
    call_id = f"wacid.{uuid.uuid4()}"
    assert (await send_event(pair.whatsapp_url, event(call("connect", call_id)))).status == 200
    (record,) = [record for record in await pair.worker.records() if record.call_id == call_id]
    return record.instance


async def start_inbound_call(pair: Pair) -> str:
    (agent,) = pair.worker.services.calls.agents.agents
    return await pair.worker.services.calls.capacity.acquire(agent, details("twilio"))


async def start_outbound_call(pair: Pair) -> str:
    (agent,) = pair.worker.services.calls.agents.agents
    return await pair.worker.services.calls.capacity.acquire(agent, details("twilio"), is_outbound=True)


async def move_call(pair: Pair) -> str:
    """Move a running call, whose agent on the healthy instance was lost."""
    (agent,) = pair.worker.services.calls.agents.agents
    running = details("twilio")
    limits = SlotLimits(((pair.healthy, 0),), 10 * SESSIONS, 2)
    await pair.worker.store.admit(running, limits, 1000.0)
    capacity = pair.worker.services.calls.capacity
    return await capacity.move(agent, running.session_id, pair.healthy, {pair.healthy: 1})


Start = Callable[[Pair], Awaitable[str]]
KINDS: list[Start] = [start_bot_session, start_whatsapp_call, start_inbound_call, start_outbound_call]


@pytest.mark.parametrize("start", KINDS)
async def test_no_session_gets_an_instance_whose_circuit_is_open(pair: Pair, start: Start) -> None:
    assert await start(pair) == pair.failing, "it is the first choice while its circuit is closed"
    pair.open_circuit()
    for _ in range(SESSIONS):
        assert await start(pair) == pair.healthy


@pytest.mark.parametrize("start", [*KINDS, move_call])
async def test_a_half_open_instance_gets_one_session_of_many_at_once(pair: Pair, start: Start) -> None:
    await pair.half_open_circuit()
    instances = Counter(await asyncio.gather(*(start(pair) for _ in range(SESSIONS))))
    assert instances == {pair.failing: 1, pair.healthy: SESSIONS - 1}
    assert await start(pair) == pair.healthy, "the trial is not over"
    pair.clock.now += TRIAL_S
    assert pair.failing in {await start(pair) for _ in range(2 * SESSIONS)}, "the circuit is closed"


async def test_a_half_open_instance_gets_one_session_whatever_the_others_are(pair: Pair) -> None:
    await pair.half_open_circuit()
    instances = Counter(await asyncio.gather(*(start(pair) for start in [*KINDS, move_call])))
    assert instances[pair.failing] == 1


async def test_an_event_about_no_call_goes_to_no_instance_whose_circuit_is_open(pair: Pair) -> None:
    pair.open_circuit()
    for _ in range(SESSIONS):
        assert (await send_event(pair.whatsapp_url, event(messages=[{"id": "wamid.1"}]))).status == 200
    assert [agent.calls.qsize() for agent in pair.agents] == [0, SESSIONS]
