# SPDX-License-Identifier: BSD-2-Clause
"""Agents: list, get, create, update, delete (docs/reference/public-api.md, "Management").

An agent is the gateway's record of it: the URLs of its instances and the limits of its sessions. Nothing is
deployed. Agents of the configuration file are listed too; they change only in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pydantic import Field

from gateway.agents.agent_dates import AgentDates, dates_of
from gateway.agents.agent_rules import Forbidden, InvalidAgent, OnlyInFile, fit
from gateway.agents.instance_sources import sources_of
from gateway.agents.stored_agents import StoredAgent, StoredAgents, unchanged
from gateway.api.framework.handler_services import Services
from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.pipecat_cloud.agent_models import (
    API_NAMES,
    INSTANCES,
    AgentChange,
    AgentsAnswer,
    AgentView,
    DeletedAnswer,
    InstanceSourceView,
    NamedAgentChange,
    NewAgent,
    WrappedAgent,
    agent_summary,
    agent_view,
)
from gateway.api.pipecat_cloud.agent_scaling import agent_scaling
from gateway.api.pipecat_cloud.conventions import (
    ORGANIZATION,
    Documented,
    ResponseModel,
    both,
    missing,
    operation,
    refused,
)
from gateway.api.pipecat_cloud.properties import default_region
from gateway.config import AgentSettings
from gateway.config.source_urls import SCHEMES
from gateway.model.addresses import service_host
from gateway.store.interface import SessionFilter

UNCHANGED: Final = "Nothing differs from the current deployment, so there is no new one"

MAX_STORED_AGENTS: Final = 1000
"""Agents of an organisation in the store, besides those of the configuration."""

_FIRST_WORD: Final = re.compile(r"[a-z_]+")


class AgentsQuery(ResponseModel):
    """Filters for the list of agents."""

    region: str | None = Field(default=None, description="Only agents of this region.")
    include: str | None = Field(default=None, description="`git`, from the CLI. Ignored.")


def stored_agents(services: Services) -> StoredAgents:
    """Return the store's agents."""
    return StoredAgents(services.calls.agents, services.calls.store)


async def known_agent(context: Context, name: str) -> tuple[AgentSettings, StoredAgent | None]:
    """Return the agent with this name in the key's organisation, and what is stored of it.

    That is None for an agent of the configuration file that the API has not changed.

    Raises:
        ApiError: 404 if there is no such agent.
        StoreFailed: the store did not answer.
    """
    services, organization = context.services, context.caller.organization
    for agent in services.calls.settings.agents:
        if (agent.organization, agent.name) == (organization, name):
            stored = stored_agents(services)
            changed = await stored.get_changed(agent, services.calls.now()) if agent.command else None
            return (agent, None) if changed is None else (changed.settings, changed)
    record = await stored_agents(services).get(organization, name, services.calls.now())
    if record is None:
        raise missing("There is no such agent")
    return record.settings, record


async def list_agents(context: Context) -> Answer:
    """`GET /v1/agents`: list the agents of the configuration, then those of the store by name."""
    services, organization = context.services, context.caller.organization
    region = context.query_as(AgentsQuery).region
    noted = await dates(context)
    configured = [each for each in services.calls.settings.agents if each.organization == organization]
    changed: dict[str, StoredAgent] = {}
    if any(agent.command for agent in configured):
        found = await stored_agents(services).all_changed(organization, services.calls.now())
        changed = {record.settings.name: record for record in found}
    agents = [agent_summary(agent, changed.get(agent.name) or noted.get(agent.name)) for agent in configured]
    agents += [
        agent_summary(record.settings, record)
        for record in await stored_agents(services).of(organization, services.calls.now())
        if not services.calls.agents.is_configured(record.settings.service_host)
    ]
    return Answer(200, AgentsAnswer(services=[agent for agent in agents if region in (None, agent.region)]))


async def _view(context: Context) -> AgentView:
    agent, record = await known_agent(context, context.path["agent"])
    services = context.services
    _, active = await services.calls.store.sessions(
        SessionFilter(agent=agent.service_host, active=True), limit=1
    )
    noted = (await dates(context)).get(agent.name) if record is None else record
    return await _agent_view(services, agent, noted, active)


async def _agent_view(
    services: Services, agent: AgentSettings, record: StoredAgent | AgentDates | None, active: int
) -> AgentView:
    faults = services.calls.agents.source_faults
    sources = [
        InstanceSourceView(source=source, fault=faults.get(source))
        for source in sources_of((agent,))
        if source.startswith(SCHEMES)
    ]
    agent = _with_instances(agent, services)
    scaling = await agent_scaling(services, agent, active)
    return agent_view(agent, record, active, services.calls.health, scaling, sources=sources)


def _with_instances(agent: AgentSettings, services: Services) -> AgentSettings:
    """Return an agent with the instances that calls see, found and started ones among them."""
    served = services.calls.agents.find(agent.service_host)
    return agent if served is None else agent.model_copy(update={"instances": served.instances})


async def dates(context: Context) -> Mapping[str, AgentDates]:
    """Return the dates of the agents of the configuration, by name."""
    calls = context.services.calls
    return await dates_of(calls.store.key_values, context.caller.organization, calls.now())


async def get_agent(context: Context) -> Answer:
    """`GET /v1/agents/{agent}`: answer with the agent."""
    return Answer(200, await _view(context))


async def get_agent_for_cli(context: Context) -> Answer:
    """`GET …/services/{agent}`: answer with the agent inside a `body`."""
    return Answer(200, WrappedAgent(body=await _view(context)))


async def create_agent(context: Context) -> Answer:
    """`POST /v1/agents`: store a new agent."""
    request = context.body_as(NewAgent)
    services, organization, now = context.services, context.caller.organization, context.services.calls.now()
    refuse_container_fields(request, has_command=bool(request.command))
    if request.instances is None and not request.command:
        raise refused(400, "instances: is missing; a gateway needs the URLs of the agent's running copies")
    table = request.table() | {
        "name": request.service_name,
        "organization": organization,
        "region": request.region or await default_region(services, organization),
    }
    with _settings_errors():
        agent = fit(table, services.calls.settings)
    _check_not_configured(agent.service_host, services)
    stored = stored_agents(services)
    if len(await stored.of(organization, now)) >= MAX_STORED_AGENTS:
        raise refused(409, f"This organisation keeps {MAX_STORED_AGENTS} agents, and can make no more")
    record = await stored.create(agent, now)
    if record is None:
        raise refused(409, f"There is an agent {agent.name} already")
    await stored.refresh(services.calls.health, now)
    return Answer(200, await _agent_view(services, agent, record, 0))


async def update_agent(context: Context) -> Answer:
    """`POST /v1/agents/{agent}`: change an agent of the store."""
    return await _update(context, context.path["agent"], context.body_as(AgentChange))


async def update_agent_for_cli(context: Context) -> Answer:
    """`PUT …/services`: change an agent of the store, which the body names."""
    change = context.body_as(NamedAgentChange)
    if change.region is not None:
        agent, _ = await known_agent(context, change.service_name)
        if change.region != agent.region:
            raise refused(400, f"region: the agent is in {agent.region}; make another for another region")
    return await _update(context, change.service_name, change)


async def _update(context: Context, name: str, change: AgentChange) -> Answer:
    services, now = context.services, context.services.calls.now()
    previous, record = await known_agent(context, name)
    refuse_container_fields(change, has_command=bool(previous.command or change.command))
    if record is None:
        if not previous.command:
            raise configured(previous.service_host)
        noted = (await dates(context)).get(previous.name)
        record = unchanged(previous, noted.updated_at if noted else now)
    with _settings_errors():
        changed = await stored_agents(services).update(
            record, change.table(), now, forced=bool(change.force_redeploy)
        )
    return Answer(200, await changed_view(context, changed, UNCHANGED if changed is record else ""))


async def changed_view(context: Context, record: StoredAgent, warning: str = "") -> AgentView:
    """Let this worker's calls see an agent of the store that has changed, and return it."""
    services = context.services
    await stored_agents(services).refresh(services.calls.health, services.calls.now())
    _, active = await services.calls.store.sessions(
        SessionFilter(agent=record.settings.service_host, active=True), limit=1
    )
    view = await _agent_view(services, record.settings, record, active)
    return view.model_copy(update={"warning": warning or None})


async def delete_agent(context: Context) -> Answer:
    """`DELETE /v1/agents/{agent}`: delete an agent of the store."""
    services, organization, name = context.services, context.caller.organization, context.path["agent"]
    _check_not_configured(service_host(name, organization), services)
    stored = stored_agents(services)
    if not await stored.delete(organization, name, services.calls.now()):
        raise missing("There is no such agent")
    await stored.refresh(services.calls.health, services.calls.now())
    return Answer(200, DeletedAnswer())


def refuse_container_fields(change: AgentChange, *, has_command: bool) -> None:
    """Raise ApiError (501) if the request sets what only a host of containers has."""
    fields = change.container_fields(has_command=has_command)
    if fields:
        raise refused(
            501,
            f"{', '.join(fields)}: a gateway runs no containers. Start the agent where you run it, and name "
            "its instances by their URLs in `instances`",
        )


@contextmanager
def _settings_errors() -> Iterator[None]:
    """Turn what is wrong with an agent's settings into an ApiError: 400 for invalid ones, 403 for forbidden.

    What stands in the configuration file alone is 409.
    """
    try:
        yield
    except InvalidAgent as error:
        problems = (f"{_FIRST_WORD.sub(_api_name, key, count=1)}: {what}" for key, what in error.problems)
        raise refused(400, "; ".join(problems)) from None
    except OnlyInFile as error:
        raise refused(409, _FIRST_WORD.sub(_api_name, str(error), count=1)) from None
    except Forbidden as error:
        raise refused(403, _FIRST_WORD.sub(_api_name, str(error), count=1)) from None


def _api_name(key: re.Match[str]) -> str:
    return API_NAMES.get(key[0], key[0])


def _check_not_configured(service_host: str, services: Services) -> None:
    if services.calls.agents.is_configured(service_host):
        raise configured(service_host)


def configured(service_host: str) -> Exception:
    """Return the 409 for a change of an agent that only the file may change."""
    return refused(409, f"{service_host} stands in the gateway's configuration file; it changes only there")


_NOTES: Final = {"agent": "The agent's name."}
_CHANGED: Final = {200: AgentView, 400: None, 403: None, 404: None, 409: None, 501: None}

AGENTS: Final[tuple[Operation, ...]] = (
    *both(
        "GET",
        ("/agents", "/services"),
        list_agents,
        Documented("Agents", {200: AgentsAnswer}, query=AgentsQuery),
    ),
    *both(
        "POST",
        ("/agents", "/services"),
        create_agent,
        Documented(
            "Makes an agent",
            {200: AgentView, 400: None, 403: None, 409: None, 501: None},
            body=NewAgent,
            large=INSTANCES,
        ),
    ),
    operation(
        "GET",
        "/v1/agents/{agent}",
        get_agent,
        Documented("An agent", {200: AgentView, 404: None}, path_notes=_NOTES),
    ),
    operation(
        "GET",
        f"{ORGANIZATION}/services/{{agent}}",
        get_agent_for_cli,
        Documented("An agent", {200: WrappedAgent, 404: None}, path_notes=_NOTES),
    ),
    operation(
        "POST",
        "/v1/agents/{agent}",
        update_agent,
        Documented("Changes an agent", _CHANGED, body=AgentChange, path_notes=_NOTES, large=INSTANCES),
    ),
    operation(
        "PUT",
        f"{ORGANIZATION}/services",
        update_agent_for_cli,
        Documented("Changes an agent", _CHANGED, body=NamedAgentChange, large=INSTANCES),
    ),
    *both(
        "DELETE",
        ("/agents/{agent}", "/services/{agent}"),
        delete_agent,
        Documented(
            "Deletes an agent; its sessions go on",
            {200: DeletedAnswer, 404: None, 409: None},
            path_notes=_NOTES,
        ),
    ),
)
