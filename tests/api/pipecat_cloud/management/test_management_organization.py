# SPDX-License-Identifier: BSD-2-Clause
"""An organisation through the management API: its properties, its keys, and unsupported operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.api.pipecat_cloud.conventions import CLI_TAG, REST_TAG
from gateway.api.pipecat_cloud.unsupported import UNSUPPORTED
from gateway.api.routes import OPERATIONS

MANAGEMENT = [operation for operation in OPERATIONS if operation.tag in (REST_TAG, CLI_TAG)]
REGIONS = ["us-west", "us-east", "eu-central", "ap-south"]


def filled(path: str) -> str:
    """A path of the table with words in it."""
    path = path.replace("{org}", "acme").replace("{agent}", "support").replace("{rest:path}", "")
    return path.replace("{", "").replace("}", "")


async def test_a_key_knows_its_own_organisation(api: Any) -> None:
    expected = {"id": "acme", "name": "acme", "verboseName": "acme"}
    assert (await api("GET", "/v1/organizations")).json == {"organizations": [expected]}
    assert (await api("GET", "/v1/organizations", key="sk_globex")).json["organizations"][0][
        "name"
    ] == "globex"


async def test_a_personal_token_is_a_private_key(api: Any) -> None:
    assert (await api("GET", "/v1/organizations", key="pcc_pat_acme")).status == 200


async def test_the_user_is_a_key_and_no_person(api: Any) -> None:
    user = (await api("GET", "/v1/users")).json["user"]
    assert user["emails"] == []
    assert "sk_acme" not in user["userId"]


async def test_the_daily_key_is_answered_if_there_is_one(api: Any) -> None:
    reply = await api("GET", "/v1/organizations/acme/daily")
    assert reply.json == {"apiKey": "daily-key-of-acme"}
    assert reply.headers["Cache-Control"] == "no-store"
    reply = await api("GET", "/v1/organizations/globex/daily", key="sk_globex")
    assert (reply.status, reply.json["code"]) == (404, "404")


async def test_regions_are_listed(api: Any, root: str) -> None:
    regions = (await api("GET", f"{root}/regions")).json["regions"]
    assert [region["code"] for region in regions] == REGIONS
    assert regions[0]["display_name"] == "US West (Oregon)"


async def test_the_default_region_is_changed_for_all_workers(work: Callable[..., Any]) -> None:
    one, other = await work(), await work()
    cli = "/v1/organizations/acme/properties"
    assert (await one("GET", cli)).json == {"properties": {"defaultRegion": "us-west"}}
    changed = await one("PATCH", cli, value={"defaultRegion": "eu-central"})
    assert (changed.status, changed.json) == (200, {"properties": {"defaultRegion": "eu-central"}})
    region = (await other("GET", "/v1/properties/schema")).json["properties"]["defaultRegion"]
    assert (region["currentValue"], region["default"]) == ("eu-central", "us-west")
    assert (region["type"], region["availableValues"]) == ("string", REGIONS)
    of_rest = await other("PATCH", "/v1/properties", value={"defaultRegion": "us-east"})
    assert of_rest.json["properties"]["defaultRegion"]["currentValue"] == "us-east"
    assert (await one("GET", cli, key="sk_globex")).status == 404
    of_others = await one("GET", "/v1/properties", key="sk_globex")
    assert of_others.json == {"properties": {"defaultRegion": "us-west"}}


@pytest.mark.parametrize("value", [{}, {"defaultRegion": "moon"}, {"defaultRegion": 1}, {"colour": "red"}])
async def test_a_property_is_not_set_to_anything(api: Any, root: str, value: dict[str, Any]) -> None:
    reply = await api("PATCH", f"{root}/properties", value=value)
    assert (reply.status, reply.json["code"]) == (400, "400")
    assert (await api("GET", f"{root}/properties")).json == {"properties": {"defaultRegion": "us-west"}}


async def test_configured_keys_are_listed_and_not_shown(api: Any, root: str) -> None:
    reply = await api("GET", f"{root}/apiKeys")
    (public,), private = reply.json["public"], reply.json["private"]
    assert public["metadata"] == {"name": "configured-public-0"}
    assert (public["revoked"], public["readOnly"], public["createdAt"]) == (False, True, "")
    assert len(private) == 2
    assert "sk_acme" not in str(reply.json)


@pytest.mark.parametrize(("kind", "prefix"), [("public", "pk_"), ("private", "sk_")])
async def test_a_key_is_shown_once_opens_and_is_revoked(
    work: Callable[..., Any], root: str, kind: str, prefix: str
) -> None:
    api, other = await work(), await work()
    made = await api("POST", f"{root}/apiKeys", value={"name": "web site", "type": kind})
    assert made.status == 200
    assert made.headers["Cache-Control"] == "no-store"
    key, key_id = made.json["key"], made.json["id"]
    assert key.startswith(prefix)
    assert (await other("GET", "/v1/organizations", key=key)).status == (200 if kind == "private" else 401)
    listed = await other("GET", f"{root}/apiKeys")
    assert key not in str(listed.json)
    (entry,) = [each for each in listed.json[kind] if each["id"] == key_id]
    assert (entry["metadata"], entry["revoked"]) == ({"name": "web site"}, False)
    assert entry["createdAt"].endswith("Z")
    assert (await other("DELETE", f"{root}/apiKeys/{key_id}")).json["revoked"] is True
    assert (await api("GET", "/v1/organizations", key=key)).status == 401
    assert (await api("DELETE", f"{root}/apiKeys/{key_id}")).status == 200
    (entry,) = [each for each in (await api("GET", f"{root}/apiKeys")).json[kind] if each["id"] == key_id]
    assert entry["revoked"] is True


async def test_keys_of_the_configuration_and_of_others_are_not_revoked(api: Any, root: str) -> None:
    reply = await api("DELETE", f"{root}/apiKeys/configured-private-0")
    assert (reply.status, reply.json["code"]) == (409, "409")
    theirs = (await api("POST", "/v1/apiKeys", key="sk_globex", value={"name": "theirs"})).json
    assert theirs["type"] == "public"
    assert (await api("DELETE", f"{root}/apiKeys/{theirs['id']}")).status == 404
    assert (await api("DELETE", f"{root}/apiKeys/nothing")).status == 404


@pytest.mark.parametrize(
    "value",
    [{}, {"name": ""}, {"name": "x" * 129}, {"name": "a\x1b[2J"}, {"name": "x", "type": "root"}, {"name": 1}],
)
async def test_a_key_needs_a_name_and_a_kind(api: Any, root: str, value: dict[str, Any]) -> None:
    reply = await api("POST", f"{root}/apiKeys", value=value)
    assert (reply.status, reply.json["code"]) == (400, "400")


async def test_nothing_is_managed_without_a_private_key(api: Any) -> None:
    for operation in MANAGEMENT:
        for key in (None, "pk_acme", "sk_nobody"):
            reply = await api(operation.method, filled(operation.path), key=key)
            assert reply.status == 401, operation.path
            assert reply.json == {
                "error": "Unauthorized / token expired",
                "info": "Unauthorized / token expired",
                "code": "401",
            }


async def test_another_organisation_is_not_found(api: Any) -> None:
    for operation in MANAGEMENT:
        if "{org}" in operation.path:
            value = (
                {"name": "x", "serviceName": "a-b", "defaultRegion": "us-east"} if operation.body else None
            )
            value = value and {name: value[name] for name in value if name in fields(operation)}
            reply = await api(operation.method, filled(operation.path), key="sk_globex", value=value)
            assert (reply.status, reply.json["code"]) == (404, "404"), operation.path


def fields(operation: Any) -> set[str]:
    """What its body takes."""
    return {field.alias for field in operation.body.model_fields.values()}


REFUSED = (
    ("/v1", "GET", "/agents/support/logs"),
    ("/v1", "GET", "/secrets"),
    ("/v1", "GET PUT DELETE", "/secrets/night"),
    ("/v1", "DELETE", "/secrets/night/TOKEN"),
    ("/v1", "GET POST", "/builds"),
    ("/v1", "GET", "/builds/7"),
    ("/v1", "GET", "/builds/7/logs"),
    ("/v1", "POST", "/builds/upload-url"),
    ("/v1/organizations/acme", "GET", "/services/support/logs"),
    ("/v1/organizations/acme", "GET", "/secrets"),
    ("/v1/organizations/acme", "POST", "/secrets/references"),
    ("/v1/organizations/acme", "GET PUT DELETE", "/secrets/night"),
    ("/v1/organizations/acme", "DELETE", "/secrets/night/TOKEN"),
    ("/v1/organizations/acme", "GET POST", "/agent-profiles"),
    ("/v1/organizations/acme", "PATCH", "/agent-profiles/small"),
    ("/v1/organizations/acme", "POST", "/regions"),
    ("/v1/organizations/acme", "GET DELETE", "/regions/moon"),
    ("/v1/organizations/acme", "POST", "/regions/moon/enrollment-tokens"),
    ("/v1/organizations/acme", "GET POST", "/registry-keys"),
    ("/v1/organizations/acme", "DELETE", "/registry-keys/7"),
    ("/v1/organizations/acme", "GET PUT", "/spend-limit"),
    ("/v1/organizations/acme", "GET POST", "/builds"),
    ("/v1/organizations/acme", "GET", "/builds/7"),
    ("/v1/organizations/acme", "GET", "/builds/7/logs"),
    ("/v1/organizations/acme", "POST", "/builds/upload-url"),
    ("/v1/organizations/acme", "GET", "/github/install-url"),
    ("/v1/organizations/acme", "GET", "/github/link-url"),
    ("/v1/organizations/acme", "GET DELETE", "/github/installation"),
    ("/v1/organizations/acme", "GET", "/github/repositories"),
    ("/v1/organizations/acme", "GET", "/github/repositories/owner/name/branches?query=ma"),
    ("/v1/organizations/acme", "POST DELETE", "/services/support/environments/production/git"),
    ("/v1/organizations/acme", "POST", "/services/support/environments/production/git/deploy"),
)
"""The requests of Pipecat Cloud's REST document, and of its package `pipecatcloud` 1.4.0, that a gateway has
no answer to: root, methods, path.
"""


@pytest.mark.parametrize(("root", "methods", "path"), REFUSED, ids=lambda part: part)
async def test_what_a_gateway_cannot_offer_is_501_and_a_sentence(
    api: Any, root: str, methods: str, path: str
) -> None:
    for method in methods.split():
        reply = await api(method, f"{root}{path}", value={} if method != "GET" else None)
        assert (reply.status, reply.json["code"]) == (501, "501"), method
        assert len(reply.json["error"].split()) > 4


async def test_what_a_gateway_has_nothing_of_is_501_with_every_method(api: Any) -> None:
    for operation in UNSUPPORTED:
        reply = await api(operation.method, filled(operation.path))
        assert (reply.status, reply.json["code"]) == (501, "501"), operation.path


async def test_another_name_that_begins_alike_is_not_found(api: Any) -> None:
    assert (await api("GET", "/v1/secretservice")).status == 404
    assert (await api("GET", "/v1/organizations/acme/githubs/7")).status == 404


@pytest.mark.parametrize("name", ["[bold]", "[/red]", "a[0]"])
async def test_no_answer_has_the_square_brackets_that_the_cli_takes_for_markup(api: Any, name: str) -> None:
    asked = (
        ("GET", f"/v1/agents/{name}", None),
        ("GET", f"/v1/agents/support/sessions?status={name}", None),
        ("POST", "/v1/agents", {name: 1}),
        ("POST", "/v1/agents", {"serviceName": name, "instances": [name]}),
        ("POST", "/v1/agents", {"serviceName": "fresh", "instances": ["http://127.0.0.1:1"]}),
        ("PATCH", "/v1/properties", {name: name}),
        ("POST", "/v1/organizations/acme/apiKeys", {name: name}),
        ("GET", f"/v1/organizations/{name}/services", None),
        ("DELETE", f"/v1/agents/support/sessions/{name}", None),
        ("POST", f"/v1/public/{name}/start", {}),
        ("POST", "/v1/public/support/start", {name: {}}),
        ("GET", "/v1/organizations/globex/daily", None),
    )
    for method, path, value in asked:
        reply = await api(method, path, value=value)
        assert reply.status >= 400, path
        assert not set("[]") & set(reply.json["error"] + reply.json["info"]), reply.json
