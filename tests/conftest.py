# SPDX-License-Identifier: BSD-2-Clause
"""What every test may use: gateway processes, agents that do as they are told, ports for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from gateway.simulator.server_process import PATCHBAY
from tests.harness.agent import Agent, AgentPort
from tests.harness.gateway import Gateway

# A busy machine is no failure: no example is held against a clock.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="module")
def agent_port() -> Iterator[Callable[[], AgentPort]]:
    """Keeps ports for agents, for as long as the module's gateway knows them."""
    kept: list[AgentPort] = []

    def keep() -> AgentPort:
        kept.append(AgentPort())
        return kept[-1]

    yield keep
    for port in kept:
        port.free()


@pytest.fixture(scope="module")
def support_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    """Where the module's agent `support` is."""
    return agent_port()


@pytest.fixture(scope="module")
def gateways() -> Iterator[list[Gateway]]:
    """Those that the module has started; each must end well."""
    running: list[Gateway] = []
    yield running
    with ExitStack() as ends:  # each, also where another did not end well
        for gateway in running:
            ends.callback(gateway.end)


@pytest.fixture(scope="module")
def start_gateway(
    tmp_path_factory: pytest.TempPathFactory, gateways: list[Gateway]
) -> Callable[..., Gateway]:
    """Starts a gateway with the settings given as tables."""

    def start(*, accelerator: str = "on", command: Sequence[str | Path] = PATCHBAY, **tables: Any) -> Gateway:
        directory = tmp_path_factory.mktemp("gateway")
        gateways.append(Gateway(directory, tables, accelerator=accelerator, command=command))
        return gateways[-1].wait_until_ready()

    return start


@pytest.fixture
async def agent_at() -> AsyncIterator[Callable[..., Any]]:
    """Starts an agent on a port; it is gone after the test."""
    agents: list[Agent] = []

    async def start(port: AgentPort, *script: Any, ready: int = 200, **buffers: int) -> Agent:
        agents.append(Agent(port, *script, ready=ready))
        return await agents[-1].start(**buffers)

    yield start
    for agent in agents:
        await agent.stop()


@pytest.fixture
async def support(agent_at: Callable[..., Any], support_port: AgentPort) -> Agent:
    """The agent `support`, at work."""
    agent: Agent = await agent_at(support_port)
    return agent
