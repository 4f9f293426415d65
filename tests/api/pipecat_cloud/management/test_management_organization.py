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
    return path.replace("{org}", "acme").replace("{agent}", "support").replace("{", "").replace("}", "")


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


async def test_unsupported_operations_answer_501_and_a_sentence(api: Any) -> None:
    for operation in UNSUPPORTED:
        reply = await api(operation.method, filled(operation.path))
        assert reply.status == 501, operation.path
        assert reply.json["code"] == "501"
        assert len(reply.json["error"].split()) > 4
