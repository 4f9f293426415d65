# SPDX-License-Identifier: BSD-2-Clause
"""Agents through the management API: configured ones, and ones created, changed and deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from gateway.agents.agent_dates import note_agents
from gateway.agents.stored_agents import StoredAgents
from gateway.api.framework.openapi import openapi_document
from gateway.api.pipecat_cloud.agents import AGENTS
from gateway.model.reasons import CallEnded
from gateway.store.notifications import Topic

HERE = "http://127.0.0.1:8080"
THERE = "http://127.0.0.1:8081"
ELSEWHERE = "http://10.0.0.7:8080"

NEW = {
    "serviceName": "billing",
    "region": "eu-central",
    "instances": [HERE],
    "sessionsPerInstance": 2,
    "autoScaling": {"minAgents": 1, "maxAgents": 3},
    "maxSessionDuration": 600,
    "websocketAuth": "token",
    "media": "messages",
    "idleTimeout": 12.5,
}


DAY = 1_700_000_000.0


def details(reply: Any) -> Any:
    """An agent, whichever spelling it came in."""
    assert reply.status == 200, reply.json
    return reply.json.get("body", reply.json)


def change(agents: str, name: str) -> tuple[str, str, dict[str, Any]]:
    """How a spelling says that an agent is to change."""
    if agents == "/v1/agents":
        return "POST", f"{agents}/{name}", {}
    return "PUT", agents, {"serviceName": name}


async def test_agents_of_the_configuration_are_listed_to_their_own_organisation(
    api: Any, agents: str
) -> None:
    reply = await api("GET", f"{agents}?include=git")
    assert [(each["name"], each["region"]) for each in reply.json["services"]] == [
        ("support", "us-west"),
        ("night", "eu-central"),
    ]
    first = reply.json["services"][0]
    assert first.keys() >= {"id", "activeDeploymentId", "createdAt", "updatedAt", "deletedAt"}
    assert first["organizationId"] == "acme"
    assert first["readOnly"] is True


async def test_an_agent_of_the_configuration_has_the_dates_of_its_settings(
    work: Callable[..., Any], agents: str
) -> None:
    """As a gateway notes them when it reads its file; of these three gateways the last has another file."""
    api = await work()
    values, read = api.store.key_values, api.services.calls.settings.agents
    assert details(await api("GET", f"{agents}/support"))["createdAt"] is None
    await note_agents(values, read, DAY)
    await note_agents(values, read, DAY + 60)
    changed = [read[0].model_copy(update={"max_agents": 6}), *read[1:]]
    await note_agents(values, changed, DAY + 120)
    dates = ("2023-11-14T22:13:20.000Z", "2023-11-14T22:15:20.000Z")
    for agent in (
        details(await api("GET", f"{agents}/support")),
        (await api("GET", agents)).json["services"][0],
    ):
        assert (agent["createdAt"], agent["updatedAt"], agent["readOnly"]) == (*dates, True)
    night = (await api("GET", agents)).json["services"][1]
    assert (night["createdAt"], night["updatedAt"]) == (dates[0], dates[0])


async def test_a_store_that_cannot_note_the_dates_keeps_no_gateway_from_starting(api: Any) -> None:
    read = api.services.calls.settings.agents
    await api.store.close()
    with structlog.testing.capture_logs() as logged:
        await note_agents(api.store.key_values, read, DAY)
    assert [line["event"] for line in logged] == ["store"]


async def test_agents_are_listed_by_region(api: Any, agents: str) -> None:
    assert [each["name"] for each in (await api("GET", f"{agents}?region=eu-central")).json["services"]] == [
        "night"
    ]
    assert (await api("GET", f"{agents}?region=ap-south")).json == {"services": []}


async def test_an_agent_has_its_limits_its_instances_and_its_sessions(api: Any, agents: str) -> None:
    await api.begins()
    agent = details(await api("GET", f"{agents}/support"))
    assert agent["deployment"]["manifest"] == {
        "spec": {"image": None, "autoScaling": agent["autoScaling"], "maxSessionDurationSeconds": 900}
    }
    assert agent["autoScaling"] == {"minReplicas": 1, "maxReplicas": 5}
    assert (agent["ready"], agent["available"], agent["activeSessionCount"]) == (True, True, 1)
    assert agent["instances"] == [
        {"url": HERE, "readiness": "unknown"},
        {"url": THERE, "readiness": "unknown"},
    ]
    assert (agent["maxSessionDuration"], agent["websocketAuth"]) == (900, "token")
    assert agent["desiredDeploymentId"] == agent["reconciledDeploymentId"]
    assert agent["errors"] == []


async def test_an_agent_none_of_whose_instances_answers_is_not_ready(api: Any) -> None:
    api.services.calls.health.watch([HERE, THERE])
    api.services.calls.health.mark_unreachable(HERE)
    api.services.calls.health.mark_unreachable(THERE)
    agent = details(await api("GET", "/v1/agents/support"))
    assert (agent["ready"], agent["available"]) == (False, False)
    assert {each["readiness"] for each in agent["instances"]} == {"unreachable"}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["nobody", "sales", "..%2Fsupport", "SUPPORT"])
async def test_an_agent_that_is_unknown_or_another_organisations_is_not_found(
    api: Any, agents: str, method: str, name: str
) -> None:
    reply = await api(method, f"{agents}/{name}")
    assert (reply.status, reply.json["code"]) == (404, "404")


async def test_an_agent_is_made_and_calls_reach_it_at_once(api: Any, agents: str) -> None:
    made = details(await api("POST", agents, value=NEW))
    assert made["name"] == "billing"
    assert made["autoScaling"] == {"minReplicas": 1, "maxReplicas": 3}
    assert made["readOnly"] is False
    assert made["createdAt"].endswith("Z")
    agent = api.directory.agent("billing.acme", "eu-central")
    assert (agent.instances, agent.sessions_per_instance, agent.max_agents) == ([HERE], 2, 3)
    assert (agent.max_session_duration, agent.idle_timeout) == (600, 12.5)
    assert (agent.websocket_auth, agent.media) == ("token", "messages")
    assert details(await api("GET", f"{agents}/billing")) == made
    assert "billing" in [each["name"] for each in (await api("GET", agents)).json["services"]]


async def test_an_agent_gets_the_defaults_of_the_configuration(api: Any) -> None:
    value = {"serviceName": "plain", "instances": [HERE], "krispViva": {}, "forceRedeploy": False}
    made = details(await api("POST", "/v1/agents", value=value))
    assert (made["region"], made["maxSessionDuration"]) == ("us-west", 7200)
    assert made["autoScaling"] == {"minReplicas": 0, "maxReplicas": 50}


async def test_an_agent_is_not_made_without_instances(api: Any, agents: str) -> None:
    reply = await api("POST", agents, value={"serviceName": "plain"})
    assert reply.status == 400
    assert reply.json["error"].startswith("instances: is missing")
    reply = await api("POST", agents, value={"serviceName": "plain", "image": "plain:1"})
    assert reply.status == 501  # which says more than that something is missing
    document = openapi_document(AGENTS, url="/", version="1")
    schema = document["components"]["schemas"]["NewAgent"]
    assert schema["required"] == ["serviceName", "instances"]
    assert schema["properties"]["instances"]["type"] == "array"
    change = document["components"]["schemas"]["AgentChange"]
    assert "instances" not in change.get("required", [])
    assert {"type": "null"} in change["properties"]["instances"]["anyOf"]


async def test_an_agent_without_a_region_is_made_in_the_default_region(api: Any) -> None:
    await api("PATCH", "/v1/properties", value={"defaultRegion": "ap-south"})
    made = details(await api("POST", "/v1/agents", value={"serviceName": "plain", "instances": [HERE]}))
    assert made["region"] == "ap-south"


async def test_what_is_set_changes_and_the_rest_stays(api: Any, agents: str) -> None:
    made = details(await api("POST", agents, value=NEW))
    method, path, named = change(agents, "billing")
    value = {**named, "autoScaling": {"maxAgents": 9}, "websocketAuth": "none"}
    changed = details(await api(method, path, value=value))
    assert changed["autoScaling"] == {"minReplicas": 1, "maxReplicas": 9}
    assert (changed["websocketAuth"], changed["maxSessionDuration"]) == ("none", 600)
    assert (changed["id"], changed["createdAt"]) == (made["id"], made["createdAt"])
    assert changed["updatedAt"] >= made["updatedAt"]
    assert api.directory.agent("billing.acme", "eu-central").max_agents == 9


async def test_a_deleted_agent_is_gone_for_calls_and_lists(api: Any, agents: str) -> None:
    await api("POST", agents, value=NEW)
    reply = await api("DELETE", f"{agents}/billing")
    assert (reply.status, reply.json) == (200, {"status": "OK"})
    assert (await api("GET", f"{agents}/billing")).status == 404
    assert (await api("DELETE", f"{agents}/billing")).status == 404
    with pytest.raises(CallEnded, match="unknown_agent"):
        api.directory.agent("billing.acme", "eu-central")


async def test_agents_of_the_configuration_are_read_only(api: Any, agents: str) -> None:
    method, path, named = change(agents, "support")
    for reply in (
        await api(method, path, value={**named, "maxSessionDuration": 60}),
        await api("DELETE", f"{agents}/support"),
        await api("POST", agents, value={"serviceName": "support", "instances": [HERE]}),
    ):
        assert reply.status == 409
        assert "configuration file" in reply.json["error"]
    assert details(await api("GET", f"{agents}/support"))["maxSessionDuration"] == 900


async def test_a_name_is_taken_once(api: Any) -> None:
    assert (await api("POST", "/v1/agents", value=NEW)).status == 200
    reply = await api("POST", "/v1/agents", value=NEW)
    assert (reply.status, reply.json["code"]) == (409, "409")
    own = {**NEW, "instances": ["http://127.0.0.1:9090"]}
    assert (await api("POST", "/v1/agents", key="sk_globex", value=own)).status == 200


async def test_an_agent_that_one_worker_makes_is_reached_through_the_other(work: Callable[..., Any]) -> None:
    one, other = await work(), await work()
    with other.store.notifications.subscribe(Topic.AGENTS_CHANGED) as changes:
        await changes.wait()
        await one("POST", "/v1/agents", value=NEW)
        assert await changes.wait()
    assert details(await other("GET", "/v1/agents/billing"))["region"] == "eu-central"
    await kept(other)
    assert other.directory.agent("billing.acme", "eu-central").max_agents == 3
    await other("DELETE", "/v1/agents/billing")
    await kept(one)
    with pytest.raises(CallEnded, match="unknown_agent"):
        one.directory.agent("billing.acme", "eu-central")


async def kept(worker: Any) -> None:
    """What a worker does when the store has changed."""
    services = worker.services
    await StoredAgents(services.calls.agents, services.calls.store).refresh(
        services.calls.health, services.calls.now()
    )


@pytest.mark.parametrize("instance", [ELSEWHERE, "http://127.0.0.1:9090"])
async def test_instances_are_only_those_the_operator_listed_for_the_organisation(
    api: Any, instance: str
) -> None:
    reply = await api("POST", "/v1/agents", value={**NEW, "instances": [HERE, instance]})
    assert (reply.status, reply.json["code"]) == (403, "403")
    assert "api_may_set_instances" in reply.json["error"]
    await api("POST", "/v1/agents", value=NEW)
    assert (await api("POST", "/v1/agents/billing", value={"instances": [instance]})).status == 403
    assert details(await api("GET", "/v1/agents/billing"))["instances"][0]["url"] == HERE


async def test_the_operator_may_let_the_api_choose_instances(work: Callable[..., Any]) -> None:
    api = await work(api_may_set_instances=True)
    made = details(await api("POST", "/v1/agents", value={**NEW, "instances": [f"{ELSEWHERE}/"]}))
    assert [each["url"] for each in made["instances"]] == [ELSEWHERE]


async def test_an_agent_whose_instance_the_operator_removed_has_the_reason(
    work: Callable[..., Any],
) -> None:
    before = await work(api_may_set_instances=True)
    await before("POST", "/v1/agents", value={**NEW, "instances": [ELSEWHERE]})
    after = await work()
    agent = details(await after("GET", "/v1/agents/billing"))
    assert (agent["ready"], agent["errors"][0]["code"]) == (False, "not_served")
    await kept(after)
    with pytest.raises(CallEnded, match="unknown_agent"):
        after.directory.agent("billing.acme", "eu-central")
    assert (await after("DELETE", "/v1/agents/billing")).status == 200


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ({"serviceName": "-x"}, "serviceName: must be 2 to 54"),
        ({"serviceName": 5}, "serviceName"),
        ({"region": "moon"}, "region: there is no region 'moon'"),
        ({"instances": []}, "instances"),
        ({"instances": None}, "instances: is missing"),
        ({"instances": [HERE, f"{HERE}/"]}, "instances(1): this instance"),
        ({"instances": ["ftp://127.0.0.1"]}, "instances(0): must be a URL that starts with http"),
        ({"instances": ["http://user:pw@127.0.0.1:1"]}, "instances(0): must be a URL without"),
        ({"instances": [f"{HERE}/path"]}, "instances(0): must end after the host"),
        ({"autoScaling": {"minAgents": 5, "maxAgents": 2}}, "autoScaling.minAgents: must be at most"),
        ({"autoScaling": {"minAgents": True}}, "autoScaling.minAgents"),
        ({"maxSessionDuration": 14401}, "maxSessionDuration"),
        ({"websocketAuth": "maybe"}, "websocketAuth"),
        ({"idleTimeout": "long"}, "idleTimeout"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_settings_that_are_none_are_refused_with_their_place(
    api: Any, agents: str, value: dict[str, Any], detail: str
) -> None:
    reply = await api("POST", agents, value=NEW | value)
    assert (reply.status, reply.json["code"]) == (400, "400")
    assert detail in reply.json["error"]
    assert (await api("GET", f"{agents}/billing")).status == 404


async def test_an_agent_does_not_move_to_another_region(api: Any) -> None:
    path = "/v1/organizations/acme/services"
    await api("POST", path, value=NEW)
    reply = await api("PUT", path, value={"serviceName": "billing", "region": "us-west"})
    assert (reply.status, "eu-central" in reply.json["error"]) == (400, True)


@pytest.mark.parametrize(
    "asked",
    [
        {"image": "acme/billing:1"},
        {"buildId": "b"},
        {"secretSet": "s"},
        {"krispViva": {"audioFilter": "tel"}},
        {"agentProfile": "agent-1x"},
    ],
)
async def test_what_only_a_host_of_containers_has_is_501_and_nothing_is_made(
    api: Any, agents: str, asked: dict[str, Any]
) -> None:
    reply = await api("POST", agents, value={"serviceName": "billing", **asked})
    assert (reply.status, reply.json["code"]) == (501, "501")
    assert next(iter(asked)) in reply.json["error"]
    assert (await api("GET", f"{agents}/billing")).status == 404


SOURCE = "dns://billing.default.svc:8080"


async def test_an_agent_shows_what_its_sources_have_found(work: Callable[..., Any], agents: str) -> None:
    api = await work(api_may_set_instances=True)
    made = details(await api("POST", agents, value=NEW | {"instances": [SOURCE]}))
    assert made["instances"] == []
    assert made["ready"] is False
    assert made["instanceSources"] == [{"source": SOURCE, "fault": None}]
    api.directory.replace_found(SOURCE, [ELSEWHERE])
    shown = details(await api("GET", f"{agents}/billing"))
    assert shown["instances"] == [{"url": ELSEWHERE, "readiness": "unknown"}]
    api.directory.source_faults[SOURCE] = "there is no such name"
    shown = details(await api("GET", f"{agents}/billing"))
    assert shown["instances"] == [{"url": ELSEWHERE, "readiness": "unknown"}]
    assert shown["instanceSources"] == [{"source": SOURCE, "fault": "there is no such name"}]


async def test_an_agent_without_sources_shows_none(api: Any, agents: str) -> None:
    assert details(await api("GET", f"{agents}/support"))["instanceSources"] == []


async def test_a_source_is_for_those_who_may_set_instances(api: Any, agents: str) -> None:
    reply = await api("POST", agents, value=NEW | {"instances": [SOURCE]})
    assert reply.status == 403
    assert "api_may_set_instances" in reply.json["error"]


@pytest.mark.parametrize("source", ["dns://billing", "kubernetes://billing:80", "dns://10.0.0.1:80"])
async def test_a_source_that_is_none_is_refused(work: Callable[..., Any], agents: str, source: str) -> None:
    api = await work(api_may_set_instances=True)
    reply = await api("POST", agents, value=NEW | {"instances": [source]})
    assert reply.status == 400
    assert ": must name" in reply.json["error"]
