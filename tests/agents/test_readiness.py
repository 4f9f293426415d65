# SPDX-License-Identifier: BSD-2-Clause
"""Which instances are asked whether they are ready, as agents come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.agents.readiness import Probes, Readiness
from tests.harness.agent import AgentPort
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
