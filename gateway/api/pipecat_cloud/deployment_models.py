# SPDX-License-Identifier: BSD-2-Clause
"""Models of an agent's deployments, as `pipecatcloud` 1.4.0 prints them, and more."""

from __future__ import annotations

import uuid
from typing import Final, Literal

from pydantic import Field

from gateway.agents.deployments import CurrentDeployment
from gateway.api.framework.strict_json import rfc3339_or_none
from gateway.api.pipecat_cloud.conventions import ResponseModel
from gateway.config import AgentSettings

_IDS: Final = uuid.UUID("6b6d2f0e-6f0a-5b0e-8f43-7d6f0c1c5a11")
"""The namespace of agents' ids, which are UUIDs of their service hosts (RFC 9562 §5.5)."""


def agent_id(service_host: str) -> str:
    """Return an agent's id, which every worker derives from its name."""
    return str(uuid.uuid5(_IDS, service_host))


class Replicas(ResponseModel):
    """Limits of the number of instances."""

    min_replicas: int = Field(description="Instances to keep ready, where the gateway starts them.")
    max_replicas: int = Field(description="Instances in use, or started, at the same time.")


class DeploymentSpec(ResponseModel):
    """The settings of a deployment that the CLI reads, or that Pipecat Cloud documents."""

    image: Literal["command"] | None = Field(
        description="`command` if the gateway starts the agent's instances itself; else null."
    )
    auto_scaling: Replicas
    max_session_duration_seconds: int


class DeploymentManifest(ResponseModel):
    """The manifest of a deployment."""

    spec: DeploymentSpec


class DeploymentView(ResponseModel):
    """A deployment: settings that the agent has or had."""

    id: str
    number: int = Field(
        description="From 1, in the order in which they were made; 0 is the configuration file."
    )
    status: Literal["current", "replaced"] = Field(
        description="`current`: new sessions and instances get it. `replaced`: it can be made current again."
    )
    service_id: str
    created_at: str | None
    updated_at: str | None = Field(description="When it became current last; null if it never was.")
    changed: list[str] = Field(
        description="The keys of `[[agents]]` that differ from the deployment before, without their values."
    )
    manifest: DeploymentManifest


class DeploymentsAnswer(ResponseModel):
    """The deployments of an agent, the newest first."""

    deployments: list[DeploymentView]


def deployment_view(
    agent: AgentSettings,
    deployment: CurrentDeployment,
    *,
    changed: tuple[str, ...] = (),
    turned_at: float | None = None,
    is_current: bool = True,
) -> DeploymentView:
    """Return a deployment of an agent. `agent`: with the settings of that deployment."""
    spec = DeploymentSpec(
        image="command" if agent.command else None,
        auto_scaling=Replicas(min_replicas=agent.min_agents, max_replicas=agent.max_agents),
        max_session_duration_seconds=agent.max_session_duration,
    )
    return DeploymentView(
        id=deployment.id,
        number=deployment.number,
        status="current" if is_current else "replaced",
        service_id=agent_id(agent.service_host),
        created_at=rfc3339_or_none(deployment.created_at),
        updated_at=rfc3339_or_none(turned_at),
        changed=list(changed),
        manifest=DeploymentManifest(spec=spec),
    )
