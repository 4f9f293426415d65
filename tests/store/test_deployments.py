# SPDX-License-Identifier: BSD-2-Clause
"""Deployments of agents, on every store."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.agents.directory import AgentDirectory
from gateway.agents.stored_agents import StoredAgents, unchanged
from gateway.config import Settings
from gateway.store.interface import Store

HERE = "http://127.0.0.1:8080"
NOW = 1_700_000_000.0
TABLES: dict[str, Any] = {
    "organizations": [{"name": "acme"}],
    "agents": [
        {"name": "support", "organization": "acme", "instances": [HERE]},
        {"name": "bot", "organization": "acme", "command": ["bot", "{port}"], "environment": {"A": "file"}},
    ],
}


@pytest.fixture
def directory() -> AgentDirectory:
    return AgentDirectory(Settings.model_validate(TABLES))


@pytest.fixture
def agents(store: Store, directory: AgentDirectory) -> StoredAgents:
    return StoredAgents(directory, store)


async def test_deployments_of_one_agent_are_not_anothers(agents: StoredAgents) -> None:
    settings = Settings.model_validate(TABLES).agents[0]
    for name in ("billing", "billing-2"):
        made = await agents.create(settings.model_copy(update={"name": name}), NOW)
        assert made is not None
        await agents.update(made, {"max_agents": 7}, NOW + 1)
    (first, second) = await agents.of("acme", NOW + 2)
    assert [each.number for each in await agents.deployments_of(first, NOW + 2)] == [2, 1]
    assert await agents.delete("acme", "billing", NOW + 3)
    assert [each.number for each in await agents.deployments_of(second, NOW + 3)] == [2, 1]
    again = await agents.activate(second, (await agents.deployments_of(second, NOW + 3))[1], NOW + 4)
    assert (again.settings.max_agents, again.deployment.number) == (50, 1)
    assert [turn.at for turn in again.turns] == [NOW, NOW + 1, NOW + 4]
    assert await agents.get("acme", "billing-2", NOW + 5) == again


async def test_changes_of_an_agent_in_the_file_are_beside_one_of_its_name(
    agents: StoredAgents, directory: AgentDirectory
) -> None:
    """An agent of the store may have been there before the file got one of its name."""
    configured = Settings.model_validate(TABLES).agents
    await agents.create(configured[0].model_copy(update={"name": "bot"}), NOW)
    before = unchanged(configured[1], NOW)
    changed = await agents.update(before, {"environment": {"A": "key"}}, NOW + 1)
    assert changed.settings.environment == {"A": "key"}
    assert await agents.get_changed(configured[1], NOW + 2) == changed
    assert [each.number for each in await agents.deployments_of(changed, NOW + 2)] == [1, 0]
    stored = await agents.get("acme", "bot", NOW + 2)
    assert stored is not None
    assert (stored.settings.instances, stored.deployment.number) == ([HERE], 1)
    file = (await agents.deployments_of(changed, NOW + 2))[-1]
    assert (await agents.activate(changed, file, NOW + 3)).settings == configured[1]
