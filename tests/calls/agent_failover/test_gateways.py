# SPDX-License-Identifier: BSD-2-Clause
"""Draining, instance health and silent agents, with fail-over (docs/resume.md)."""

from __future__ import annotations

from collections.abc import Callable

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.agent_failover import (
    first_call,
    hang_up_resumed,
    logged_health,
    next_agent_takes_over,
    next_call_of_any,
)
from tests.harness.call_assertions import Call, assert_agent_heard, hang_up
from tests.harness.gateway import Gateway
from tests.harness.transcripts import talk

MEDIA = talk("twilio")[0]


async def test_a_draining_gateway_still_replaces_agents(
    start_gateway: Callable[..., Gateway], ports: list[AgentPort], agents: list[Agent]
) -> None:
    support = {"name": "support", "organization": "acme", "instances": [port.url for port in ports]}
    draining = start_gateway(agents=[support], server={"drain_timeout": 60})
    call, _, other = await first_call(draining, agents)
    draining.terminate()
    await eventually(lambda: draining.get("/readyz")[0] == 503, "it takes no more calls")
    call.agent.reset()
    second = await next_agent_takes_over(other, call)
    await assert_agent_heard(second, [call.caller.say(MEDIA)])
    await hang_up(Call(call.caller, second, call.opening))
    assert await draining.ended() == 0
    (record,) = draining.sessions(call.session)
    assert (record["reason"], record["resumed"]) == ("caller_hangup", 1)


async def test_instances_that_lose_their_callers_are_set_aside(
    start_gateway: Callable[..., Gateway], ports: list[AgentPort], agents: list[Agent]
) -> None:
    """One that says it is ready and loses whom it gets: after three, callers go elsewhere."""
    support = {"name": "support", "organization": "acme", "instances": [port.url for port in ports]}
    bad, good = agents
    careful = start_gateway(agents=[support | {"sessions_per_instance": 9, "max_resumes": 9}])
    for each in ports:
        await eventually(lambda port=each: logged_health(careful, port) == "ready", "it is seen")  # type: ignore[misc]
    losses = 0
    while losses < 3:
        call, own, _ = await first_call(careful, agents)
        agent = call.agent
        if own is bad:
            agent.reset()
            losses += 1
            own, agent = await next_call_of_any(agents)
            await agent.opening(call.opening)
        if own is bad:
            agent.reset()
            losses += 1
            own, agent = await next_call_of_any(agents)
            await agent.opening(call.opening)
        await hang_up(Call(call.caller, agent, call.opening))

    def aside() -> list[str]:
        lines = [line for line in careful.log_lines() if line["event"] == "instance set aside"]
        return [line["instance"] for line in lines]

    assert await eventually(aside, "it is set aside") == [bad.port.url]
    # It would be the first of the two that are free, and then the less loaded. It is left alone for 5 s.
    later = [await first_call(careful, agents) for _ in range(2)]
    assert [own for _, own, _ in later] == [good, good]
    for call, *_ in later:
        await hang_up(call)
    await eventually(
        lambda: [line for line in careful.log_lines() if line["event"] == "instance may be tried again"],
        "it was left alone for long enough, and asked",
    )


async def test_an_agent_that_is_silent_for_too_long(
    start_gateway: Callable[..., Gateway], ports: list[AgentPort], agents: list[Agent], accelerator: str
) -> None:
    """One that answers pings may be silent; one that does not is frozen, and told that it is over."""
    support = {"name": "support", "organization": "acme", "instances": [port.url for port in ports]}
    watchful = start_gateway(accelerator=accelerator, agents=[support], limits={"agent_silence": 2.4})
    call, _, other = await first_call(watchful, agents)
    for _ in range(4):
        await call.agent.answer_ping()
    spoken = call.caller.say(MEDIA)
    second = await next_agent_takes_over(other, call)
    assert await call.agent.closed() == (1011, "neither a word nor a pong for 2.4 s")
    for _ in range(4):
        await second.answer_ping()
    assert spoken not in second.heard, "it was the first agent's to hear"
    await hang_up_resumed(watchful, call, second)
