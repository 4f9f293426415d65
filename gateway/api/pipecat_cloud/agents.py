# SPDX-License-Identifier: BSD-2-Clause
"""Agents: list, one, make, change, delete (docs/reference/public-api.md, "Management").

An agent is what the gateway knows of it: where its instances are, and what bounds its sessions. Nothing is
deployed. Agents of the configuration file are told like the others and change only there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from gateway.agents.stored_agents import ForbiddenInstance, InvalidAgent, StoredAgent, StoredAgents, fit
from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.framework.services import Services
from gateway.api.pipecat_cloud.agent_models import (
    SPELT,
    AgentChange,
    AgentsAnswer,
    AgentView,
    DeletedAnswer,
    NamedAgentChange,
    NewAgent,
    WrappedAgent,
    summary,
    told,
)
from gateway.api.pipecat_cloud.conventions import (
    ORGANIZATION,
    ResponseModel,
    both,
    missing,
    operation,
    refused,
)
from gateway.api.pipecat_cloud.properties import default_region
from gateway.config import AgentSettings
from gateway.model.addresses import service_host
from gateway.store.interface import SessionFilter

MAX_KEPT_AGENTS: Final = 1000
"""Agents that an organisation may keep, beside those of the configuration."""

_FIRST_WORD: Final = re.compile(r"[a-z_]+")


class AgentsQuery(ResponseModel):
    """Which agents."""

    region: str | None = Field(default=None, description="Only agents of this region.")
    include: str | None = Field(default=None, description="What the CLI asks for besides: `git`. Ignored.")


def kept_agents(services: Services) -> StoredAgents:
    """The agents of the store."""
    return StoredAgents(services.settings, services.store.key_values)


async def known_agent(context: Context, name: str) -> tuple[AgentSettings, StoredAgent | None]:
    """The key's organisation's agent of this name, and the store's record where it has it.

    Raises ApiError: 404; StoreFailed.
    """
    services, organization = context.services, context.caller.organization
    for agent in services.settings.agents:
        if (agent.organization, agent.name) == (organization, name):
            return agent, None
    kept = await kept_agents(services).get(organization, name, services.now())
    if kept is None:
        raise missing("There is no such agent")
    return kept.settings, kept


async def list_agents(context: Context) -> Answer:
    """`GET /v1/agents`: those of the configuration first, then those of the store by name."""
    services, organization = context.services, context.caller.organization
    region = context.query_as(AgentsQuery).region
    found = [summary(agent, None) for agent in services.settings.agents if agent.organization == organization]
    found += [
        summary(kept.settings, kept)
        for kept in await kept_agents(services).of(organization, services.now())
        if not services.agents.is_configured(kept.settings.service_host)
    ]
    return Answer(200, AgentsAnswer(services=[each for each in found if region in (None, each.region)]))


async def _one(context: Context, name: str) -> AgentView:
    agent, kept = await known_agent(context, name)
    services = context.services
    _, active = await services.store.sessions(SessionFilter(agent=agent.service_host, active=True), limit=1)
    return told(agent, kept, active, services.health)


async def one_agent(context: Context) -> Answer:
    """`GET /v1/agents/{agent}`."""
    return Answer(200, await _one(context, context.path["agent"]))


async def one_agent_for_cli(context: Context) -> Answer:
    """`GET …/services/{agent}`: the same in a `body`."""
    return Answer(200, WrappedAgent(body=await _one(context, context.path["agent"])))


async def create_agent(context: Context) -> Answer:
    """`POST /v1/agents`."""
    wanted = context.body_as(NewAgent)
    services, organization, now = context.services, context.caller.organization, context.services.now()
    _check_asks_no_container(wanted)
    if wanted.instances is None:
        raise refused(400, "instances: is missing; a gateway needs the URLs of the agent's running copies")
    table = wanted.table() | {
        "name": wanted.service_name,
        "organization": organization,
        "region": wanted.region or await default_region(services, organization),
    }
    agent = _fit(table, services)
    _check_not_configured(agent.service_host, services)
    kept = kept_agents(services)
    if len(await kept.of(organization, now)) >= MAX_KEPT_AGENTS:
        raise refused(409, f"This organisation keeps {MAX_KEPT_AGENTS} agents, and can make no more")
    made = await kept.create(agent, now)
    if made is None:
        raise refused(409, f"There is an agent {agent.name} already")
    await kept.refresh(services.agents, services.health, now)
    return Answer(200, told(agent, made, 0, services.health))


async def update_agent(context: Context) -> Answer:
    """`POST /v1/agents/{agent}`."""
    return await _update(context, context.path["agent"], context.body_as(AgentChange))


async def update_agent_for_cli(context: Context) -> Answer:
    """`PUT …/services`: the agent is named in the body."""
    change = context.body_as(NamedAgentChange)
    if change.region is not None:
        agent, _ = await known_agent(context, change.service_name)
        if change.region != agent.region:
            raise refused(400, f"region: the agent is in {agent.region}; make another for another region")
    return await _update(context, change.service_name, change)


async def _update(context: Context, name: str, change: AgentChange) -> Answer:
    services, now = context.services, context.services.now()
    _check_asks_no_container(change)
    before, kept_before = await known_agent(context, name)
    if kept_before is None:
        raise _configured(before.service_host)
    agent = _fit(before.model_dump() | change.table(), services)
    kept = kept_agents(services)
    made = await kept.update(kept_before, agent, now)
    await kept.refresh(services.agents, services.health, now)
    _, active = await services.store.sessions(SessionFilter(agent=agent.service_host, active=True), limit=1)
    return Answer(200, told(agent, made, active, services.health))


async def delete_agent(context: Context) -> Answer:
    """`DELETE /v1/agents/{agent}`."""
    services, organization, name = context.services, context.caller.organization, context.path["agent"]
    _check_not_configured(service_host(name, organization), services)
    kept = kept_agents(services)
    if not await kept.delete(organization, name):
        raise missing("There is no such agent")
    await kept.refresh(services.agents, services.health, services.now())
    return Answer(200, DeletedAnswer())


def _check_asks_no_container(change: AgentChange) -> None:
    asked = change.container_fields()
    if asked:
        raise refused(
            501,
            f"{', '.join(asked)}: a gateway runs no containers. Start the agent where you run it, and name "
            "its instances by their URLs in `instances`",
        )


def _fit(table: Mapping[str, Any], services: Services) -> AgentSettings:
    try:
        return fit(table, services.settings)
    except InvalidAgent as error:
        problems = (f"{_FIRST_WORD.sub(_spelt, key, count=1)}: {what}" for key, what in error.problems)
        raise refused(400, "; ".join(problems)) from None
    except ForbiddenInstance as error:
        raise refused(403, str(error)) from None


def _spelt(key: re.Match[str]) -> str:
    return SPELT.get(key[0], key[0])


def _check_not_configured(service_host: str, services: Services) -> None:
    if services.agents.is_configured(service_host):
        raise _configured(service_host)


def _configured(service_host: str) -> Exception:
    return refused(409, f"{service_host} stands in the gateway's configuration file; it changes only there")


_NOTES: Final = {"agent": "The agent's name."}
_CHANGED: Final = {200: AgentView, 400: None, 403: None, 404: None, 409: None, 501: None}

AGENTS: Final[tuple[Operation, ...]] = (
    *both(
        "GET", "/agents", "/services", list_agents, "Agents", answers={200: AgentsAnswer}, query=AgentsQuery
    ),
    *both(
        "POST",
        "/agents",
        "/services",
        create_agent,
        "Makes an agent",
        answers={200: AgentView, 400: None, 403: None, 409: None, 501: None},
        body=NewAgent,
    ),
    operation(
        "GET",
        "/v1/agents/{agent}",
        one_agent,
        "An agent",
        {200: AgentView, 404: None},
        path_notes=_NOTES,
    ),
    operation(
        "GET",
        f"{ORGANIZATION}/services/{{agent}}",
        one_agent_for_cli,
        "An agent",
        {200: WrappedAgent, 404: None},
        path_notes=_NOTES,
    ),
    operation(
        "POST",
        "/v1/agents/{agent}",
        update_agent,
        "Changes an agent",
        _CHANGED,
        body=AgentChange,
        path_notes=_NOTES,
    ),
    operation(
        "PUT",
        f"{ORGANIZATION}/services",
        update_agent_for_cli,
        "Changes an agent",
        _CHANGED,
        body=NamedAgentChange,
    ),
    *both(
        "DELETE",
        "/agents/{agent}",
        "/services/{agent}",
        delete_agent,
        "Deletes an agent; its sessions go on",
        answers={200: DeletedAnswer, 404: None, 409: None},
        path_notes=_NOTES,
    ),
)
