# SPDX-License-Identifier: BSD-2-Clause
"""Agents that were created through the API: they are stored, and checked as the configuration checks its own.

They are checked each time they are read, because the configuration may have changed since: an agent whose
organisation, region or instances the operator removed stays in the store, but gets no calls.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic import ValidationError

from gateway.agents.deployments import (
    CurrentDeployment,
    Deployment,
    Deployments,
    Turn,
    deployment_at,
    first_deployment,
    with_turn,
)
from gateway.agents.directory import AgentDirectory
from gateway.agents.health_check import health_checks
from gateway.config import AgentSettings, Settings
from gateway.config.consistency import Location, find_contradictions, format_path
from gateway.config.problems import message_of
from gateway.store.interface import Store, StoredValue
from gateway.store.notifications import Topic

if TYPE_CHECKING:  # `patchbay check` reads what is stored, and asks no instance
    from gateway.agents.instance_health import InstanceHealth

log = structlog.get_logger(__name__)

DOCUMENT_KIND: Final = "agent"

_LOCATION: Final = ("agents", 0)
"""The location of the one agent in the tables that the configuration's checks get."""


class InvalidAgent(ValueError):  # noqa: N818 - an answer, not a fault
    """An agent's settings are invalid. `problems`: at least one key of `[[agents]]` and its problem."""

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{key}: {what}" for key, what in problems))
        self.problems = problems


class ForbiddenInstance(ValueError):  # noqa: N818 - an answer, not a fault
    """An agent has an instance that the operator did not configure, and the API may not set others."""


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """An agent of the store. Times are Unix seconds. `fault`: why it gets no calls; "" if it gets calls.

    `deployment`: the one that these settings are of. `turns`: which one was current since when, oldest first.
    """

    settings: AgentSettings
    created_at: float
    updated_at: float
    deployment: CurrentDeployment
    turns: tuple[Turn, ...] = ()
    fault: str = ""

    def deployment_at(self, at: float) -> str | None:
        """Return the id of the deployment that was current at a time, in Unix seconds; None if unknown."""
        return deployment_at(self.turns or (Turn(self.created_at, self.deployment.id),), at)


def fit(table: Mapping[str, Any], settings: Settings) -> AgentSettings:
    """Return the settings in a table like one of `[[agents]]`, checked against the rest of the configuration.

    Raises InvalidAgent, ForbiddenInstance.
    """
    try:
        agent = AgentSettings.model_validate(dict(table))
    except ValidationError as error:
        raise InvalidAgent(
            tuple(
                (format_path(each["loc"]), message_of((*_LOCATION, *each["loc"]), each))
                for each in error.errors()
            )
        ) from None
    agent = settings.with_defaults(agent)
    problems = _contradictions(agent, settings)
    if not settings.organizations:  # then the configuration does not list the organisations of its own agents
        problems = (*problems, ("organization", f"there is no organisation {agent.organization!r}"))
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
    return format_path(location[len(_LOCATION) :])


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
            "be used only where server.api_may_set_instances is true"
        )


class StoredAgents:
    """The agents of the store. The asynchronous methods raise StoreFailed if the store does not answer."""

    def __init__(self, directory: AgentDirectory, store: Store) -> None:
        """`directory`: of this worker's agents. Its settings are those that stored agents must fit."""
        self._directory = directory
        self._values = store.key_values
        self._notifications = store.notifications
        self.deployments = Deployments(store.key_values)

    async def refresh(self, health: InstanceHealth, now: float) -> None:
        """Give this worker's calls the agents as they are stored now. Call it after every change."""
        async with self._directory.refreshing:
            self._directory.stored_values = await self._values.list(DOCUMENT_KIND, now)
            self.fit_again(health)

    def fit_again(self, health: InstanceHealth) -> None:
        """Give this worker's calls the stored agents as they were read last, and fit the settings now."""
        directory = self._directory
        stored = self._read(directory.stored_values)
        directory.refresh(agent.settings for agent in stored if not agent.fault)
        health.watch(health_checks(directory.agents))

    async def all(self, now: float) -> list[StoredAgent]:
        """Return the agents of all organisations."""
        return self._read(await self._values.list(DOCUMENT_KIND, now))

    async def of(self, organization: str, now: float) -> list[StoredAgent]:
        """Return an organisation's agents, sorted by name."""
        return self._read(await self._values.list(DOCUMENT_KIND, now, prefix=f"{organization}/"))

    async def get(self, organization: str, name: str, now: float) -> StoredAgent | None:
        """Return one agent, or None."""
        value = await self._values.get(DOCUMENT_KIND, f"{organization}/{name}", now)
        return next(iter(self._read([value])), None) if value else None

    async def create(self, agent: AgentSettings, now: float) -> StoredAgent | None:
        """Store a new agent. Return None if there is one of its name, whichever worker created it."""
        deployment = Deployment.first(table_of(agent), now)
        current = deployment.as_current
        created = StoredAgent(agent, now, now, current, with_turn((), current, now))
        is_new = await self._values.put_if_absent(
            DOCUMENT_KIND, storage_key(agent), _as_json(created), now=now
        )
        if is_new:
            await self.deployments.put(storage_key(agent), deployment, now)
        self._notifications.publish(Topic.AGENTS_CHANGED, storage_key(agent))
        return created if is_new else None

    async def update(
        self, before: StoredAgent, agent: AgentSettings, now: float, *, forced: bool = False
    ) -> StoredAgent:
        """Replace an agent's settings by a new deployment and return it. Of two at once the later one wins.

        `forced`: whether there is a new deployment also if nothing differs; else there is none then.
        """
        settings, key = table_of(agent), storage_key(agent)
        changed = changed_keys(table_of(before.settings), settings)
        if not changed and not forced:
            return before
        await self.deployments.put_missing(key, _deployment_of(before), now)
        deployment = await self.deployments.add(key, before.deployment, settings, changed, now)
        return await self._make_current(before, agent, deployment.as_current, now)

    async def activate(self, before: StoredAgent, deployment: Deployment, now: float) -> StoredAgent:
        """Make an earlier deployment current again. Raises InvalidAgent, ForbiddenInstance: not any more."""
        agent = fit(deployment.settings, self._directory.settings)
        await self.deployments.put_missing(storage_key(agent), _deployment_of(before), now)
        return await self._make_current(before, agent, deployment.as_current, now)

    async def _make_current(
        self, before: StoredAgent, agent: AgentSettings, current: CurrentDeployment, now: float
    ) -> StoredAgent:
        turns = with_turn(before.turns or (Turn(before.created_at, before.deployment.id),), current, now)
        updated = StoredAgent(agent, before.created_at, now, current, turns)
        await self._values.put(DOCUMENT_KIND, storage_key(agent), _as_json(updated), now=now)
        self._notifications.publish(Topic.AGENTS_CHANGED, storage_key(agent))
        return updated

    async def deployments_of(self, agent: StoredAgent, now: float) -> list[Deployment]:
        """Return an agent's deployments, the newest first; the current one is always among them."""
        found = await self.deployments.of(storage_key(agent.settings), now)
        if all(each.id != agent.deployment.id for each in found):
            found = sorted([*found, _deployment_of(agent)], key=lambda each: each.number, reverse=True)
        return found

    async def delete(self, organization: str, name: str, now: float) -> bool:
        """Delete an agent. Return False if there was none. Its running sessions go on to their end."""
        deleted = await self._values.delete(DOCUMENT_KIND, f"{organization}/{name}")
        if deleted:
            await self.deployments.remove_all(f"{organization}/{name}", now)
        self._notifications.publish(Topic.AGENTS_CHANGED, f"{organization}/{name}")
        return deleted

    def _read(self, values: Iterable[StoredValue]) -> list[StoredAgent]:
        return [agent for value in values if (agent := self._parse(value))]

    def _parse(self, stored: StoredValue) -> StoredAgent | None:
        value = json.loads(stored.value)
        fault = ""
        try:
            agent = fit(value["settings"], self._directory.settings)
        except (InvalidAgent, ForbiddenInstance) as error:
            fault = str(error)
            try:
                agent = AgentSettings.model_validate(value["settings"])
            except ValidationError:  # another version of the gateway may have written it
                log.warning("kept agent", agent=stored.key, fault=fault)
                return None
        current = value.get("deployment")
        created_at = value["created_at"]
        return StoredAgent(
            agent,
            created_at,
            value["updated_at"],
            CurrentDeployment(**current) if current else first_deployment(stored.key, created_at),
            tuple(Turn(at, deployment) for at, deployment in value.get("turns", ())),
            fault,
        )


def storage_key(agent: AgentSettings) -> str:
    """Return the key of an agent in the store: ORGANIZATION/NAME."""
    return f"{agent.organization}/{agent.name}"


def _as_json(agent: StoredAgent) -> str:
    return json.dumps(
        {
            "settings": table_of(agent.settings),
            "created_at": agent.created_at,
            "updated_at": agent.updated_at,
            "deployment": dataclasses.asdict(agent.deployment),
            "turns": [(turn.at, turn.deployment) for turn in agent.turns],
        }
    )


def table_of(agent: AgentSettings) -> dict[str, Any]:
    """Return an agent's settings as a table like one of `[[agents]]`, of what JSON has."""
    return agent.model_dump(mode="json")


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys whose values differ, sorted."""
    return tuple(sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)))


def _deployment_of(agent: StoredAgent) -> Deployment:
    """Return the deployment that an agent's settings are of, for one that the store does not have."""
    current = agent.deployment
    return Deployment(
        current.id,
        current.number,
        current.program,
        agent.created_at if current.created_at is None else current.created_at,
        (),
        table_of(agent.settings),
    )
