# SPDX-License-Identifier: BSD-2-Clause
"""Agents whose instances the gateway starts, changed through the API: what a key may make it run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.agents.agent_rules import NUMBERS
from gateway.agents.stored_agents import CHANGES_KIND, StoredAgents

HERE = "http://127.0.0.1:8080"
COMMAND = ["python", "bot.py", "--port", "{port}"]
BOT = {
    "name": "bot",
    "organization": "acme",
    "command": COMMAND,
    "environment": {"LOG_LEVEL": "INFO", "OPENAI_API_KEY": "sk-of-the-operator"},
    "min_agents": 1,
    "max_agents": 5,
}


@pytest.fixture
async def api(work: Callable[..., Any]) -> Any:
    """A worker whose file has an agent with a command."""
    return await work(agents=[BOT])


@pytest.fixture
def update(agents: str) -> tuple[str, str, dict[str, Any]]:
    """How each of the two spellings changes bot.acme: method, path, what the body has."""
    if agents == "/v1/agents":
        return "POST", f"{agents}/bot", {}
    return "PUT", agents, {"serviceName": "bot"}


async def shown(api: Any, name: str = "bot") -> dict[str, Any]:
    found: dict[str, Any] = (await api("GET", f"/v1/agents/{name}")).json
    return found


async def refreshed(worker: Any) -> Any:
    """A worker that has read the stored agents, as it does at its start."""
    services = worker.services
    await StoredAgents(services.calls.agents, services.calls.store).refresh(
        services.calls.health, services.calls.now()
    )
    return worker


async def test_numbers_and_variables_of_an_agent_in_the_file_are_changed(api: Any, update: Any) -> None:
    method, path, named = update
    before = await shown(api)
    assert (before["readOnly"], before["ready"]) == (False, True), "its instances start when a call comes"
    value = {**named, "autoScaling": {"minAgents": 2, "maxAgents": 4}, "environment": {"LOG_LEVEL": "DEBUG"}}
    reply = await api(method, path, value={**value, "cooldown": 60, "maxSessionDuration": 600})
    assert reply.status == 200, reply.json
    agent = api.directory.agent("bot.acme", None)
    assert (agent.min_agents, agent.max_agents, agent.cooldown, agent.max_session_duration) == (2, 4, 60, 600)
    assert agent.environment == {"LOG_LEVEL": "DEBUG", "OPENAI_API_KEY": "sk-of-the-operator"}
    assert agent.command == COMMAND
    deployment = api.directory.deployment_of(agent)
    assert (deployment.number, deployment.program) == (1, 1)
    assert deployment.id == reply.json["activeDeploymentId"] != before["activeDeploymentId"]
    current, file = (await api("GET", "/v1/agents/bot/deployments")).json["deployments"]
    assert (current["number"], file["number"], file["id"]) == (1, 0, before["activeDeploymentId"])
    assert "environment.LOG_LEVEL" in current["changed"]
    listed = {each["name"]: each for each in (await api("GET", "/v1/agents")).json["services"]}
    assert listed["bot"]["activeDeploymentId"] == deployment.id


async def test_a_change_of_numbers_alone_starts_no_other_program(api: Any) -> None:
    await api("POST", "/v1/agents/bot", value={"environment": {"LOG_LEVEL": "DEBUG"}})
    await api("POST", "/v1/agents/bot", value={"autoScaling": {"maxAgents": 3}})
    agent = api.directory.agent("bot.acme", None)
    assert (api.directory.deployment_of(agent).number, api.directory.deployment_of(agent).program) == (2, 1)
    reply = await api("POST", "/v1/agents/bot", value={"forceRedeploy": True})
    assert reply.json["warning"] is None
    assert (api.directory.deployment_of(agent).number, api.directory.deployment_of(agent).program) == (3, 3)
    await api("POST", "/v1/agents/bot/deployments/2/activate")
    assert (api.directory.deployment_of(agent).number, api.directory.deployment_of(agent).program) == (2, 1)
    assert api.directory.agent("bot.acme", None).max_agents == 3


async def test_the_file_is_made_current_again(api: Any, agents: str) -> None:
    await api("POST", "/v1/agents/bot", value={"environment": {"LOG_LEVEL": "DEBUG"}})
    reply = await api("POST", f"{agents}/bot/deployments/0/activate")
    assert (reply.status, reply.json["deployment"]["number"]) == (200, 0)
    agent = api.directory.agent("bot.acme", None)
    assert agent == api.services.calls.settings.find_agent("bot.acme")
    assert api.directory.deployment_of(agent).number == 0
    assert [
        (each["number"], each["status"])
        for each in (await api("GET", f"{agents}/bot/deployments")).json["deployments"]
    ] == [(1, "replaced"), (0, "current")]


async def test_a_variable_gets_the_files_value_again(api: Any) -> None:
    await api("POST", "/v1/agents/bot", value={"environment": {"LOG_LEVEL": "DEBUG"}})
    await api("POST", "/v1/agents/bot", value={"environment": {"LOG_LEVEL": None}})
    assert api.directory.agent("bot.acme", None).environment["LOG_LEVEL"] == "INFO"


@pytest.mark.parametrize(
    ("value", "status", "detail"),
    [
        ({"command": ["sh", "-c", "id {port}"]}, 403, "command: what the gateway runs"),
        ({"cwd": "/tmp"}, 403, "cwd: what the gateway runs"),
        ({"environment": {"BASH_ENV": "$(id)"}}, 403, "no variable BASH_ENV"),
        ({"environment": {"LOG_LEVEL": "x", "NODE_OPTIONS": "--import=data:"}}, 403, "NODE_OPTIONS"),
        ({"autoScaling": {"maxAgents": 6}}, 403, "autoScaling.maxAgents: the configuration allows at most 5"),
        ({"autoScaling": {"minAgents": 6}}, 400, "autoScaling.minAgents: must be at most"),
        ({"environment": {"LOG_LEVEL": "a\0b"}}, 400, "environment"),
        ({"instances": [HERE]}, 409, "instances: bot.acme stands in the gateway's configuration file"),
        ({"websocketAuth": "none"}, 409, "websocketAuth"),
        ({"mediaPath": "/other"}, 409, "mediaPath"),
        ({"sessionsPerInstance": 5}, 409, "sessionsPerInstance"),
        ({"image": "acme/bot:1"}, 501, "image"),
        ({"secretSet": "s"}, 501, "secretSet"),
    ],
)
async def test_what_only_the_operator_may_say_is_refused_and_nothing_changes(
    api: Any, update: Any, value: dict[str, Any], status: int, detail: str
) -> None:
    method, path, named = update
    reply = await api(method, path, value={**named, **value})
    assert (reply.status, reply.json["code"]) == (status, str(status)), reply.json
    assert detail in reply.json["error"]
    assert "sk-of-the-operator" not in json.dumps(reply.json)
    assert (await shown(api))["deployment"]["number"] == 0
    assert await api.store.key_values.list(CHANGES_KIND, api.services.calls.now()) == ()


async def test_values_of_variables_and_the_command_are_never_shown(api: Any, agents: str) -> None:
    await api("POST", "/v1/agents/bot", value={"environment": {"OPENAI_API_KEY": "sk-of-the-tenant"}})
    texts = [
        json.dumps((await api("GET", f"{agents}{path}")).json)
        for path in ("", "/bot", "/bot/deployments", "/bot/deployments/1", "/bot/deployments/0")
    ]
    assert '"environment": ["LOG_LEVEL", "OPENAI_API_KEY"]' in texts[1]
    assert "environment.OPENAI_API_KEY" in texts[2]
    for text in texts:
        for secret in ("sk-of-the", "bot.py", "DEBUG"):
            assert secret not in text
    # The file's own values are not written to the store either.
    for stored in await api.store.key_values.list(CHANGES_KIND, api.services.calls.now()):
        assert "sk-of-the-operator" not in stored.value


async def test_a_reference_to_the_gateways_environment_is_only_a_text(
    work: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "of the gateway")
    api = await work(agents=[BOT])
    await api("POST", "/v1/agents/bot", value={"environment": {"LOG_LEVEL": "env:DAILY_API_KEY"}})
    assert api.directory.agent("bot.acme", None).environment["LOG_LEVEL"] == "env:DAILY_API_KEY"


async def test_an_agent_with_a_command_is_made_only_where_the_operator_lets_it(
    work: Callable[..., Any],
) -> None:
    new = {"serviceName": "billing", "command": COMMAND, "environment": {"ANY": "thing"}}
    closed = await work()
    reply = await closed("POST", "/v1/agents", value=new)
    assert (reply.status, "api_may_set_commands" in reply.json["error"]) == (403, True)
    reply = await closed("POST", "/v1/agents", value={"serviceName": "billing", "instances": [HERE]})
    assert reply.status == 200
    reply = await closed("POST", "/v1/agents/billing", value={"command": COMMAND})
    assert reply.status == 403
    await closed("DELETE", "/v1/agents/billing")

    opened = await work(api_may_set_commands=True)
    reply = await opened("POST", "/v1/agents", value=new)
    assert (reply.status, reply.json["environment"]) == (200, ["ANY"])
    assert opened.directory.agent("billing.acme", None).command == COMMAND
    reply = await opened("POST", "/v1/agents/billing", value={"environment": {"ANY": None, "OTHER": "x"}})
    assert (reply.status, reply.json["environment"]) == (200, ["OTHER"])
    assert (await opened("POST", "/v1/agents/billing", value={"instances": [HERE]})).status == 200
    agent = opened.directory.agent("billing.acme", None)
    assert (agent.instances, agent.command, agent.environment) == ([HERE], [], {})
    assert (await opened("POST", "/v1/agents/billing/deployments/1/activate")).status == 200
    assert opened.directory.agent("billing.acme", None).environment == {"ANY": "thing"}

    # The operator turns it off again: what was made so gets no calls, and runs no program.
    await refreshed(closed)
    assert closed.directory.find("billing.acme") is None
    agent = await shown(closed, "billing")
    assert (agent["ready"], agent["errors"][0]["code"]) == (False, "not_served")


async def test_the_operator_may_let_the_api_say_what_is_run(work: Callable[..., Any]) -> None:
    api = await work(agents=[BOT], api_may_set_commands=True)
    other = ["python", "other.py", "{port}"]
    value = {"command": other, "cwd": "/srv", "environment": {"NEW": "x"}, "autoScaling": {"maxAgents": 9}}
    assert (await api("POST", "/v1/agents/bot", value=value)).status == 200
    agent = api.directory.agent("bot.acme", None)
    assert (agent.command, agent.cwd, agent.max_agents) == (other, "/srv", 9)
    assert set(agent.environment) == {"LOG_LEVEL", "OPENAI_API_KEY", "NEW"}
    closed = await refreshed(await work(agents=[BOT]))
    assert closed.directory.agent("bot.acme", None).command == COMMAND


async def test_changes_that_the_file_allows_no_more_are_not_in_force(work: Callable[..., Any]) -> None:
    """The agent is served as the file says, and the API tells why its deployment is not."""
    before = await work(agents=[BOT])
    await before("POST", "/v1/agents/bot", value={"autoScaling": {"maxAgents": 4}})
    after = await refreshed(await work(agents=[{**BOT, "max_agents": 2, "min_agents": 0}]))
    assert after.directory.agent("bot.acme", None).max_agents == 2
    agent = await shown(after)
    assert (agent["ready"], agent["errors"][0]["code"], agent["autoScaling"]["maxReplicas"]) == (
        True,
        "not_in_force",
        2,
    )
    assert (await after("POST", "/v1/agents/bot/deployments/0/activate")).status == 200
    assert (await shown(after))["errors"] == []


async def test_changes_of_an_agent_that_left_the_file_are_kept_and_served_to_nobody(
    work: Callable[..., Any],
) -> None:
    before = await work(agents=[BOT])
    await before("POST", "/v1/agents/bot", value={"autoScaling": {"maxAgents": 4}})
    gone = await refreshed(await work())
    assert gone.directory.find("bot.acme") is None
    assert (await gone("GET", "/v1/agents/bot")).status == 404
    plain = await refreshed(await work(agents=[{"name": "bot", "organization": "acme"}]))
    assert plain.directory.agent("bot.acme", None).max_agents == 50
    again = await refreshed(await work(agents=[BOT]))
    assert again.directory.agent("bot.acme", None).max_agents == 4


async def test_what_one_worker_changes_the_other_serves(work: Callable[..., Any]) -> None:
    one, other = await work(agents=[BOT]), await work(agents=[BOT])
    await one("POST", "/v1/agents/bot", value={"autoScaling": {"maxAgents": 4}})
    await refreshed(other)
    agent = other.directory.agent("bot.acme", None)
    assert (agent.max_agents, other.directory.deployment_of(agent).number) == (4, 1)


async def test_the_cli_names_an_image_and_means_the_command(api: Any) -> None:
    path = "/v1/organizations/acme/services"
    value = {"serviceName": "bot", "image": "command", "autoScaling": {"minAgents": 2}, "krispViva": {}}
    reply = await api("PUT", path, value=value)
    assert (reply.status, reply.json["autoScaling"]) == (200, {"minReplicas": 2, "maxReplicas": 5})
    assert reply.json["deployment"]["manifest"]["spec"]["image"] == "command"
    assert (await api("PUT", path, value={**value, "serviceName": "support"})).status == 501
    new = {"serviceName": "fresh", "image": "command", "instances": [HERE]}
    assert (await api("POST", path, value=new)).status == 501


async def test_an_agent_of_the_file_with_a_command_is_not_deleted_or_made_anew(api: Any, agents: str) -> None:
    assert (await api("DELETE", f"{agents}/bot")).status == 409
    reply = await api("POST", agents, value={"serviceName": "bot", "instances": [HERE]})
    assert reply.status == 409


async def test_a_session_of_an_agent_in_the_file_says_which_deployment_it_began_on(api: Any) -> None:
    old = await api.begins("bot.acme", api.services.calls.now())
    file = (await shown(api))["activeDeploymentId"]
    await api("POST", "/v1/agents/bot", value={"autoScaling": {"maxAgents": 4}})
    new = await api.begins("bot.acme", api.services.calls.now())
    sessions = (await api("GET", "/v1/agents/bot/sessions")).json["sessions"]
    assert {each["sessionId"]: each["deploymentId"] for each in sessions} == {
        old: file,
        new: (await shown(api))["activeDeploymentId"],
    }


def test_no_number_lets_a_key_open_what_the_operator_closed() -> None:
    assert not NUMBERS & {"websocket_auth", "instances", "region", "user", "log_folder", "ports", "command"}
