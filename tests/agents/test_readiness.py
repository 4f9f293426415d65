# SPDX-License-Identifier: BSD-2-Clause
"""Which instances are asked whether they are ready, as agents come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.agents.circuit_breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIAL_S
from gateway.agents.instance_health import Health, InstanceHealth
from tests.harness.agent import AgentPort
from tests.harness.clock import Clock
from tests.harness.gateway import eventually


@pytest.fixture
async def health() -> AsyncIterator[InstanceHealth]:
    """Asks nobody yet."""
    asking = InstanceHealth(())
    await asking.start()
    yield asking
    await asking.stop()


async def test_instances_of_an_agent_that_came_later_are_asked_too(
    health: InstanceHealth, agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    ready, starting, nobody = agent_port(), agent_port(), agent_port()
    await agent_at(ready)
    await agent_at(starting, ready=503)
    health.watch([ready.url, starting.url, nobody.url])
    assert health.readiness(ready.url) is Health.UNKNOWN
    await eventually(lambda: health.readiness(ready.url) is Health.READY, "the first is ready")
    await eventually(lambda: health.readiness(starting.url) is Health.STARTING, "the second starts")
    await eventually(lambda: health.readiness(nobody.url) is Health.UNREACHABLE, "the third is not there")

    health.watch([starting.url])
    assert health.readiness(starting.url) is Health.STARTING, "what was seen of it stands"
    assert health.readiness(ready.url) is Health.UNKNOWN, "it is not asked any more"


async def test_who_waits_for_an_instance_that_is_taken_out_waits_no_longer(
    health: InstanceHealth, agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    starting = agent_port()
    await agent_at(starting, ready=503)
    health.watch([starting.url])
    await eventually(lambda: health.readiness(starting.url) is Health.STARTING, "it starts")
    health.watch([])
    await health.wait_until_started(starting.url)
    health.unreachable(starting.url)
    assert health.readiness(starting.url) is Health.UNKNOWN


async def test_one_that_fails_its_callers_is_set_aside_until_it_was_tried(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    clock = Clock()
    bad, good = agent_port(), agent_port()
    both = [bad.url, good.url]
    health = InstanceHealth(both, failures=3, now=clock)
    assert await agent_at(bad)
    await health.start()
    try:
        await eventually(lambda: health.readiness(bad.url) is Health.READY, "it says that it is ready")
        for _ in range(3):
            assert [instance for instance, _ in health.ranks(both)] == both
            health.lost(bad.url)
        assert [instance for instance, _ in health.ranks(both)] == [good.url]
        assert [instance for instance, _ in health.ranks([bad.url])] == [bad.url], "better than none"
        clock.now += FIRST_PAUSE_S
        health.watch([*both, agent_port().url])  # has all of them asked at once
        await eventually(lambda: len(health.ranks(both)) == 2, "it was asked, and may be tried")
        health.taken(bad.url)
        assert [instance for instance, _ in health.ranks(both)] == [good.url]
        clock.now += TRIAL_S
        assert [instance for instance, _ in health.ranks(both)] == both
    finally:
        await health.stop()


async def test_one_that_is_not_there_stays_aside(agent_port: Callable[[], AgentPort]) -> None:
    clock = Clock()
    bad, good = agent_port(), agent_port()
    health = InstanceHealth([bad.url, good.url], failures=1, now=clock)
    await health.start()
    try:
        health.unreachable(bad.url)
        clock.now += LONGEST_PAUSE_S
        health.watch([bad.url, good.url, agent_port().url])
        await eventually(lambda: health.readiness(good.url) is Health.UNREACHABLE, "they were asked")
        assert [instance for instance, _ in health.ranks([bad.url, good.url])] == [good.url]
    finally:
        await health.stop()


def test_of_those_that_nobody_knows_nothing_is_kept() -> None:
    health = InstanceHealth(["http://a"], failures=1)
    health.lost("http://b")
    health.taken("http://b")
    assert health.ranks(["http://b", "http://a"]) == (
        ("http://b", Health.UNKNOWN),
        ("http://a", Health.UNKNOWN),
    )
    health.lost("http://a")
    assert health.ranks(["http://b", "http://a"]) == (("http://b", Health.UNKNOWN),)
    health.watch([])
    health.watch(["http://a"])
    assert len(health.ranks(["http://b", "http://a"])) == 2, "it was taken out, and what was held against it"
