# SPDX-License-Identifier: BSD-2-Clause
"""Which instance takes a call: one that is ready, the least loaded (docs/reference/agent-container.md, `GET
/readyz`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import Call, assert_end_logged, assert_ended, connect, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port(), agent_port()]


@pytest.fixture
def start(start_gateway: Callable[..., Gateway], ports: list[AgentPort]) -> Callable[[], Gateway]:
    """A gateway of the test's own, for when the instances are as the test wants them.

    So all that it says of them is of this test, and nothing that it saw between two.
    """

    def one() -> Gateway:
        agent = {"name": "support", "organization": "acme", "instances": [port.url for port in ports]}
        limits = {"agent_connect_timeout": 60}
        return start_gateway(agents=[agent | {"sessions_per_instance": 2}], limits=limits)

    return one


async def seen(gateway: Gateway, port: AgentPort, readiness: str) -> None:
    """Until the gateway has noticed how an instance is."""

    def last() -> bool:
        reported = [
            line for line in gateway.log_lines() if line.get("instance") == port.url and "readiness" in line
        ]
        return bool(reported) and reported[-1]["readiness"] == readiness

    await eventually(last, f"the instance is seen to be {readiness}")


async def finish(gateway: Gateway, *calls: Call) -> None:
    for call in calls:
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_the_least_loaded_instance_takes_the_next_call(
    start: Callable[[], Gateway], agent_at: Callable[..., Any], ports: list[AgentPort]
) -> None:
    first, second = [await agent_at(port) for port in ports]
    gateway = await asyncio.to_thread(start)
    for port in ports:
        await seen(gateway, port, "ready")
    calls = [await connect(gateway, agent) for agent in (first, second, first, second)]
    full = await gateway.dial("/ws/generic/support.acme")
    assert full.refusal == (429, "at_capacity")
    assert full.json["error"] == "4 of 4 places are taken"
    await finish(gateway, calls.pop(1))
    calls.append(await connect(gateway, second))
    await finish(gateway, *calls)


async def test_an_instance_that_cannot_be_reached_gets_no_calls(
    start: Callable[[], Gateway], agent_at: Callable[..., Any], ports: list[AgentPort]
) -> None:
    second = await agent_at(ports[1])
    gateway = await asyncio.to_thread(start)
    await seen(gateway, ports[1], "ready")
    before = len(gateway.ends())
    caller = await gateway.dial("/ws/twilio/support.acme")
    for message in opening("twilio"):
        caller.say(message)
    # Either it was known already, or this call finds it out: the next goes to the other in any case.
    await eventually(lambda: gateway.ends()[before:] or not second.calls.empty(), "it is tried")
    if gateway.ends()[before:]:
        await assert_end_logged(gateway, before, "agent_unreachable")
    else:
        await finish(gateway, Call(caller, await second.call(), []))
    await seen(gateway, ports[0], "unreachable")
    await finish(gateway, await connect(gateway, second), await connect(gateway, second))


async def test_a_call_waits_for_an_instance_that_is_not_ready(
    start: Callable[[], Gateway], agent_at: Callable[..., Any], ports: list[AgentPort]
) -> None:
    """A cold container: the call waits, and the opening with it."""
    cold: Agent = await agent_at(ports[0], ready=503)
    gateway = await asyncio.to_thread(start)
    await seen(gateway, ports[0], "starting")
    await seen(gateway, ports[1], "unreachable")
    caller = await gateway.dial("/ws/twilio/support.acme")
    sent = [caller.say(message) for message in opening("twilio")]
    await eventually(lambda: gateway.status()["sessions"]["active"], "the call has its place")
    assert cold.upgrades == 0
    cold.ready = 200
    taken = await cold.call()
    await taken.opening(sent)
    await finish(gateway, Call(caller, taken, sent))


async def test_a_ready_instance_is_preferred(
    start: Callable[[], Gateway], agent_at: Callable[..., Any], ports: list[AgentPort]
) -> None:
    cold: Agent = await agent_at(ports[0], ready=503)
    warm: Agent = await agent_at(ports[1])
    gateway = await asyncio.to_thread(start)
    await seen(gateway, ports[0], "starting")
    await seen(gateway, ports[1], "ready")
    await finish(gateway, await connect(gateway, warm))
    assert cold.upgrades == 0


async def test_an_instance_without_readyz_counts_as_ready(
    start: Callable[[], Gateway], agent_at: Callable[..., Any], ports: list[AgentPort]
) -> None:
    """Pipecat's development runner has no such route."""
    runner: Agent = await agent_at(ports[0], ready=404)
    gateway = await asyncio.to_thread(start)
    await seen(gateway, ports[0], "ready")
    await seen(gateway, ports[1], "unreachable")
    await finish(gateway, await connect(gateway, runner))
