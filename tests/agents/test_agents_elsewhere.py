# SPDX-License-Identifier: BSD-2-Clause
"""Agents of another region's gateway: known here by name, and served there."""

from __future__ import annotations

import pytest

from gateway.agents.directory import AgentDirectory
from gateway.config import Settings
from gateway.model.reasons import CallEnded, Reasons

EU = "https://eu.voice.test"


def directory(url: str | None, region: str = "us-west") -> AgentDirectory:
    """Return the directory of a gateway. `url`: of the gateway of eu-central. `region`: its own."""
    return AgentDirectory(
        Settings.model_validate(
            {
                "server": {"region": region},
                "regions": [
                    {"code": "us-west", "display_name": "West"},
                    {"code": "eu-central", "display_name": "Europe", "url": url},
                ],
                "agents": [
                    {"name": "day", "organization": "acme", "region": "us-west"},
                    {"name": "night", "organization": "acme", "region": "eu-central"},
                ],
                "numbers": [{"number": "+15559876543", "agent": "night.acme"}],
            }
        )
    )


def names(agents: AgentDirectory) -> list[str]:
    """Return the names of the agents whose instances are used here."""
    return [agent.name for agent in agents.agents_here]


@pytest.mark.parametrize("region", [None, "eu-central", "us-west"])
def test_a_call_for_an_agent_that_another_gateway_has_is_refused(region: str | None) -> None:
    agents = directory(EU)
    assert names(agents) == ["day"]
    for find in (
        lambda: agents.agent("night.acme", region),
        lambda: agents.named(["night.acme"], region),
        lambda: agents.called("+15559876543", region),
        lambda: agents.of_organization("acme", "night"),
    ):
        with pytest.raises(CallEnded) as refused:
            find()
        assert refused.value.reason is Reasons.wrong_region
    assert agents.agent("day.acme", "us-west").name == "day"


def test_without_a_url_one_gateway_serves_all_regions() -> None:
    agents = directory(None)
    assert names(agents) == ["day", "night"]
    assert agents.agent("night.acme", "eu-central").name == "night"


def test_the_url_of_the_servers_own_region_has_no_effect() -> None:
    agents = directory(EU, region="eu-central")
    assert names(agents) == ["day", "night"]
    assert agents.of_organization("acme", "night").name == "night"
