# SPDX-License-Identifier: BSD-2-Clause
"""A gateway whose calls wait for their carrier's next stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.accelerator_modes import accelerator  # noqa: F401 - a fixture
from tests.harness.agent import Agent, AgentPort
from tests.harness.api_requests import KEY
from tests.harness.carrier_reconnect import CARRIERS
from tests.harness.document_calls import Server, accounts
from tests.harness.gateway import Gateway

NEVER_S = 30
"""Longer than any test waits: a call that ends in it was ended by something else."""


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port(), agent_port()]


@pytest.fixture(scope="module")
def start(
    start_gateway: Callable[..., Gateway],
    ports: list[AgentPort],
    carrier_servers: dict[str, Server],
    accelerator: str,
) -> Callable[..., Gateway]:
    """Return a function that starts a gateway. acme authenticates its carriers, globex does not."""
    plivo = carrier_servers["plivo"]

    def one(*, workers: int = 1, **limits: Any) -> Gateway:
        agent = {"organization": "acme", "instances": [ports[0].url], "max_agents": 1, "max_resumes": 0}
        authenticating = accounts(carrier_servers)
        for account in authenticating:
            if account["carrier"] == "plivo":
                account["api_url"] = plivo.api_url
        others = {
            "support": {},
            "asked": {"after": "redirect"},
            "messages": {"media": "messages", "after": "redirect"},
            "hidden": {"hide_call_id": True, "after": "redirect"},
            "brief": {"max_session_duration": 5, "after": "redirect"},
            "resumed": {"max_resumes": 2, "after": "redirect", "instances": [port.url for port in ports]},
            "translated": {
                "max_resumes": 2,
                "after": "redirect",
                "instances": [port.url for port in ports],
                "dialect": "pcm16",
                "audio_rate": 8000,
                "start_message": False,
            },
            "ringing": {"hold": "ringback", "after": "redirect"},
        }
        return start_gateway(
            server={"public_url": "https://voice.example.com", "workers": workers, "drain_timeout": 60},
            organizations=[
                {"name": "acme", "carriers": authenticating, "private_keys": [KEY]},
                {"name": "globex"},
            ],
            accelerator=accelerator,
            agents=[
                *(agent | {"name": name} | more for name, more in others.items()),
                agent | {"name": "support", "organization": "globex"},
            ],
            limits={"close_timeout": 0.5, "reconnect_timeout": NEVER_S, "instance_failures": 0} | limits,
        )

    return one


@pytest.fixture(scope="module")
def gateway(start: Callable[..., Gateway]) -> Gateway:
    return start()


@pytest.fixture
async def agents(agent_at: Callable[..., Any], ports: list[AgentPort], gateway: Gateway) -> list[Agent]:
    return [await agent_at(port) for port in ports]


@pytest.fixture
def support(agents: list[Agent]) -> Agent:
    return agents[0]


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)
