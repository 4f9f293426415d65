# SPDX-License-Identifier: BSD-2-Clause
"""A gateway whose agents are replaced when they are lost."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.accelerator_modes import accelerator  # noqa: F401 - a fixture
from tests.harness.agent import Agent, AgentPort
from tests.harness.agent_failover import logged_health
from tests.harness.api_requests import KEY
from tests.harness.gateway import Gateway

RATE_HZ = 8000


def recording(path: Path, seconds: float) -> str:
    """Write a WAV file with a loud tone, and return its name."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(b"\x00\x20\x00\xe0" * round(seconds * RATE_HZ / 2))
    return str(path)


@pytest.fixture(scope="module")
def ports(agent_port: Callable[[], AgentPort]) -> list[AgentPort]:
    return [agent_port(), agent_port()]


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., Gateway],
    ports: list[AgentPort],
    accelerator: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    """Start a gateway. support.acme has two instances and one slot, so that a slot taken twice is noticed."""
    directory = tmp_path_factory.mktemp("recordings")
    support = {
        "name": "support",
        "organization": "acme",
        "instances": [port.url for port in ports],
        "max_agents": 1,
        "hold": "none",
    }
    others = {
        "hasty": {"resume_timeout": 2},
        "single": {"max_resumes": 1},
        "never": {"max_resumes": 0},
        "messages": {"media": "messages"},
        "hidden": {"hide_call_id": True},
        "brief": {"max_session_duration": 5},
        "alone": {"instances": [ports[0].url]},
        "unread": {"instances": [ports[0].url], "resume_after_reset": False, "resume_timeout": 2},
        "raw": {"dialect": "pcm16", "audio_rate": 8000, "start_message": False},
        "ringing": {"hold": "ringback"},
        "sorry": {"max_resumes": 0, "fallback": recording(directory / "sorry.wav", 0.3)},
        "verbose": {"max_resumes": 0, "fallback": recording(directory / "verbose.wav", 60)},
    }
    agents = [support, *(support | {"name": name} | more for name, more in others.items())]
    return start_gateway(
        organizations=[{"name": "acme", "private_keys": [KEY]}],
        accelerator=accelerator,
        agents=agents,
        limits={"close_timeout": 0.3, "instance_failures": 0},
    )


@pytest.fixture
async def agents(agent_at: Callable[..., Any], ports: list[AgentPort], gateway: Gateway) -> list[Agent]:
    """Return both instances, once the gateway sees them as ready."""
    both = [await agent_at(port) for port in ports]
    await eventually(lambda: all(logged_health(gateway, port) == "ready" for port in ports), "both are ready")
    return both
