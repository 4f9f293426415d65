# SPDX-License-Identifier: BSD-2-Clause
"""Calls see the instances that the sources of an agent have found, and nothing of the sources."""

from __future__ import annotations

from gateway.agents.directory import AgentDirectory
from gateway.agents.found_instances import FoundInstances
from gateway.agents.instance_health import InstanceHealth
from gateway.agents.instance_sources import sources_of
from gateway.config import AgentSettings, Settings

FIRST, SECOND = "http://10.0.0.5:8080", "http://10.0.0.6:8080"
PLAIN = "http://10.0.0.9:8080"
SOURCE = "dns://support.default.svc:8080"


def agent(name: str, *instances: str) -> AgentSettings:
    """Return an agent with these instances; no check looks at them."""
    settings = AgentSettings(name=name, organization="acme")
    return settings.model_copy(update={"instances": list(instances)})


def directory_of(*agents: AgentSettings) -> AgentDirectory:
    """Return a directory of stored agents."""
    directory = AgentDirectory(Settings())
    directory.refresh(agents)
    return directory


def instances(directory: AgentDirectory, service_host: str) -> list[str]:
    """Return the instances that calls of an agent see."""
    found = directory.find(service_host)
    assert found is not None
    return found.instances


def test_an_agent_has_no_instance_until_its_source_has_found_one() -> None:
    directory = directory_of(agent("support", SOURCE))
    assert instances(directory, "support.acme") == []
    assert directory.replace_found(SOURCE, [FIRST, SECOND])
    assert instances(directory, "support.acme") == [FIRST, SECOND]


def test_found_instances_stand_where_their_source_is_written_and_once() -> None:
    directory = directory_of(agent("support", PLAIN, SOURCE))
    directory.replace_found(SOURCE, [FIRST, PLAIN, FIRST])
    assert instances(directory, "support.acme") == [PLAIN, FIRST]


def test_the_same_list_again_is_no_change() -> None:
    directory = directory_of(agent("support", SOURCE))
    assert not directory.replace_found(SOURCE, [])
    assert directory.replace_found(SOURCE, [FIRST])
    assert not directory.replace_found(SOURCE, [FIRST])
    assert directory.replace_found(SOURCE, [])
    assert instances(directory, "support.acme") == []


def test_agents_that_are_read_again_keep_what_was_found() -> None:
    directory = directory_of(agent("support", SOURCE))
    directory.replace_found(SOURCE, [FIRST])
    directory.refresh([agent("support", SOURCE), agent("sales", SOURCE)])
    assert instances(directory, "support.acme") == instances(directory, "sales.acme") == [FIRST]
    assert sources_of(directory.written_agents) == (SOURCE,)


def test_another_source_changes_nothing() -> None:
    directory = directory_of(agent("support", PLAIN))
    directory.replace_found(SOURCE, [FIRST])
    assert instances(directory, "support.acme") == [PLAIN]


def test_found_instances_are_asked_for_their_health_and_no_more_when_they_have_left() -> None:
    directory = directory_of(agent("support", SOURCE))
    health = InstanceHealth(())
    found = FoundInstances(directory, health)
    assert found.replace(SOURCE, [FIRST])
    assert health.is_watched(FIRST)
    assert not found.replace(SOURCE, [FIRST])
    found.replace(SOURCE, [SECOND])
    assert not health.is_watched(FIRST)
    assert health.is_watched(SECOND)
