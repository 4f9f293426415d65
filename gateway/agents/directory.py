# SPDX-License-Identifier: BSD-2-Clause
"""Which agents exist, and which one a call is for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.config import AgentSettings, Settings
from gateway.model.addresses import digits_of
from gateway.model.reasons import CallEnded, Reasons

_FEWEST_NATIONAL_DIGITS = 7


class AgentDirectory:
    """The agents, configured and kept in the store, and the table of called numbers."""

    def __init__(self, settings: Settings) -> None:
        self._configured = {agent.service_host: agent for agent in settings.agents}
        self._agents = dict(self._configured)
        self.refreshing = asyncio.Lock()
        """Held from reading the kept agents to `refresh`, so that an older reading never comes last."""
        self._numbers = {digits_of(route.number): route.agent for route in settings.numbers}

    @property
    def agents(self) -> Iterable[AgentSettings]:
        """Every agent there is."""
        return self._agents.values()

    def refresh(self, kept: Iterable[AgentSettings]) -> None:
        """These are the agents now, beside the configured ones, which win where both have a name."""
        self._agents = {**{agent.service_host: agent for agent in kept}, **self._configured}

    def is_configured(self, service_host: str) -> bool:
        """Whether the configuration has this agent, which then only it can change."""
        return service_host in self._configured

    def find(self, service_host: str) -> AgentSettings | None:
        """Return the agent `AGENT.ORG` as it is now, or None."""
        return self._agents.get(service_host)

    def agent(self, service_host: str, region: str | None) -> AgentSettings:
        """The agent AGENT.ORG, asked for in `region`, None for any.

        Raises CallEnded: unknown_agent, wrong_region.
        """
        agent = self._agents.get(service_host)
        if agent is None:
            raise CallEnded(Reasons.unknown_agent, f"no agent {service_host} is configured")
        if region is not None and agent.region != region:
            raise CallEnded(Reasons.wrong_region, f"{service_host} is not in {region}")
        return agent

    def named(self, names: Iterable[str], region: str | None) -> AgentSettings | None:
        """The one agent that all the names name, None where there are none.

        Raises CallEnded: bad_request where two disagree, and as `agent` does.
        """
        different = sorted(set(names))
        if len(different) > 1:
            raise CallEnded(Reasons.bad_request, f"two agents are named: {' and '.join(different)}")
        return self.agent(different[0], region) if different else None

    def called(self, number: str | None, region: str | None) -> AgentSettings:
        """The agent behind a called number; the last resort, where nothing named one.

        Raises CallEnded: bad_request where no number is known, unknown_agent where none is configured for it.
        """
        if number is None:
            raise CallEnded(
                Reasons.bad_request, "no agent is named: neither path, query nor parameter has AGENT.ORG"
            )
        service_host = self._numbers.get(digits_of(number)) or self._by_national_number(number)
        if service_host is None:
            raise CallEnded(
                Reasons.unknown_agent, "no agent is named, and none is configured for the called number"
            )
        return self.agent(service_host, region)

    def _by_national_number(self, number: str) -> str | None:
        """Exotel writes 0… for +91… (docs/reference/carriers.md §5.2): the one number that ends with these
        digits.
        """
        if not number.startswith("0"):
            return None
        national = digits_of(number).lstrip("0")
        if len(national) < _FEWEST_NATIONAL_DIGITS:
            return None
        found = {agent for digits, agent in self._numbers.items() if digits.endswith(national)}
        return found.pop() if len(found) == 1 else None
