# SPDX-License-Identifier: BSD-2-Clause
"""A worker whose organisation has an app at Meta, and an agent of two instances."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.agents.instance_health import Health
from gateway.api.webhooks.whatsapp import WHATSAPP
from tests.harness.agent import Agent, AgentPort
from tests.harness.http_requests import serving
from tests.harness.start_api import Worker, tables
from tests.harness.whatsapp_events import OLD_SECRET, SECRET, agrees


@pytest.fixture
def ports(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port(), agent_port()]


@pytest.fixture
def settings(ports: list[AgentPort]) -> dict[str, Any]:
    acme = {"whatsapp": {"app_secrets": [OLD_SECRET, SECRET]}}
    return tables(*(port.url for port in ports), acme=acme, limits={"agent_connect_timeout": 5})


@pytest.fixture
async def url(worker: Worker) -> AsyncIterator[str]:
    async with serving(worker, WHATSAPP) as address:
        yield f"{address}/v1/public/webhooks/acme/support/whatsapp"


@pytest.fixture
async def agents(agent_at: Callable[..., Any], ports: list[AgentPort], worker: Worker) -> list[Agent]:
    found = [await agent_at(port, agrees) for port in ports]
    for port in ports:
        await worker.sees(port.url, Health.READY)
    return found
