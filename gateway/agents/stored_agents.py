# SPDX-License-Identifier: BSD-2-Clause
"""Agents that were made through the API: kept in the store, checked as the configuration checks its own.

They are checked each time they are read, because the configuration may have changed since: an agent whose
organisation, region or instances the operator took out is kept, and no call reaches it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pydantic import ValidationError

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import InstanceHealth
from gateway.config import AgentSettings, Settings
from gateway.config.consistency import Location, find_contradictions, format_path
from gateway.config.problems import message_of
from gateway.store.interface import KeyValueStore, StoredValue

log = structlog.get_logger(__name__)

DOCUMENT_KIND: Final = "agent"

_HERE: Final = ("agents", 0)
"""Where the one agent stands in the tables that the configuration's checks are given."""


class InvalidAgent(ValueError):  # noqa: N818 - read as a sentence
    """The settings are none. `problems`: keys of `[[agents]]` and what is wrong there, at least one."""

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{key}: {what}" for key, what in problems))
        self.problems = problems


class ForbiddenInstance(ValueError):  # noqa: N818 - read as a sentence
    """An instance is none that the operator configured, and the API may not choose others."""


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """An agent of the store. Times are Unix seconds. `fault`: why no call reaches it; "" where calls do."""

    settings: AgentSettings
    created_at: float
    updated_at: float
    fault: str = ""


def fit(table: Mapping[str, Any], settings: Settings) -> AgentSettings:
    """The agent that a table like one of `[[agents]]` describes. Raises InvalidAgent, ForbiddenInstance."""
    try:
        agent = AgentSettings.model_validate(dict(table))
    except ValidationError as error:
        raise InvalidAgent(
            tuple(
                (format_path(each["loc"]), message_of((*_HERE, *each["loc"]), each))
                for each in error.errors()
            )
        ) from None
    if not agent.region:
        agent = agent.model_copy(update={"region": settings.server.region})
    problems = _contradictions(agent, settings)
    if problems:
        raise InvalidAgent(problems)
    _check_instances(agent, settings)
    return agent


def _contradictions(agent: AgentSettings, settings: Settings) -> tuple[tuple[str, str], ...]:
    tables: dict[str, Any] = {
        "server": {"region": settings.server.region},
        "regions": [{"code": region.code} for region in settings.regions],
        "organizations": [{"name": organization.name} for organization in settings.organizations],
        "agents": [agent.model_dump()],
    }
    return tuple((_key(location), what) for location, what in find_contradictions(tables))


def _key(location: Location) -> str:
    return format_path(location[len(_HERE) :])


def _check_instances(agent: AgentSettings, settings: Settings) -> None:
    if settings.server.api_may_set_instances:
        return
    configured = {
        instance
        for other in settings.agents
        if other.organization == agent.organization
        for instance in other.instances
    }
    if not configured.issuperset(agent.instances):
        raise ForbiddenInstance(
            "instances: the configuration lists no such instance for this organisation, and other ones may "
            "be used only where [server] api_may_set_instances is true"
        )


class StoredAgents:
    """The agents of the store. Every method raises StoreFailed where the store does not answer."""

    def __init__(self, settings: Settings, documents: KeyValueStore) -> None:
        self._settings = settings
        self._documents = documents

    async def refresh(self, directory: AgentDirectory, health: InstanceHealth, now: float) -> None:
        """Makes the kept agents reachable for calls of this worker: after every change in the store."""
        async with directory.refreshing:
            kept = await self.all(now)
            directory.refresh(agent.settings for agent in kept if not agent.fault)
            health.watch(instance for agent in directory.agents for instance in agent.instances)

    async def all(self, now: float) -> list[StoredAgent]:
        """The agents of all organisations."""
        return self._read(await self._documents.list(DOCUMENT_KIND, now))

    async def of(self, organization: str, now: float) -> list[StoredAgent]:
        """An organisation's agents, in the order of their names."""
        return self._read(await self._documents.list(DOCUMENT_KIND, now, prefix=f"{organization}/"))

    async def one(self, organization: str, name: str, now: float) -> StoredAgent | None:
        """One agent."""
        document = await self._documents.get(DOCUMENT_KIND, f"{organization}/{name}", now)
        return next(iter(self._read([document])), None) if document else None

    async def create(self, agent: AgentSettings, now: float) -> StoredAgent | None:
        """Keeps a new agent; None where there is one of its name, whichever worker made it."""
        kept = StoredAgent(agent, created_at=now, updated_at=now)
        made = await self._documents.put_if_absent(DOCUMENT_KIND, _name(agent), _written(kept), now=now)
        return kept if made else None

    async def update(self, before: StoredAgent, agent: AgentSettings, now: float) -> StoredAgent:
        """Writes an agent's settings in place of those before; of two writers at once the later one wins."""
        kept = StoredAgent(agent, created_at=before.created_at, updated_at=now)
        await self._documents.put(DOCUMENT_KIND, _name(agent), _written(kept), now=now)
        return kept

    async def delete(self, organization: str, name: str) -> bool:
        """Forgets an agent; whether there was one. Its sessions go on to their end."""
        return await self._documents.delete(DOCUMENT_KIND, f"{organization}/{name}")

    def _read(self, documents: list[StoredValue] | tuple[StoredValue, ...]) -> list[StoredAgent]:
        return [agent for document in documents if (agent := self._of(document))]

    def _of(self, document: StoredValue) -> StoredAgent | None:
        value = json.loads(document.value)
        fault = ""
        try:
            agent = fit(value["settings"], self._settings)
        except (InvalidAgent, ForbiddenInstance) as error:
            fault = str(error)
            try:
                agent = AgentSettings.model_validate(value["settings"])
            except ValidationError:  # another version of the gateway may have written it
                log.warning("kept agent", agent=document.key, fault=fault)
                return None
        return StoredAgent(agent, value["created_at"], value["updated_at"], fault)


def _name(agent: AgentSettings) -> str:
    return f"{agent.organization}/{agent.name}"


def _written(kept: StoredAgent) -> str:
    return json.dumps(
        {
            "settings": kept.settings.model_dump(mode="json"),
            "created_at": kept.created_at,
            "updated_at": kept.updated_at,
        }
    )
