# SPDX-License-Identifier: BSD-2-Clause
"""Deployments through the management API: numbered, listed, and made current again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.agents import deployments
from gateway.agents.deployments import (
    DOCUMENT_KIND,
    CurrentDeployment,
    Turn,
    deployment_at,
    with_turn,
)
from gateway.agents.stored_agents import DOCUMENT_KIND as AGENT

HERE = "http://127.0.0.1:8080"
THERE = "http://127.0.0.1:8081"
ELSEWHERE = "http://10.0.0.7:8080"
NEW = {"serviceName": "billing", "instances": [HERE], "maxSessionDuration": 600}
DAY = 1_700_000_000.0


@pytest.fixture
def update(agents: str) -> tuple[str, str, dict[str, Any]]:
    """How each of the two spellings changes billing.acme: method, path, what the body has."""
    if agents == "/v1/agents":
        return "POST", f"{agents}/billing", {}
    return "PUT", agents, {"serviceName": "billing"}


async def listed(api: Any, agents: str = "/v1/agents", name: str = "billing") -> list[dict[str, Any]]:
    reply = await api("GET", f"{agents}/{name}/deployments")
    assert reply.status == 200, reply.json
    found: list[dict[str, Any]] = reply.json["deployments"]
    return found


async def agent(api: Any, name: str = "billing") -> dict[str, Any]:
    found: dict[str, Any] = (await api("GET", f"/v1/agents/{name}")).json
    return found


async def test_each_change_is_a_numbered_deployment(api: Any, agents: str, update: Any) -> None:
    made = (await api("POST", agents, value=NEW)).json
    method, path, named = update
    changed = (await api(method, path, value={**named, "maxSessionDuration": 900, "media": "messages"})).json
    second, first = await listed(api, agents)
    assert (first["number"], first["status"], first["changed"]) == (1, "replaced", [])
    assert (second["number"], second["status"]) == (2, "current")
    assert second["changed"] == ["max_session_duration", "media"]
    assert [each["manifest"]["spec"]["maxSessionDurationSeconds"] for each in (first, second)] == [600, 900]
    assert (made["activeDeploymentId"], changed["activeDeploymentId"]) == (first["id"], second["id"])
    for field in ("desiredDeploymentId", "reconciledDeploymentId"):
        assert changed[field] == second["id"], "the CLI waits for all of them"
    assert changed["deployment"]["number"] == 2
    assert changed["warning"] is None
    assert {first["serviceId"], second["serviceId"]} == {made["id"]}


async def test_a_change_of_nothing_is_no_deployment(api: Any, update: Any) -> None:
    await api("POST", "/v1/agents", value=NEW)
    method, path, named = update
    reply = await api(method, path, value={**named, "maxSessionDuration": 600})
    assert (reply.status, reply.json["activeDeploymentId"]) == (200, (await listed(api))[0]["id"])
    assert "no new one" in reply.json["warning"]
    assert len(await listed(api)) == 1


@pytest.mark.parametrize("name", ["id", "number"])
async def test_an_earlier_deployment_is_made_current_again_for_new_calls(
    api: Any, agents: str, name: str
) -> None:
    await api("POST", "/v1/agents", value=NEW)
    await api("POST", "/v1/agents/billing", value={"maxSessionDuration": 900, "instances": [THERE]})
    current, first = await listed(api)
    path = f"{agents}/billing/deployments/{first[name]}"
    assert (await api("GET", path)).json == first
    reply = await api("POST", f"{path}/activate")
    assert (reply.status, reply.json["maxSessionDuration"]) == (200, 600)
    assert reply.json["activeDeploymentId"] == first["id"]
    assert api.directory.find("billing.acme").instances == [HERE]
    assert [(each["number"], each["status"]) for each in await listed(api)] == [
        (2, "replaced"),
        (1, "current"),
    ]
    again = await api("POST", f"{path}/activate")
    assert (again.status, "current one already" in again.json["warning"]) == (200, True)
    await api("POST", "/v1/agents/billing", value={"maxSessionDuration": 700})
    assert [each["number"] for each in await listed(api)] == [3, 2, 1], "a number is given once"
    assert current["id"] in {each["id"] for each in await listed(api)}


async def test_a_session_says_which_deployment_it_began_on(api: Any, agents: str) -> None:
    await api("POST", "/v1/agents", value=NEW)
    (first,) = await listed(api)
    old = await api.begins("billing.acme", api.services.calls.now())
    before = await api.begins("billing.acme", DAY)
    await api("POST", "/v1/agents/billing", value={"maxSessionDuration": 900})
    new = await api.begins("billing.acme", api.services.calls.now())
    second = (await listed(api))[0]
    sessions = (await api("GET", f"{agents}/billing/sessions")).json["sessions"]
    began = {each["sessionId"]: each["deploymentId"] for each in sessions}
    assert began == {old: first["id"], new: second["id"], before: None}
    assert (await api("GET", f"{agents}/billing/sessions/{old}")).json["deploymentId"] == first["id"]
    for deployment, session in ((first, old), (second, new)):
        reply = await api("GET", f"{agents}/billing/sessions?deploymentId={deployment['id']}")
        assert [each["sessionId"] for each in reply.json["sessions"]] == [session]
        assert reply.json["total_count"] == 1


async def test_an_agent_of_the_file_has_one_deployment_the_file(api: Any, agents: str) -> None:
    session = await api.begins("support.acme", DAY)
    (only,) = await listed(api, agents, "support")
    assert (only["number"], only["status"]) == (0, "current")
    assert (await agent(api, "support"))["activeDeploymentId"] == only["id"]
    for path in (f"{only['id']}", "0"):
        assert (await api("GET", f"{agents}/support/deployments/{path}")).json == only
    reply = await api("POST", f"{agents}/support/deployments/0/activate")
    assert (reply.status, "configuration file" in reply.json["error"]) == (409, True)
    reply = await api("GET", f"{agents}/support/sessions?deploymentId={only['id']}")
    assert [each["sessionId"] for each in reply.json["sessions"]] == [session]
    assert (await listed(api, agents, "night"))[0]["id"] != only["id"]


@pytest.mark.parametrize("named", ["7", "x", "01", "00000000-0000-0000-0000-000000000000"])
async def test_a_deployment_that_is_none_is_not_found(api: Any, agents: str, named: str) -> None:
    await api("POST", "/v1/agents", value=NEW)
    for method, path in (("GET", named), ("POST", f"{named}/activate")):
        reply = await api(method, f"{agents}/billing/deployments/{path}")
        assert (reply.status, reply.json["code"]) == (404, "404")
    assert (await api("GET", f"{agents}/nobody/deployments")).status == 404


async def test_deployments_are_of_their_own_organisation(api: Any) -> None:
    await api("POST", "/v1/agents", value=NEW)
    assert (await api("GET", "/v1/agents/billing/deployments", key="sk_globex")).status == 404
    reply = await api("POST", "/v1/agents/billing/deployments/1/activate", key="sk_globex")
    assert reply.status == 404
    assert (await api("GET", "/v1/agents/billing/deployments", key="pk_acme")).status == 401


async def test_a_deployment_that_the_operator_allows_no_more_stays_replaced(
    work: Callable[..., Any],
) -> None:
    before = await work(api_may_set_instances=True)
    await before("POST", "/v1/agents", value={**NEW, "instances": [ELSEWHERE]})
    await before("POST", "/v1/agents/billing", value={"instances": [HERE]})
    after = await work()
    reply = await after("POST", "/v1/agents/billing/deployments/1/activate")
    assert (reply.status, "no more" in reply.json["error"]) == (409, True)
    assert [each["status"] for each in await listed(after)] == ["current", "replaced"]


async def test_the_oldest_deployments_are_forgotten(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "MAX_DEPLOYMENTS", 3)
    await api("POST", "/v1/agents", value=NEW)
    for seconds in (700, 800):
        await api("POST", "/v1/agents/billing", value={"maxSessionDuration": seconds})
    await api("POST", "/v1/agents/billing/deployments/1/activate")
    for seconds in (900, 1000):
        await api("POST", "/v1/agents/billing", value={"maxSessionDuration": seconds})
    assert [each["number"] for each in await listed(api)] == [5, 4, 3]


async def test_the_current_deployment_is_never_forgotten(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "MAX_DEPLOYMENTS", 2)
    await api("POST", "/v1/agents", value=NEW)
    await api("POST", "/v1/agents/billing", value={"maxSessionDuration": 700})
    await api("POST", "/v1/agents/billing/deployments/1/activate")
    await api("POST", "/v1/agents/billing", value={"maxSessionDuration": 800})
    numbers = [each["number"] for each in await listed(api)]
    assert numbers[0] == 3
    assert 1 in numbers, "it was current when its successor came"


async def test_changes_at_once_get_numbers_of_their_own(work: Callable[..., Any]) -> None:
    workers = [await work(), await work()]
    await workers[0]("POST", "/v1/agents", value=NEW)
    replies = await asyncio.gather(
        *(
            workers[number % 2]("POST", "/v1/agents/billing", value={"maxSessionDuration": 100 + number})
            for number in range(6)
        )
    )
    assert {reply.status for reply in replies} == {200}
    found = await listed(workers[0])
    assert [each["number"] for each in found] == [7, 6, 5, 4, 3, 2, 1]
    (current,) = [each for each in found if each["status"] == "current"]
    shown = await agent(workers[1])
    assert (shown["activeDeploymentId"], shown["maxSessionDuration"]) == (
        current["id"],
        current["manifest"]["spec"]["maxSessionDurationSeconds"],
    )


async def test_a_deleted_agents_deployments_are_gone(api: Any) -> None:
    await api("POST", "/v1/agents", value=NEW)
    (first,) = await listed(api)
    await api("DELETE", "/v1/agents/billing")
    assert (await api("GET", "/v1/agents/billing/deployments")).status == 404
    assert await api.store.key_values.list(DOCUMENT_KIND, api.services.calls.now()) == ()
    await api("POST", "/v1/agents", value=NEW)
    (fresh,) = await listed(api)
    assert (fresh["number"], fresh["id"] == first["id"]) == (1, False)


async def test_an_agent_of_an_earlier_version_has_its_first_deployment(api: Any) -> None:
    """It was stored without a deployment: it gets one, whoever looks, and a change makes the second."""
    await api("POST", "/v1/agents", value=NEW)
    values, now = api.store.key_values, api.services.calls.now()
    (stored,) = await values.list(AGENT, now)
    old = {
        key: value for key, value in json.loads(stored.value).items() if key not in ("deployment", "turns")
    }
    await values.put(AGENT, stored.key, json.dumps(old), now=now)
    for each in await values.list(DOCUMENT_KIND, now):
        await values.delete(DOCUMENT_KIND, each.key)
    (first,) = await listed(api)
    assert (first["number"], first["status"]) == (1, "current")
    session = await api.begins("billing.acme", now + 1)
    await api("POST", "/v1/agents/billing", value={"maxSessionDuration": 900})
    assert [each["id"] for each in await listed(api)][1] == first["id"]
    shown = (await api("GET", f"/v1/agents/billing/sessions/{session}")).json
    assert shown["deploymentId"] == (await listed(api))[0]["id"], "it begins a second later"


def test_turns_are_bounded_and_tell_what_was_current() -> None:
    current = CurrentDeployment("b", 2, 2, None)
    turns: tuple[Turn, ...] = tuple(Turn(float(at), "a") for at in range(deployments.MAX_TURNS))
    turns = with_turn(turns, current, 1000.0)
    assert len(turns) == deployments.MAX_TURNS
    assert [deployment_at(turns, at) for at in (0.5, 1.0, 999.0, 1000.0)] == [None, "a", "a", "b"]
