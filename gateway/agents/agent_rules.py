# SPDX-License-Identifier: BSD-2-Clause
"""Rules for agents of the API: checked as the configuration checks its own, and for what a key may say.

An instance decides where the gateway connects, and a command what it runs, so both are the operator's. What
the holder of a private key may change of an agent that a command of the operator's runs: its numbers, never
more instances than the file allows, and the values of those variables that the file names. A variable of any
other name may run a program, too (BASH_ENV, NODE_OPTIONS, LD_PRELOAD). `[server] api_may_set_commands`
and `api_may_set_instances` lift this (docs/decisions/0087-what-the-api-may-run.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from gateway.config import AgentSettings, Settings
from gateway.config.consistency import Location, find_contradictions, format_path
from gateway.config.problems import message_of

NUMBERS: Final = frozenset(
    {
        "buffer",
        "cooldown",
        "idle_timeout",
        "max_agents",
        "max_session_duration",
        "min_agents",
        "recycle_above_mb",
        "recycle_after_sessions",
        "start_limit",
        "stop_grace",
    }
)
"""The keys of `[[agents]]` that may be changed of an agent in the file that has a command."""

ENVIRONMENT: Final = "environment"
COMMAND: Final = frozenset({"command", "cwd"})
"""The keys that say what is run."""

OF_STARTED: Final = frozenset(
    {
        *COMMAND,
        ENVIRONMENT,
        "buffer",
        "cooldown",
        "log_folder",
        "ports",
        "recycle_above_mb",
        "recycle_after_sessions",
        "start_limit",
        "stop_grace",
        "user",
    }
)
"""The keys that mean nothing without a command."""

_LOCATION: Final = ("agents", 0)
"""The location of the one agent in the tables that the configuration's checks get."""


class InvalidAgent(ValueError):  # noqa: N818 - an answer, not a fault
    """An agent's settings are invalid. `problems`: at least one key of `[[agents]]` and its problem."""

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{key}: {what}" for key, what in problems))
        self.problems = problems


class Forbidden(ValueError):  # noqa: N818 - an answer, not a fault
    """The operator does not let the API make this of an agent. `str()` begins with the key."""


class OnlyInFile(Forbidden):
    """This of an agent changes only in the configuration file."""


def fit(table: Mapping[str, Any], settings: Settings) -> AgentSettings:
    """Return the settings in a table like one of `[[agents]]`, checked against the rest of the configuration.

    Raises InvalidAgent, Forbidden.
    """
    agent = settings.with_defaults(_validated(table))
    problems = _contradictions(agent, settings)
    if not settings.organizations:  # then the configuration does not list the organisations of its own agents
        problems = (*problems, ("organization", f"there is no organisation {agent.organization!r}"))
    if problems:
        raise InvalidAgent(problems)
    _check_instances(agent, settings)
    if agent.command and not settings.server.api_may_set_commands:
        raise Forbidden(f"command: {_NO_COMMANDS}")
    return agent


def fit_changes(configured: AgentSettings, changes: Mapping[str, Any], settings: Settings) -> AgentSettings:
    """Return an agent of the configuration file with what the API has changed of it.

    `changes`: a table like one of `[[agents]]` with some of its keys. Raises InvalidAgent, Forbidden.
    """
    _check_changes(configured, changes, settings)
    agent = _validated(with_changes(configured.model_dump(), changes))
    if problems := _contradictions(agent, settings):
        raise InvalidAgent(problems)
    return agent


def with_changes(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of an agent with changes. Variables are changed one by one; None removes one.

    Instances that are named take the place of a command, and a command that of instances.
    """
    made = {**table, **changes}
    if "command" in changes and "instances" not in changes:
        made.pop("instances", None)
    elif "instances" in changes and "command" not in changes:
        made = {key: value for key, value in made.items() if key not in OF_STARTED}
    if ENVIRONMENT in changes:
        variables = {**table.get(ENVIRONMENT, {}), **changes[ENVIRONMENT]}
        made[ENVIRONMENT] = {name: value for name, value in variables.items() if value is not None}
    return made


_NO_COMMANDS: Final = (
    "what the gateway runs stands in its configuration, and the API may set it only where "
    "server.api_may_set_commands is true"
)


def _check_changes(configured: AgentSettings, changes: Mapping[str, Any], settings: Settings) -> None:
    others = changes.keys() - NUMBERS - COMMAND - {ENVIRONMENT}
    if others or not configured.command:
        raise OnlyInFile(
            f"{', '.join(sorted(others)) or 'command'}: {configured.service_host} stands in the gateway's "
            "configuration file; this changes only there"
        )
    if settings.server.api_may_set_commands:
        return
    if commands := sorted(COMMAND & changes.keys()):
        raise Forbidden(f"{', '.join(commands)}: {_NO_COMMANDS}")
    unnamed = sorted(changes.get(ENVIRONMENT, {}).keys() - configured.environment.keys())
    if unnamed:
        raise Forbidden(
            f"environment: the configuration names no variable {', '.join(unnamed)} for this agent, and "
            "others may be set only where server.api_may_set_commands is true"
        )
    if changes.get("max_agents", 0) > configured.max_agents:
        raise Forbidden(f"max_agents: the configuration allows at most {configured.max_agents}")


def _validated(table: Mapping[str, Any]) -> AgentSettings:
    try:
        return AgentSettings.model_validate(dict(table))
    except ValidationError as error:
        raise InvalidAgent(
            tuple(
                (format_path(each["loc"]), message_of((*_LOCATION, *each["loc"]), each))
                for each in error.errors()
            )
        ) from None


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
        raise Forbidden(
            "instances: the configuration lists no such instance for this organisation, and other ones may "
            "be used only where server.api_may_set_instances is true"
        )
