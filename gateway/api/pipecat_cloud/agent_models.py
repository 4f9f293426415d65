# SPDX-License-Identifier: BSD-2-Clause
"""Models of agents in the management API (docs/reference/public-api.md, "Management")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, JsonValue

from gateway.agents.agent_dates import AgentDates
from gateway.agents.deployments import CurrentDeployment, configured_deployment
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.agents.stored_agents import StoredAgent, storage_key
from gateway.api.framework.operation import LargeMember
from gateway.api.framework.strict_json import rfc3339_or_none
from gateway.api.pipecat_cloud.agent_scaling import AgentScaling
from gateway.api.pipecat_cloud.conventions import MAX_LARGE_BODY_BYTES, RequestModel, ResponseModel
from gateway.api.pipecat_cloud.deployment_models import (
    DeploymentView,
    Replicas,
    agent_id,
    deployment_view,
)
from gateway.config import AgentSettings

USABLE: Final = frozenset({Health.READY, Health.UNKNOWN})
"""States of an instance that gets calls. UNKNOWN: it answers, but not to a health check."""


class InstanceView(ResponseModel):
    """A running copy of the agent."""

    url: str
    readiness: Literal["ready", "unknown", "starting", "unreachable"] = Field(
        description="The last health check of the worker that answers."
    )


class InstanceSourceView(ResponseModel):
    """An entry of the agent's `instances` that says where instances are found."""

    source: str
    fault: str | None = Field(
        description="Why what it has found may be old, or nothing, as the worker that answers knows it."
    )


class AgentFault(ResponseModel):
    """A reason why no call reaches the agent."""

    code: str
    message: str


class AgentSummary(ResponseModel):
    """An agent in a list."""

    id: str
    name: str
    region: str
    organization_id: str = Field(description="The organisation's name.")
    active_deployment_id: str = Field(description="The current deployment: the settings as they are now.")
    created_at: str | None = Field(
        description="For an agent of the configuration file, when a gateway on this store first read it."
    )
    updated_at: str | None = Field(
        description="For an agent of the configuration file, when its settings were first read as they are."
    )
    deleted_at: None = None
    read_only: bool = Field(
        description="The agent is in the configuration file and changes only there. Of one with a command, "
        "numbers and variables can be changed."
    )


class AgentsAnswer(ResponseModel):
    """The organisation's agents."""

    services: list[AgentSummary]


class AgentView(AgentSummary):
    """An agent."""

    ready: bool = Field(
        description="At least one instance accepts sessions as far as is known, or is started."
    )
    available: bool
    active_deployment_ready: bool
    desired_deployment_id: str
    reconciled_deployment_id: str
    auto_scaling: Replicas
    active_session_count: int = Field(description="Sessions that hold a slot, on all workers together.")
    scaling: AgentScaling
    instances: list[InstanceView] = Field(description="With those that its sources have found.")
    instance_sources: list[InstanceSourceView] = Field(description="Usually empty.")
    media_path: str
    health_path: str
    health_interval: float = Field(description="Seconds.")
    sessions_per_instance: int
    max_session_duration: int = Field(description="Seconds.")
    websocket_auth: Literal["none", "token"]
    media: Literal["bytes", "messages"]
    idle_timeout: float = Field(description="Seconds.")
    environment: list[str] = Field(description="The names of its variables; their values are never shown.")
    errors: list[AgentFault] = Field(description="Reasons why no call reaches it; usually empty.")
    deployment: DeploymentView
    warning: str | None = Field(default=None, description="Why a change made no new deployment.")


class WrappedAgent(ResponseModel):
    """An agent in the form of the CLI."""

    body: AgentView


class DeletedAnswer(ResponseModel):
    """The agent is deleted. Its sessions continue to their end."""

    status: Literal["OK"] = "OK"


class Scaling(RequestModel):
    """Limits of the number of instances."""

    min_agents: int | None = Field(
        default=None, ge=0, description="Instances to keep ready, of an agent with a command."
    )
    max_agents: int | None = Field(
        default=None, ge=1, description="Instances that may be in use at the same time; 50 by default."
    )


COMMAND_IMAGE: Final = "command"
"""The `image` of an agent whose instances the gateway starts by a command, for clients that must name one."""

MAX_INSTANCES: Final = 1000
INSTANCES: Final = (
    LargeMember("instances", "instances", b'["http://a"]', MAX_LARGE_BODY_BYTES, str, MAX_INSTANCES),
)
"""The member of the bodies below that may be large: a thousand URLs."""


class AgentChange(RequestModel):
    """New values for an agent. A field that is omitted or null keeps its value."""

    instances: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_INSTANCES,
        description="URLs of the running instances. Unless the operator allows others, only those that the "
        "configuration lists for the same organisation.",
        examples=[["http://10.0.0.5:8080"]],
    )
    media_path: str | None = Field(
        default=None,
        description="The path of the instances' WebSocket for calls, `/ws` by default. `{session}`, "
        "`{carrier}` and `{call_id}` stand for what they name.",
        examples=["/media-stream/{session}"],
    )
    health_path: str | None = Field(
        default=None,
        description="The path at which an instance says whether it is ready, `/readyz` by default; empty to "
        "look only whether something listens.",
    )
    health_interval: float | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="Seconds between two health checks of an instance, 2 by default; 0 for none.",
    )
    sessions_per_instance: int | None = Field(
        default=None,
        ge=1,
        description="Sessions of this agent that one instance runs at the same time; 1 by default. Several "
        "agents on one instance do not share this limit.",
    )
    auto_scaling: Scaling | None = None
    max_session_duration: int | None = Field(
        default=None, ge=1, le=14400, description="Seconds after which a session is ended; 7200 by default."
    )
    websocket_auth: Literal["none", "token"] | None = Field(
        default=None,
        description="Whether a media socket needs a token of the gateway; by default as the operator's "
        "settings say. Shown as `token` also where a carrier's own authentication does instead.",
    )
    command: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="The program that runs one instance, and its arguments, with `{port}`, in place of "
        "`instances`. Only where the operator lets the API say what is run. Never shown.",
    )
    cwd: str | None = Field(default=None, description="The directory that the program runs in. As `command`.")
    environment: dict[str, str | None] | None = Field(
        default=None,
        description="Variables for the program, which are changed one by one: null removes one, or gives it "
        "the value of the configuration file again. Unless the operator allows others, only those that the "
        "file names for this agent. Values are never shown.",
        examples=[{"LOG_LEVEL": "DEBUG"}],
    )
    buffer: int | None = Field(
        default=None, ge=0, description="Instances beyond those that have sessions; of started ones."
    )
    cooldown: float | None = Field(
        default=None, ge=0, description="Seconds until a started instance that is one too many is stopped."
    )
    start_limit: float | None = Field(
        default=None, gt=0, description="Seconds within which a started instance must be ready."
    )
    stop_grace: float | None = Field(
        default=None, ge=0, description="Seconds from SIGTERM to SIGKILL for a started instance."
    )
    recycle_after_sessions: int | None = Field(
        default=None, ge=0, description="Sessions after which a started instance is replaced; 0 for never."
    )
    recycle_above_mb: int | None = Field(
        default=None,
        ge=0,
        description="Megabytes above which a started instance is replaced once it has no session; 0: never.",
    )
    media: Literal["bytes", "messages"] | None = Field(
        default=None, description="How the legs of a call are relayed; `bytes` by default."
    )
    idle_timeout: float | None = Field(
        default=None,
        gt=0,
        le=14400,
        description="Seconds of silence from the carrier's socket that end a call; 30 by default.",
    )
    image: JsonValue = Field(
        default=None,
        description="A gateway runs no containers: 501. For an agent with a command, `command` is accepted.",
        examples=[COMMAND_IMAGE],
    )
    build_id: JsonValue = Field(default=None, description="As `image`.")
    git: JsonValue = Field(default=None, description="As `image`.")
    secret_set: JsonValue = Field(default=None, description="As `image`.")
    image_pull_secret_set: JsonValue = Field(default=None, description="As `image`.")
    agent_profile: JsonValue = Field(default=None, description="As `image`.")
    resources: JsonValue = Field(default=None, description="As `image`.")
    architecture: JsonValue = Field(default=None, description="As `image`.")
    node_type: JsonValue = Field(default=None, description="As `image`.")
    enable_krisp: JsonValue = Field(default=None, description="As `image`; false and null are accepted.")
    krisp_viva: JsonValue = Field(default=None, description="As `image`; empty values are accepted.")
    force_redeploy: JsonValue = Field(
        default=None,
        description="Of an agent with a command: whether there is a new deployment though nothing differs, "
        "so that its instances are replaced. Else as `image`; false and null are accepted.",
    )

    def table(self) -> dict[str, Any]:
        """Return the given values under the keys of `[[agents]]`."""
        given = {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None}
        scaling = self.auto_scaling.model_dump(exclude_none=True) if self.auto_scaling else {}
        return {**given, **scaling}

    def container_fields(self, *, has_command: bool) -> list[str]:
        """Return the names of the given fields that only a host of containers can honour.

        `has_command`: whether the gateway starts the agent's instances, so that some of them mean something.
        """
        honoured = {"force_redeploy", *(("image",) if self.image == COMMAND_IMAGE else ())}
        return [
            type(self).model_fields[name].alias or name
            for name in _OF_CONTAINERS
            if not _is_blank(getattr(self, name)) and not (has_command and name in honoured)
        ]


def _with_instances(schema: dict[str, Any]) -> None:
    """Document `instances` as required.

    The model accepts none, so that a request for a container gets its 501.
    """
    schema["required"] = [*schema.get("required", []), "instances"]
    field = schema["properties"]["instances"]
    (urls,) = (choice for choice in field.pop("anyOf") if choice != {"type": "null"})
    field.pop("default", None)
    field.update(urls)


class NewAgent(AgentChange):
    """A new agent. It needs `instances`."""

    model_config = ConfigDict(json_schema_extra=_with_instances)

    service_name: str = Field(
        description="2 to 54 lower-case letters, digits and inner hyphens.",
        examples=["support"],
        max_length=54,
    )
    region: str | None = Field(
        default=None, description="The agent's region; by default the property defaultRegion."
    )


class NamedAgentChange(AgentChange):
    """New values for the agent that the body names, as the CLI sends them."""

    service_name: str = Field(description="The agent's name.", examples=["support"], max_length=54)
    region: str | None = Field(default=None, description="The agent's region, which cannot change.")


_SETTINGS: Final = (
    "buffer",
    "command",
    "cooldown",
    "cwd",
    "environment",
    "recycle_above_mb",
    "recycle_after_sessions",
    "start_limit",
    "stop_grace",
    "instances",
    "media_path",
    "health_path",
    "health_interval",
    "sessions_per_instance",
    "max_session_duration",
    "websocket_auth",
    "media",
    "idle_timeout",
)
_OF_CONTAINERS: Final = (
    "image",
    "build_id",
    "git",
    "secret_set",
    "image_pull_secret_set",
    "agent_profile",
    "resources",
    "architecture",
    "node_type",
    "enable_krisp",
    "krisp_viva",
    "force_redeploy",
)

API_NAMES: Final[Mapping[str, str]] = {
    "name": "serviceName",
    "min_agents": "autoScaling.minAgents",
    "max_agents": "autoScaling.maxAgents",
    "media_path": "mediaPath",
    "health_path": "healthPath",
    "health_interval": "healthInterval",
    "sessions_per_instance": "sessionsPerInstance",
    "max_session_duration": "maxSessionDuration",
    "websocket_auth": "websocketAuth",
    "idle_timeout": "idleTimeout",
    "start_limit": "startLimit",
    "stop_grace": "stopGrace",
    "recycle_after_sessions": "recycleAfterSessions",
    "recycle_above_mb": "recycleAboveMb",
}
"""Names in the API of those keys of `[[agents]]` that differ."""


def _is_blank(value: JsonValue) -> bool:
    """Return True if the value requests nothing, such as `{"audioFilter": null}`."""
    return not value or (isinstance(value, dict) and all(each is None for each in value.values()))


def current_deployment(agent: AgentSettings, record: StoredAgent | AgentDates | None) -> CurrentDeployment:
    """Return the deployment that is current; of an agent that is in the configuration file alone, the file.

    `record`: as for `agent_summary`.
    """
    if isinstance(record, StoredAgent):
        return record.deployment
    return configured_deployment(storage_key(agent), record.updated_at if record else None)


def agent_summary(agent: AgentSettings, record: StoredAgent | AgentDates | None) -> AgentSummary:
    """Return an agent as lists show it. `record`: only the dates of an agent of the configuration file."""
    return AgentSummary(
        id=agent_id(agent.service_host),
        name=agent.name,
        region=agent.region,
        organization_id=agent.organization,
        active_deployment_id=current_deployment(agent, record).id,
        created_at=rfc3339_or_none(record.created_at) if record else None,
        updated_at=rfc3339_or_none(record.updated_at) if record else None,
        read_only=not isinstance(record, StoredAgent) and not agent.command,
    )


def agent_view(
    agent: AgentSettings,
    record: StoredAgent | AgentDates | None,
    active_sessions: int,
    health: InstanceHealth,
    scaling: AgentScaling,
    *,
    sources: Sequence[InstanceSourceView] = (),
) -> AgentView:
    """Return an agent with its instances as this worker sees them. `agent`: as calls see it."""
    fault = record.fault if isinstance(record, StoredAgent) else ""
    current = current_deployment(agent, record)
    seen = [(instance, health.of(instance)) for instance in agent.instances]
    is_served = not fault or (isinstance(record, StoredAgent) and record.changes is not None)
    # Of a command an instance is started for a call; until it is known to fail it counts.
    can_start = bool(agent.command) and not scaling.crash_loop
    usable = is_served and (can_start or _any_usable(readiness for _, readiness in seen))
    return AgentView(
        **agent_summary(agent, record).model_dump(),
        ready=usable,
        available=usable,
        active_deployment_ready=usable,
        auto_scaling=Replicas(min_replicas=agent.min_agents, max_replicas=agent.max_agents),
        active_session_count=active_sessions,
        scaling=scaling,
        instances=[
            InstanceView.model_validate({"url": url, "readiness": readiness.name.lower()})
            for url, readiness in seen
        ],
        instance_sources=list(sources),
        media_path=agent.media_path,
        health_path=agent.health_path,
        health_interval=agent.health_interval,
        sessions_per_instance=agent.sessions_per_instance,
        max_session_duration=agent.max_session_duration,
        websocket_auth="none" if agent.is_open else "token",
        media=agent.media,
        idle_timeout=agent.idle_timeout,
        environment=sorted(agent.environment),
        errors=[AgentFault(code="not_served" if not is_served else "not_in_force", message=fault)]
        if fault
        else [],
        desired_deployment_id=current.id,
        reconciled_deployment_id=current.id,
        deployment=deployment_view(agent, current),
    )


def _any_usable(seen: Iterable[Health]) -> bool:
    return any(readiness in USABLE for readiness in seen)
