# SPDX-License-Identifier: BSD-2-Clause
"""The agent directory: which agents exist, and which one a call is for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from gateway.agents.deployments import CurrentDeployment, configured_deployment
from gateway.agents.instance_sources import sources_of, with_found
from gateway.config import AgentSettings, Settings
from gateway.config.agent_paths import DEFAULT_MEDIA_PATH
from gateway.model import addresses
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.interface import StoredValue

MAX_FORMER_PATHS: Final = 16
MAX_FORMER_AGENTS: Final = 1000
"""How many media paths are remembered that an agent has had, and of how many agents that were removed."""

_MIN_NATIONAL_DIGITS = 7


class AgentDirectory:
    """The agents of one worker, configured and stored, and the table of called numbers."""

    def __init__(self, settings: Settings) -> None:
        """List the configured agents; `refresh` adds the stored ones."""
        self._written: dict[str, AgentSettings] = {}  # with the sources of instances as they were written
        self._agents: dict[str, AgentSettings] = {}  # with what the sources have found
        self._found: dict[str, tuple[str, ...]] = {}  # URLs by source
        self._deployments: Mapping[str, CurrentDeployment] = {}  # by service host, where it is not the file
        self._media_paths: dict[str, dict[str, None]] = {}  # by service host, the latest last
        self.source_faults: dict[str, str] = {}
        """Why what a source has found may be old, or nothing, as in "there is no such name"; by source."""
        self.on_refresh: Callable[[], None] | None = None
        """Called after each change of the agents, other than of what their sources have found."""
        self.refreshing = asyncio.Lock()
        """Held from the read of the stored agents until `refresh`, so that an older read cannot come last."""
        self.stored_values: Sequence[StoredValue] = ()
        """The stored agents as they were read last."""
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Replace the configuration, and with it the configured agents. Call `refresh` after it."""
        self.settings = settings
        """The settings of this worker. They change while it runs: do not keep them."""
        self._configured = {agent.service_host: agent for agent in settings.agents}
        self._numbers = {addresses.digits_of(route.number): route.agent for route in settings.numbers}
        self._elsewhere = {region.code: region.url for region in settings.regions if region.url}
        self._elsewhere.pop(settings.server.region, None)
        self.refresh(())

    @property
    def agents(self) -> Iterable[AgentSettings]:
        """All agents, each with the instances that it has now."""
        return self._agents.values()

    @property
    def written_agents(self) -> Iterable[AgentSettings]:
        """All agents, each with its instances as they were written: URLs, and sources of them."""
        return self._written.values()

    @property
    def agents_here(self) -> Iterable[AgentSettings]:
        """The agents whose instances this gateway uses: all but those that another region's gateway has."""
        return [agent for agent in self._agents.values() if agent.region not in self._elsewhere]

    @property
    def written_here(self) -> Iterable[AgentSettings]:
        """The same agents, with their instances as they were written."""
        return [agent for agent in self._written.values() if agent.region not in self._elsewhere]

    @property
    def has_gateways_elsewhere(self) -> bool:
        """Whether the agents of any region are another gateway's."""
        return bool(self._elsewhere)

    def gateway_in(self, region: str) -> str | None:
        """Return the URL of the gateway that serves a region, None if it is this one."""
        return self._elsewhere.get(region)

    def refresh(
        self,
        stored: Iterable[AgentSettings],
        *,
        changed: Iterable[AgentSettings] = (),
        deployments: Mapping[str, CurrentDeployment] | None = None,
    ) -> None:
        """Replace the stored agents. Of two agents with the same service host the configured one is kept.

        `changed`: configured agents with what the API has changed of them. `deployments`: of which deployment
        the stored and the changed agents are, by service host.
        """
        self._written = {
            **{agent.service_host: agent for agent in stored},
            **self._configured,
            **{agent.service_host: agent for agent in changed},
        }
        self._deployments = deployments or {}
        self._agents = {host: with_found(agent, self._found) for host, agent in self._written.items()}
        self._remember_media_paths()
        if self.on_refresh is not None:
            self.on_refresh()

    def deployment_of(self, agent: AgentSettings) -> CurrentDeployment:
        """Return the deployment that an agent's settings are of. Its instances are started of that one."""
        found = self._deployments.get(agent.service_host)
        return found or configured_deployment(f"{agent.organization}/{agent.name}")

    def replace_found(self, source: str, urls: Iterable[str]) -> bool:
        """Replace the instances that a source has found. Return False if they are as before.

        What a source has found stays known without an agent that names it, until this replaces it by nothing.
        """
        found = tuple(dict.fromkeys(urls))
        if found == self._found.get(source, ()):
            return False
        self._found[source] = found
        if not found:
            del self._found[source]
        for host, agent in self._written.items():
            if source in sources_of((agent,)):
                self._agents[host] = with_found(agent, self._found)
        return True

    def media_paths(self, service_host: str) -> Iterable[str]:
        """Return each `media_path` that the agent `AGENT.ORG` has or had, `/ws` left out.

        Sessions may still run that began when it had another, or before it was removed.
        """
        return self._media_paths.get(service_host, ())

    def _remember_media_paths(self) -> None:
        for service_host, agent in self._agents.items():
            if agent.media_path != DEFAULT_MEDIA_PATH:
                paths = self._media_paths.pop(service_host, {})
                paths.pop(agent.media_path, None)
                self._media_paths[service_host] = paths | {agent.media_path: None}
                if len(paths) >= MAX_FORMER_PATHS:
                    del self._media_paths[service_host][next(iter(paths))]
        former = [service_host for service_host in self._media_paths if service_host not in self._agents]
        for service_host in former[:-MAX_FORMER_AGENTS]:
            del self._media_paths[service_host]

    def is_configured(self, service_host: str) -> bool:
        """Return True if the agent is in the configuration, so that the API cannot change it."""
        return service_host in self._configured

    def find(self, service_host: str) -> AgentSettings | None:
        """Return the agent `AGENT.ORG` as it is now, or None."""
        return self._agents.get(service_host)

    def of_organization(self, organization: str, name: str) -> AgentSettings:
        """Return the organisation's agent of this name, in any region that this gateway serves.

        Raises CallEnded: unknown_agent, wrong_region.
        """
        agent = self._agents.get(addresses.service_host(name, organization))
        if agent is None:
            raise CallEnded(Reasons.unknown_agent, "there is no agent of this name")
        self._check_is_here(agent)
        return agent

    def agent(self, service_host: str, region: str | None) -> AgentSettings:
        """Return the agent `AGENT.ORG`. `region`: the region of the request, None for any.

        Raises CallEnded: unknown_agent, wrong_region.
        """
        agent = self._agents.get(service_host)
        if agent is None:
            raise CallEnded(Reasons.unknown_agent, f"no agent {service_host} is configured")
        if region is not None and agent.region != region:
            raise CallEnded(Reasons.wrong_region, f"{service_host} is not in {region}")
        self._check_is_here(agent)
        return agent

    def _check_is_here(self, agent: AgentSettings) -> None:
        if agent.region in self._elsewhere:
            detail = f"{agent.service_host} is in {agent.region}, which another gateway serves"
            raise CallEnded(Reasons.wrong_region, detail)

    def named(self, service_hosts: Iterable[str], region: str | None) -> AgentSettings | None:
        """Return the agent that a request names, maybe in several places; None if it names none.

        Raises CallEnded: bad_request if it names two different agents, and as `agent` does.
        """
        different = sorted(set(service_hosts))
        if len(different) > 1:
            raise CallEnded(Reasons.bad_request, f"two agents are named: {' and '.join(different)}")
        return self.agent(different[0], region) if different else None

    def called(self, number: str | None, region: str | None) -> AgentSettings:
        """Return the agent of a called number, for a request that names no agent.

        Raises CallEnded: bad_request if the number is not known, unknown_agent if no agent has it, and as
        `agent` does.
        """
        if number is None:
            raise CallEnded(
                Reasons.bad_request, "no agent is named: neither path, query nor parameter has AGENT.ORG"
            )
        digits = addresses.digits_of(number)
        service_host = self._numbers.get(digits) or self._by_national_number(digits)
        if service_host is None:
            raise CallEnded(
                Reasons.unknown_agent, "no agent is named, and none is configured for the called number"
            )
        return self.agent(service_host, region)

    def _by_national_number(self, digits: str) -> str | None:
        """Return the service host of the one configured number that ends with these digits, or None.

        Exotel writes 0… for +91… (docs/reference/carriers.md §5.2).
        """
        if not digits.startswith("0"):
            return None
        national = digits.lstrip("0")
        if len(national) < _MIN_NATIONAL_DIGITS:
            return None
        service_hosts = {host for called, host in self._numbers.items() if called.endswith(national)}
        return service_hosts.pop() if len(service_hosts) == 1 else None
