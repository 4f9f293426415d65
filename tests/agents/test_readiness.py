# SPDX-License-Identifier: BSD-2-Clause
"""Which instances are asked whether they are ready, as agents come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.agents.readiness import Probes, Readiness
from gateway.agents.trust import FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIAL_S
from tests.harness.agent import AgentPort
from tests.harness.clock import Clock
from tests.harness.gateway import eventually


@pytest.fixture
async def probes() -> AsyncIterator[Probes]:
    """Asks nobody yet."""
    asking = Probes(())
    await asking.start()
    yield asking
    await asking.stop()


async def test_instances_of_an_agent_that_came_later_are_asked_too(
    probes: Probes, agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    ready, starting, nobody = agent_port(), agent_port(), agent_port()
    await agent_at(ready)
    await agent_at(starting, ready=503)
    probes.watch([ready.url, starting.url, nobody.url])
    assert probes.readiness(ready.url) is Readiness.UNKNOWN
    await eventually(lambda: probes.readiness(ready.url) is Readiness.READY, "the first is ready")
    await eventually(lambda: probes.readiness(starting.url) is Readiness.STARTING, "the second starts")
    await eventually(lambda: probes.readiness(nobody.url) is Readiness.UNREACHABLE, "the third is not there")

    probes.watch([starting.url])
    assert probes.readiness(starting.url) is Readiness.STARTING, "what was seen of it stands"
    assert probes.readiness(ready.url) is Readiness.UNKNOWN, "it is not asked any more"


async def test_who_waits_for_an_instance_that_is_taken_out_waits_no_longer(
    probes: Probes, agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    starting = agent_port()
    await agent_at(starting, ready=503)
    probes.watch([starting.url])
    await eventually(lambda: probes.readiness(starting.url) is Readiness.STARTING, "it starts")
    probes.watch([])
    await probes.wait_until_started(starting.url)
    probes.unreachable(starting.url)
    assert probes.readiness(starting.url) is Readiness.UNKNOWN


async def test_one_that_fails_its_callers_is_set_aside_until_it_was_tried(
    agent_port: Callable[[], AgentPort], agent_at: Callable[..., Any]
) -> None:
    clock = Clock()
    bad, good = agent_port(), agent_port()
    both = [bad.url, good.url]
    probes = Probes(both, failures=3, now=clock)
    assert await agent_at(bad)
    await probes.start()
    try:
        await eventually(lambda: probes.readiness(bad.url) is Readiness.READY, "it says that it is ready")
        for _ in range(3):
            assert [instance for instance, _ in probes.ranks(both)] == both
            probes.lost(bad.url)
        assert [instance for instance, _ in probes.ranks(both)] == [good.url]
        assert [instance for instance, _ in probes.ranks([bad.url])] == [bad.url], "better than none"
        clock.now += FIRST_PAUSE_S
        probes.watch([*both, agent_port().url])  # has all of them asked at once
        await eventually(lambda: len(probes.ranks(both)) == 2, "it was asked, and may be tried")
        probes.taken(bad.url)
        assert [instance for instance, _ in probes.ranks(both)] == [good.url]
        clock.now += TRIAL_S
        assert [instance for instance, _ in probes.ranks(both)] == both
    finally:
        await probes.stop()


async def test_one_that_is_not_there_stays_aside(agent_port: Callable[[], AgentPort]) -> None:
    clock = Clock()
    bad, good = agent_port(), agent_port()
    probes = Probes([bad.url, good.url], failures=1, now=clock)
    await probes.start()
    try:
        probes.unreachable(bad.url)
        clock.now += LONGEST_PAUSE_S
        probes.watch([bad.url, good.url, agent_port().url])
        await eventually(lambda: probes.readiness(good.url) is Readiness.UNREACHABLE, "they were asked")
        assert [instance for instance, _ in probes.ranks([bad.url, good.url])] == [good.url]
    finally:
        await probes.stop()


def test_of_those_that_nobody_knows_nothing_is_kept() -> None:
    probes = Probes(["http://a"], failures=1)
    probes.lost("http://b")
    probes.taken("http://b")
    assert probes.ranks(["http://b", "http://a"]) == (
        ("http://b", Readiness.UNKNOWN),
        ("http://a", Readiness.UNKNOWN),
    )
    probes.lost("http://a")
    assert probes.ranks(["http://b", "http://a"]) == (("http://b", Readiness.UNKNOWN),)
    probes.watch([])
    probes.watch(["http://a"])
    assert len(probes.ranks(["http://b", "http://a"])) == 2, "it was taken out, and what was held against it"
