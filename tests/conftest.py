# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures of all tests: gateway processes, agents under a test's control, ports for them."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from gateway.simulator.server_process import PATCHBAY
from tests.harness.agent import Agent, AgentPort
from tests.harness.gateway import Gateway
from tests.harness.prepared_process import start_prepared

# A busy machine is no failure: no example is held against a clock.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


LONGEST_FILES = (
    "whole_way/test_three_nodes.py",
    "server/test_worker_processes.py",
    "server/test_takeover.py",
    "nodes/test_second_sockets.py",
    "calls/test_store_failure.py",
    "server/test_draining.py",
    "calls/carrier_reconnect/test_another_worker.py",
    "calls/test_call_tokens.py",
    "security/test_secrets.py",
    "calls/test_keep_alive.py",
    "test_page_commands.py",
    "api/webhooks/whatsapp/test_whatsapp_process.py",
    "calls/agent_failover/test_gateways.py",
    "simulator/test_testing_page.py",
    "api/pipecat_cloud/test_start_process.py",
    "calls/carrier_reconnect/test_next_stream.py",
    "calls/agent_failover/test_next_agent.py",
    "simulator/test_calls_that_prove_themselves.py",
    "server/test_tls.py",
    "calls/carrier_reconnect/test_ends.py",
    "server/test_replace_refused.py",
    "calls/test_back_pressure.py",
    "calls/test_capacity.py",
    "calls/test_instances.py",
    "api/webhooks/dialin/test_dialin_process.py",
    "whole_way/test_telnyx.py",
    "test_docs.py",
    "test_rooms.py",
)
"""The files that take longest, which run first: one that begins last is waited for by the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, in their order. The order of the others stays."""
    root = Path(__file__).parent
    ranks = {root / name: rank for rank, name in enumerate(LONGEST_FILES)}
    assert all(path.is_file() for path in ranks), "a file of LONGEST_FILES has moved"
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="module")
def agent_port() -> Iterator[Callable[[], AgentPort]]:
    """Reserve ports for agents while the module's gateway knows them."""
    kept: list[AgentPort] = []

    def keep() -> AgentPort:
        kept.append(AgentPort())
        return kept[-1]

    yield keep
    for port in kept:
        port.free()


@pytest.fixture(scope="module")
def support_port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    """The reserved port of the module's agent `support`."""
    return agent_port()


@pytest.fixture(scope="module")
def gateways() -> Iterator[list[Gateway]]:
    """The gateways of the module. Each must end well, also if another did not."""
    running: list[Gateway] = []
    yield running
    with ExitStack() as ends:  # each, also where another did not end well
        for gateway in running:
            ends.callback(gateway.end)


@pytest.fixture(scope="module")
def patchbay_starts_anew() -> bool:
    """Whether each gateway of the module is a new process, which imports everything itself.

    A module whose tests are about processes imports the fixture of prepared_process.py instead.
    """
    return False


@pytest.fixture(scope="module")
def start_gateway(
    tmp_path_factory: pytest.TempPathFactory,
    gateways: list[Gateway],
    patchbay_starts_anew: bool,
) -> Callable[..., Gateway]:
    """Start a gateway with these tables of settings; it runs until the module ends."""

    def start(*, accelerator: str = "on", command: Sequence[str | Path] = PATCHBAY, **tables: Any) -> Gateway:
        how = subprocess.Popen if patchbay_starts_anew or command is not PATCHBAY else start_prepared
        directory = tmp_path_factory.mktemp("gateway")
        gateways.append(Gateway(directory, tables, accelerator=accelerator, command=command, start=how))
        return gateways[-1].wait_until_ready()

    return start


@pytest.fixture
async def agent_at() -> AsyncIterator[Callable[..., Any]]:
    """Start an agent on a port; stop it after the test."""
    agents: list[Agent] = []

    async def start(port: AgentPort, *script: Any, ready: int = 200, **buffers: int) -> Agent:
        agents.append(Agent(port, *script, ready=ready))
        return await agents[-1].start(**buffers)

    yield start
    for agent in agents:
        await agent.stop()


@pytest.fixture
async def support(agent_at: Callable[..., Any], support_port: AgentPort) -> Agent:
    """The agent `support`, listening."""
    agent: Agent = await agent_at(support_port)
    return agent
