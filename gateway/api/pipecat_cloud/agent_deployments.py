# SPDX-License-Identifier: BSD-2-Clause
"""An agent's deployments: list, get, make current again (gateway/agents/deployments.py says what one is)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from pydantic import ValidationError

from gateway.agents.deployments import Deployment, Turn
from gateway.agents.stored_agents import ForbiddenInstance, InvalidAgent, StoredAgent
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
    except (InvalidAgent, ForbiddenInstance) as error:
        raise refused(
            409, f"The configuration allows deployment {deployment.number} no more: {error}"
        ) from None
    return Answer(200, await changed_view(context, changed))


async def _views(context: Context) -> AsyncIterator[DeploymentView]:
    agent, record = await known_agent(context, context.path["agent"])
    if record is None:
        read = (await dates(context)).get(agent.name)
        yield deployment_view(
            agent, current_deployment(agent, read), turned_at=read.updated_at if read else None
        )
        return
    now = context.services.calls.now()
    for deployment in await stored_agents(context.services).deployments_of(record, now):
        yield _view(deployment, record)


def _view(deployment: Deployment, record: StoredAgent) -> DeploymentView:
    return deployment_view(
        _settings_of(deployment, record.settings),
        deployment.as_current,
        changed=deployment.changed,
        turned_at=_turned_at(deployment, record.turns),
        is_current=deployment.id == record.deployment.id,
    )


def _settings_of(deployment: Deployment, agent: AgentSettings) -> AgentSettings:
    """Return the agent with the deployment's settings; as it is now if this version cannot read them."""
    try:
        return AgentSettings.model_validate({**agent.model_dump(), **deployment.settings})
    except ValidationError:
        return agent


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
