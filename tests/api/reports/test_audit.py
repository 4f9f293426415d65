# SPDX-License-Identifier: BSD-2-Clause
"""`GET /v1/audit`: which key changed what, and what was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.simulator.waiting import POLL_S, WAIT_S

Work = Callable[..., Any]


async def entries(api: Any, query: str = "", key: str = "sk_acme") -> list[dict[str, Any]]:
    reply = await api("GET", f"/v1/audit{query}", key=key)
    assert reply.status == 200
    found: list[dict[str, Any]] = reply.json["data"]
    return found


async def test_changes_are_recorded_with_their_key(work: Work) -> None:
    api, other = await work(), await work()
    made = await api("POST", "/v1/apiKeys", value={"type": "public", "name": "shop"})
    assert made.status == 200
    key_id = made.json["id"]
    path = f"/v1/organizations/acme/apiKeys/{key_id}"
    assert (await api("DELETE", path, key="pcc_pat_acme")).status == 200
    assert (await api("DELETE", "/v1/agents/support")).status == 409
    async with asyncio.timeout(WAIT_S):
        while len(recorded := await entries(other)) < 3:  # written after the answer
            await asyncio.sleep(POLL_S)
    assert [(each["method"], each["path"], each["status"]) for each in recorded] == [
        ("DELETE", "/v1/agents/support", 409),
        ("DELETE", path, 200),
        ("POST", "/v1/apiKeys", 200),
    ]
    assert (
        recorded[2]["request_id"]
        == {name.lower(): each for name, each in made.headers.items()}["x-request-id"]
    )
    assert recorded[0]["key"] == recorded[2]["key"] != recorded[1]["key"]
    assert {each["client"] for each in recorded} == {"127.0.0.1"}
    assert made.json["key"] not in str(recorded)
    assert "sk_acme" not in str(recorded)


async def test_reading_is_no_change(api: Any) -> None:
    for path in ("/v1/agents", "/v1/apiKeys", "/v1/usage", "/v1/agents/support/sessions"):
        assert (await api("GET", path)).status == 200
    assert await entries(api) == []


async def test_a_stopped_session_is_recorded(api: Any) -> None:
    session_id = await api.begins()
    path = f"/v1/agents/support/sessions/{session_id}"
    assert (await api("DELETE", path)).status == 200
    assert [(each["path"], each["status"]) for each in await entries(api)] == [(path, 200)]


async def test_a_stranger_is_not_recorded(api: Any) -> None:
    assert (await api("DELETE", "/v1/agents/support", key="sk_wrong")).status == 401
    assert (await api("DELETE", "/v1/agents/support", key=None)).status == 401
    assert await entries(api) == []


async def test_a_public_key_that_tries_is_recorded(api: Any) -> None:
    assert (await api("DELETE", "/v1/agents/support", key="pk_acme")).status in (401, 403)
    (entry,) = await entries(api)
    assert entry["status"] in (401, 403)


async def test_each_organisation_sees_its_own(api: Any) -> None:
    await api("DELETE", "/v1/agents/sales", key="sk_globex")
    assert await entries(api) == []
    assert len(await entries(api, key="sk_globex")) == 1


async def test_pages_and_times(api: Any) -> None:
    for number in range(3):
        await api("DELETE", f"/v1/agents/none-{number}")
    whole = await entries(api)
    reply = await api("GET", "/v1/audit?limit=1&offset=1")
    assert (reply.json["data"], reply.json["total"], reply.json["has_more"]) == ([whole[1]], 3, True)
    assert await entries(api, "?to=2026-01-01T00:00:00Z") == []
    assert await entries(api, "?from=2026-01-01T00:00:00Z") == whole
    assert (await api("GET", "/v1/audit?from=1772323200")).status == 422
