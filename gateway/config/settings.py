# SPDX-License-Identifier: BSD-2-Clause
"""The settings model: every value that an operator can set, with its unit, its default and its bounds.

Its tables are in process_settings.py, organization_settings.py and agent_settings.py. It reads neither file
nor environment: `gateway.config.load` does. The descriptions of the fields are the text of
docs/configuration.md. Names, limits and regions follow docs/reference/public-api.md ("Media sockets",
"Management").
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.config.agent_settings import AgentSettings, NumberRoute
from gateway.config.consistency import CROSS_CHECK, find_contradictions
from gateway.config.organization_settings import Organization
from gateway.config.process_settings import Limits, Server, StoreSettings
from gateway.config.values import BaseUrl, Label, Table, WebsocketAuth
from gateway.model.addresses import is_loopback


class Region(Table):
    """`[[regions]]`: a region that agents are in."""

    code: Label = Field(description="The region's label in host names, as in `eu-central.api.example.com`.")
    display_name: str = Field(min_length=1, description="The region's name for people.")
    url: BaseUrl | None = Field(
        default=None,
        description="The http(s) URL of the gateway that has the region's agents, as this one reaches it: "
        "API requests for them are passed on there ([cluster.md](cluster.md#regions)). It has no effect for "
        "the server's own region. Left out: this gateway has the region's agents, too.",
    )


def contract_regions() -> list[Region]:
    """Return the regions that apply if none is configured (docs/reference/public-api.md, "Management")."""
    return [
        Region(code="us-west", display_name="US West (Oregon)"),
        Region(code="us-east", display_name="US East (Virginia)"),
        Region(code="eu-central", display_name="Europe (Frankfurt)"),
        Region(code="ap-south", display_name="Asia Pacific (Mumbai)"),
    ]


class Settings(Table):
    """All settings of a gateway. They are consistent: every name that they refer to exists, and is unique."""

    server: Server = Field(default_factory=Server)
    store: StoreSettings = Field(default_factory=StoreSettings)
    regions: list[Region] = Field(default_factory=contract_regions)
    organizations: list[Organization] = Field(default_factory=list)
    agents: list[AgentSettings] = Field(default_factory=list)
    numbers: list[NumberRoute] = Field(default_factory=list)
    limits: Limits = Field(default_factory=Limits)

    def find_organization(self, name: str) -> Organization | None:
        """Return the organisation of this name, or None."""
        return next((organization for organization in self.organizations if organization.name == name), None)

    def find_agent(self, service_host: str) -> AgentSettings | None:
        """Return the configured agent `AGENT.ORG`, or None; the agents in the store are not known here."""
        return next((agent for agent in self.agents if agent.service_host == service_host), None)

    def with_defaults(self, agent: AgentSettings) -> AgentSettings:
        """Return an agent with what it leaves to the server: its region, and how its sockets authenticate."""
        return agent.with_defaults(self.server.region, self._websocket_auth(agent.organization))

    def is_closed_by_default(self, organization: str) -> bool:
        """Return True if the organisation's agents require authentication unless they say otherwise."""
        return self._websocket_auth(organization) != "none"

    def _websocket_auth(self, organization: str) -> WebsocketAuth:
        server, owner = self.server, self.find_organization(organization)
        if server.websocket_auth is not None:
            return server.websocket_auth
        # Calls that come through a proxy come from a loopback address, too. An organisation with accounts
        # there has said how they authenticate.
        is_authenticated = owner is not None and any(account.can_authenticate for account in owner.carriers)
        is_closed = not is_loopback(server.host) or (server.has_public_host and is_authenticated)
        return "required" if is_closed else "none"

    @field_validator("regions")
    @classmethod
    def _default_for_none(cls, regions: list[Region]) -> list[Region]:
        return regions or contract_regions()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        agents = [self.with_defaults(agent) for agent in self.agents]
        object.__setattr__(self, "agents", agents)  # the model is frozen from here on
        errors = [
            InitErrorDetails(
                type=PydanticCustomError(CROSS_CHECK, "{message}", {"message": message}), loc=loc, input=None
            )
            for loc, message in find_contradictions(self.model_dump())
        ]
        if errors:
            raise ValidationError.from_exception_data("Settings", errors, hide_input=True)
        return self
