# SPDX-License-Identifier: BSD-2-Clause
"""An agent's deployments: list, get, make current again (gateway/agents/deployments.py says what one is)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from pydantic import ValidationError

from gateway.agents.agent_rules import Forbidden, InvalidAgent, with_changes
from gateway.agents.deployments import Deployment, Turn
from gateway.agents.stored_agents import StoredAgent
from gateway.api.framework.operation import Answer, Context, Operation
from gateway.api.pipecat_cloud.agent_models import AgentView, current_deployment
from gateway.api.pipecat_cloud.agents import changed_view, dates, known_agent, stored_agents
from gateway.api.pipecat_cloud.conventions import Documented, both, missing, refused
from gateway.api.pipecat_cloud.deployment_models import DeploymentsAnswer, DeploymentView, deployment_view
from gateway.config import AgentSettings


async def list_deployments(context: Context) -> Answer:
    """`GET /v1/agents/{agent}/deployments`: list the deployments, the newest first."""
    return Answer(200, DeploymentsAnswer(deployments=[each async for each in _views(context)]))


async def get_deployment(context: Context) -> Answer:
    """`GET …/deployments/{deployment}`: answer with a deployment, named by its id or its number."""
    named = context.path["deployment"]
    async for view in _views(context):
        if named in (view.id, str(view.number)):
            return Answer(200, view)
    raise _missing()


async def activate(context: Context) -> Answer:
    """`POST …/deployments/{deployment}/activate`: make a deployment the current one again."""
    services, named = context.services, context.path["deployment"]
    _, record = await known_agent(context, context.path["agent"])
    if record is None:
        raise refused(
            409, "The agent has no deployment but the gateway's configuration file, which is current"
        )
    stored, now = stored_agents(services), services.calls.now()
    for deployment in await stored.deployments_of(record, now):
        if named in (deployment.id, str(deployment.number)):
            break
    else:
        raise _missing()
    if deployment.id == record.deployment.id:
        return Answer(200, await changed_view(context, record, "This deployment is the current one already"))
    try:
        changed = await stored.activate(record, deployment, now)
    except (InvalidAgent, Forbidden) as error:
        raise refused(
            409, f"The configuration allows deployment {deployment.number} no more: {error}"
        ) from None
    return Answer(200, await changed_view(context, changed))


async def _views(context: Context) -> AsyncIterator[DeploymentView]:
    services = context.services
    agent, record = await known_agent(context, context.path["agent"])
    configured = services.calls.settings.find_agent(agent.service_host)
    if record is not None:
        for deployment in await stored_agents(services).deployments_of(record, services.calls.now()):
            if deployment.number:
                yield _view(deployment, record, configured or agent)
    if configured is not None:
        current = current_deployment(configured, (await dates(context)).get(agent.name))
        is_current = record is None or record.deployment.number == 0
        yield deployment_view(configured, current, turned_at=current.created_at, is_current=is_current)


def _view(deployment: Deployment, record: StoredAgent, base: AgentSettings) -> DeploymentView:
    return deployment_view(
        _settings_of(deployment, base),
        deployment.as_current,
        changed=deployment.changed,
        turned_at=_turned_at(deployment, record.turns),
        is_current=deployment.id == record.deployment.id,
    )


def _settings_of(deployment: Deployment, base: AgentSettings) -> AgentSettings:
    """Return the agent with the deployment's settings; without them if this version cannot read them.

    `base`: as the configuration file has it, or as it is now.
    """
    try:
        return AgentSettings.model_validate(with_changes(base.model_dump(), deployment.settings))
    except ValidationError:
        return base


def _turned_at(deployment: Deployment, turns: tuple[Turn, ...]) -> float | None:
    return next((turn.at for turn in reversed(turns) if turn.deployment == deployment.id), None)


def _missing() -> Exception:
    return missing("The agent has no such deployment; they are listed at …/deployments")


_NOTES: Final = {"agent": "The agent's name.", "deployment": "Its id, or its number."}
_LIST: Final = ("/agents/{agent}/deployments", "/services/{agent}/deployments")
_ONE: Final = ("/agents/{agent}/deployments/{deployment}", "/services/{agent}/deployments/{deployment}")
_ACTIVATE: Final = (f"{_ONE[0]}/activate", f"{_ONE[1]}/activate")

DEPLOYMENTS: Final[tuple[Operation, ...]] = (
    *both(
        "GET",
        _LIST,
        list_deployments,
        Documented(
            "An agent's deployments, the newest first",
            {200: DeploymentsAnswer, 404: None},
            path_notes={"agent": _NOTES["agent"]},
        ),
    ),
    *both(
        "GET",
        _ONE,
        get_deployment,
        Documented("A deployment of an agent", {200: DeploymentView, 404: None}, path_notes=_NOTES),
    ),
    *both(
        "POST",
        _ACTIVATE,
        activate,
        Documented(
            "Makes a deployment the current one again; sessions that run keep theirs",
            {200: AgentView, 404: None, 409: None},
            path_notes=_NOTES,
        ),
    ),
)
