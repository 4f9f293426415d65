# SPDX-License-Identifier: BSD-2-Clause
"""Which instances are probed as agents come and go, and which ones may get a session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.agents.circuit_breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIAL_S
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.simulator.waiting import eventually
from tests.harness.agent import AgentPort
from tests.harness.clock import Clock


@pytest.fixture
async def health() -> AsyncIterator[InstanceHealth]:
    """The health of no instances yet."""
    health = InstanceHealth(())
    await health.start()
    yield health
    await health.stop()


def urls(ranks: tuple[tuple[str, Health], ...]) -> list[str]:
    return [instance for instance, _ in ranks]


async def test_instances_of_an_agent_that_is_added_later_are_probed(
    health: InstanceHealth, agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    ready, starting, absent = agent_port(), agent_port(), agent_port()
    await agent_at(ready)
    await agent_at(starting, ready=503)
    health.watch([ready.url, starting.url, absent.url])
    assert health.of(ready.url) is Health.UNKNOWN
    await eventually(lambda: health.of(ready.url) is Health.READY, "the first is ready")
    await eventually(lambda: health.of(starting.url) is Health.STARTING, "the second starts")
    await eventually(lambda: health.of(absent.url) is Health.UNREACHABLE, "the third is not there")

    health.watch([starting.url])
    assert health.of(starting.url) is Health.STARTING, "what was seen of it stands"
    assert health.of(ready.url) is Health.UNKNOWN, "it is not probed any more"


async def test_a_session_does_not_wait_for_an_instance_that_is_removed(
    health: InstanceHealth, agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    starting = agent_port()
    await agent_at(starting, ready=503)
    health.watch([starting.url])
    await eventually(lambda: health.of(starting.url) is Health.STARTING, "it starts")
    health.watch([])
    await health.wait_until_started(starting.url)
    health.mark_unreachable(starting.url)
    assert health.of(starting.url) is Health.UNKNOWN


async def test_an_instance_that_fails_sessions_gets_none_until_its_trial(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    clock = Clock()
    bad, good = agent_port(), agent_port()
    both = [bad.url, good.url]
    health = InstanceHealth(both, max_failures=3, now=clock)
    assert await agent_at(bad)
    await health.start()
    try:
        await eventually(lambda: health.of(bad.url) is Health.READY, "it reports that it is ready")
        for _ in range(3):
            assert urls(health.ranks(both)) == both
            health.record_failure(bad.url)
        assert urls(health.ranks(both)) == [good.url]
        assert urls(health.ranks([bad.url])) == [bad.url], "better than none"
        clock.now += FIRST_PAUSE_S
        health.watch([*both, agent_port().url])  # has all of them probed at once
        await eventually(lambda: health.has_half_open(both), "it was probed, and may be tried")
        assert urls(health.ranks(both)) == both
        health.trial_started(bad.url)
        assert not health.has_half_open(both)
        assert urls(health.ranks(both)) == [good.url]
        clock.now += TRIAL_S
        assert urls(health.ranks(both)) == both
    finally:
        await health.stop()


async def test_the_circuit_of_an_instance_that_does_not_answer_stays_open(
    agent_port: Callable[[], AgentPort],
) -> None:
    clock = Clock()
    bad, good = agent_port(), agent_port()
    health = InstanceHealth([bad.url, good.url], max_failures=1, now=clock)
    await health.start()
    try:
        health.mark_unreachable(bad.url)
        clock.now += LONGEST_PAUSE_S
        health.watch([bad.url, good.url, agent_port().url])
        await eventually(lambda: health.of(good.url) is Health.UNREACHABLE, "they were probed")
        assert urls(health.ranks([bad.url, good.url])) == [good.url]
    finally:
        await health.stop()


def test_nothing_is_recorded_of_an_instance_that_is_not_watched() -> None:
    health = InstanceHealth(["http://a"], max_failures=1)
    health.record_failure("http://b")
    health.trial_started("http://b")
    assert health.ranks(["http://b", "http://a"]) == (
        ("http://b", Health.UNKNOWN),
        ("http://a", Health.UNKNOWN),
    )
    health.record_failure("http://a")
    assert health.ranks(["http://b", "http://a"]) == (("http://b", Health.UNKNOWN),)
    health.watch([])
    health.watch(["http://a"])
    assert len(health.ranks(["http://b", "http://a"])) == 2, "its failures were forgotten with it"
