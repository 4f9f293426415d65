# SPDX-License-Identifier: BSD-2-Clause
"""Agents that were created through the API, and what it has changed of agents in the configuration file.

Both are stored, and checked each time they are read (agent_rules.py), because the configuration may have
changed since: an agent whose organisation, region or instances the operator removed stays in the store, but
gets no calls; an agent of the file whose changes fit no more is served as the file says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic import ValidationError

from gateway.agents.agent_rules import OF_STARTED, Forbidden, InvalidAgent, fit, fit_changes, with_changes
from gateway.agents.deployments import (
    CurrentDeployment,
    Deployment,
    Deployments,
    Turn,
    configured_deployment,
    deployment_at,
    first_deployment,
    with_turn,
)
from gateway.agents.directory import AgentDirectory
from gateway.agents.health_check import health_checks
from gateway.config import AgentSettings
from gateway.model.addresses import service_host
from gateway.store.interface import Store, StoredValue
from gateway.store.notifications import Topic

if TYPE_CHECKING:  # `patchbay check` reads what is stored, and asks no instance
    from gateway.agents.instance_health import InstanceHealth

log = structlog.get_logger(__name__)

DOCUMENT_KIND: Final = "agent"

CHANGES_KIND: Final = "agent_changes"
"""The kind of the changes of agents in the configuration file."""


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """An agent of the store, or one of the configuration file that the API has changed.

    Times are Unix seconds. `deployment`: the one that these settings are of. `turns`: which one was current
    since when, oldest first. `changes`: what was changed of an agent in the file, a table like one of
    `[[agents]]`; None for an agent of the store. `fault`: why an agent of the store gets no calls, or why
    changes are not in force; "" if all is well.
    """

    settings: AgentSettings
    created_at: float
    updated_at: float
    deployment: CurrentDeployment
    turns: tuple[Turn, ...] = ()
    fault: str = ""
    changes: Mapping[str, Any] | None = None

    @property
    def deployments_key(self) -> str:
        """The key of its deployments in the store, without their numbers."""
        key = storage_key(self.settings)
        return key if self.changes is None else f"{key}~file"

    @property
    def all_turns(self) -> tuple[Turn, ...]:
        """The turns; of an agent that an earlier version stored, the one that there was."""
        return self.turns or (Turn(self.created_at, self.deployment.id),)

    def deployment_at(self, at: float) -> str | None:
        """Return the id of the deployment that was current at a time, in Unix seconds; None if unknown."""
        return deployment_at(self.all_turns, at)


def unchanged(configured: AgentSettings, read_at: float) -> StoredAgent:
    """Return an agent of the configuration file that is as there. `read_at`: since when, in Unix seconds."""
    current = configured_deployment(storage_key(configured), read_at)
    return StoredAgent(configured, read_at, read_at, current, (Turn(0.0, current.id),), "", {})


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
            values = await self._values.list(DOCUMENT_KIND, now)
            if any(agent.command for agent in self._directory.settings.agents):
                values = (*values, *await self._values.list(CHANGES_KIND, now))
            self._directory.stored_values = values
            self.fit_again(health)

    def fit_again(self, health: InstanceHealth) -> None:
        """Give this worker's calls the stored agents as they were read last, and fit the settings now."""
        directory = self._directory
        stored = [agent for agent in self._read(directory.stored_values) if not agent.fault]
        directory.refresh(
            (agent.settings for agent in stored if agent.changes is None),
            changed=(agent.settings for agent in stored if agent.changes is not None),
            deployments={agent.settings.service_host: agent.deployment for agent in stored},
        )
        health.watch(health_checks(directory.agents_here))

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

    async def all_changed(self, organization: str, now: float) -> list[StoredAgent]:
        """Return an organisation's agents of the configuration file that the API has changed."""
        return self._read(await self._values.list(CHANGES_KIND, now, prefix=f"{organization}/"))

    async def get_changed(self, configured: AgentSettings, now: float) -> StoredAgent | None:
        """Return an agent of the configuration file as the API has changed it, None if it has not."""
        value = await self._values.get(CHANGES_KIND, storage_key(configured), now)
        return next(iter(self._read([value])), None) if value else None

    async def create(self, agent: AgentSettings, now: float) -> StoredAgent | None:
        """Store a new agent. Return None if there is one of its name, whichever worker created it."""
        deployment = Deployment.first(table_of(agent), now)
        current = deployment.as_current
        created = StoredAgent(agent, now, now, current, with_turn((), current, now))
        key = storage_key(agent)
        is_new = await self._values.put_if_absent(DOCUMENT_KIND, key, _as_json(created), now=now)
        if is_new:
            await self.deployments.put(key, deployment, now)
        self._notifications.publish(Topic.AGENTS_CHANGED, key)
        return created if is_new else None

    async def update(
        self, before: StoredAgent, given: Mapping[str, Any], now: float, *, forced: bool = False
    ) -> StoredAgent:
        """Change an agent by a new deployment and return it. Of two at once the later one wins.

        `given`: some keys of `[[agents]]`. `forced`: whether there is a new deployment also if nothing
        differs; else `before` is returned then. Raises InvalidAgent, Forbidden.
        """
        if before.changes is None:
            after = self._fitted(before, with_changes(before.settings.model_dump(), given))
        else:
            after = self._fitted(before, with_changes(before.changes, given))
        changed = changed_keys(table_of(before.settings), table_of(after.settings))
        if not changed and not forced:
            return before
        await self._put_missing(before, now)
        made = await self.deployments.add(
            before.deployments_key, before.deployment, _written(after), changed, now
        )
        return await self._make_current(after, made.as_current, now)

    async def activate(self, before: StoredAgent, deployment: Deployment, now: float) -> StoredAgent:
        """Make an earlier deployment current again. Raises InvalidAgent, Forbidden: it fits no more."""
        after = self._fitted(before, deployment.settings)
        await self._put_missing(before, now)
        return await self._make_current(after, deployment.as_current, now)

    def _fitted(self, agent: StoredAgent, written: Mapping[str, Any]) -> StoredAgent:
        """Return the agent with what a deployment has: its settings, or what is changed of the file's."""
        settings = self._directory.settings
        if agent.changes is None:
            return dataclasses.replace(agent, settings=fit(written, settings))
        configured = settings.find_agent(agent.settings.service_host)
        if configured is None:
            raise Forbidden("command: the configuration file has no such agent any more")
        fitted = fit_changes(configured, written, settings)
        return dataclasses.replace(agent, settings=fitted, changes=written)

    async def _put_missing(self, agent: StoredAgent, now: float) -> None:
        if agent.deployment.number:
            await self.deployments.put_missing(agent.deployments_key, _deployment_of(agent), now)

    async def _make_current(self, agent: StoredAgent, current: CurrentDeployment, now: float) -> StoredAgent:
        turns = with_turn(agent.all_turns, current, now)
        updated = dataclasses.replace(agent, updated_at=now, deployment=current, turns=turns, fault="")
        kind = DOCUMENT_KIND if agent.changes is None else CHANGES_KIND
        key = storage_key(agent.settings)
        await self._values.put(kind, key, _as_json(updated), now=now)
        self._notifications.publish(Topic.AGENTS_CHANGED, key)
        return updated

    async def deployments_of(self, agent: StoredAgent, now: float) -> list[Deployment]:
        """Return an agent's deployments, the newest first; the current one is always among them."""
        found = await self.deployments.of(agent.deployments_key, now)
        if agent.deployment.number and all(each.id != agent.deployment.id for each in found):
            found = sorted([*found, _deployment_of(agent)], key=lambda each: each.number, reverse=True)
        if agent.changes is not None:
            found.append(Deployment.of_file(storage_key(agent.settings)))
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
        if stored.kind == CHANGES_KIND:
            return self._parse_changes(stored.key, value)
        fault = ""
        try:
            agent = fit(value["settings"], self._directory.settings)
        except (InvalidAgent, Forbidden) as error:
            fault = str(error)
            try:
                agent = AgentSettings.model_validate(value["settings"])
            except ValidationError:  # another version of the gateway may have written it
                log.warning("kept agent", agent=stored.key, fault=fault)
                return None
        created_at = value["created_at"]
        current = value.get("deployment")
        deployment = CurrentDeployment(**current) if current else first_deployment(stored.key, created_at)
        return StoredAgent(agent, created_at, value["updated_at"], deployment, _turns(value), fault)

    def _parse_changes(self, key: str, value: Mapping[str, Any]) -> StoredAgent | None:
        organization, _, name = key.partition("/")
        agent = self._directory.settings.find_agent(service_host(name, organization))
        if agent is None or not agent.command:
            return None
        changes, fault = value["changes"], ""
        try:
            agent = fit_changes(agent, changes, self._directory.settings)
        except (InvalidAgent, Forbidden) as error:
            fault = str(error)
        deployment = CurrentDeployment(**value["deployment"])
        times = (value["created_at"], value["updated_at"])
        return StoredAgent(agent, *times, deployment, _turns(value), fault, changes)


def storage_key(agent: AgentSettings) -> str:
    """Return the key of an agent in the store: ORGANIZATION/NAME."""
    return f"{agent.organization}/{agent.name}"


def table_of(agent: AgentSettings) -> dict[str, Any]:
    """Return an agent's settings as a table like one of `[[agents]]`, of what JSON has.

    Without a command it has no key that goes with one: an earlier version, which may run beside this one on
    the same store, does not know them.
    """
    return agent.model_dump(mode="json", exclude=None if agent.command else set(OF_STARTED))


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys whose values differ, sorted; of variables each by itself, as in `environment.NAME`."""
    old, new = _flat(before), _flat(after)
    return tuple(sorted(key for key in old.keys() | new.keys() if old.get(key, _NONE) != new.get(key, _NONE)))


_NONE: Final = object()


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in table.items() if not isinstance(value, dict)}
    for key, value in table.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": each for name, each in value.items()})
    return flat


def _written(agent: StoredAgent) -> Mapping[str, Any]:
    """Return what is stored of an agent's settings."""
    return table_of(agent.settings) if agent.changes is None else agent.changes


def _as_json(agent: StoredAgent) -> str:
    return json.dumps(
        {
            "settings" if agent.changes is None else "changes": _written(agent),
            "created_at": agent.created_at,
            "updated_at": agent.updated_at,
            "deployment": dataclasses.asdict(agent.deployment),
            "turns": [(turn.at, turn.deployment) for turn in agent.turns],
        }
    )


def _turns(value: Mapping[str, Any]) -> tuple[Turn, ...]:
    return tuple(Turn(at, deployment) for at, deployment in value.get("turns", ()))


def _deployment_of(agent: StoredAgent) -> Deployment:
    """Return the deployment that an agent's settings are of, for one that the store does not have."""
    current = agent.deployment
    created_at = agent.created_at if current.created_at is None else current.created_at
    return Deployment(current.id, current.number, current.program, created_at, (), _written(agent))
