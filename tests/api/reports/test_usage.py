# SPDX-License-Identifier: BSD-2-Clause
"""`GET /v1/usage`: what an organisation's sessions used."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.reasons import Reasons

DAY = 86_400.0
MARCH_1 = 1_772_323_200.0  # 2026-03-01T00:00:00Z


async def call(api: Any, at: float, seconds: float, agent: str = "support.acme") -> None:
    session_id = await api.begins(agent, at)
    await api.ends(session_id, SessionState.ENDED, Reasons.caller_hangup, at + seconds)


@pytest.fixture
async def spring(api: Any) -> None:
    """Calls on the last day of February and on two days of March, of two agents and another organisation."""
    await call(api, MARCH_1 - 1.0, 31.0)
    await call(api, MARCH_1, 10.0)
    await call(api, MARCH_1 + DAY, 20.25)
    await call(api, MARCH_1 + DAY + 60.0, 40.0, "night.acme")
    await call(api, MARCH_1, 1000.0, "sales.globex")


async def test_by_day(api: Any, spring: None) -> None:
    reply = await api("GET", "/v1/usage?from=2026-02-28&to=2026-03-02")
    assert reply.status == 200
    assert reply.json == {
        "from": "2026-02-28",
        "to": "2026-03-02",
        "by": "day",
        "total": {"sessions": 4, "seconds": 101.25},
        "rows": [
            {"day": "2026-02-28", "sessions": 1, "seconds": 31.0},
            {"day": "2026-03-01", "sessions": 1, "seconds": 10.0},
            {"day": "2026-03-02", "sessions": 2, "seconds": 60.25},
        ],
    }


async def test_by_agent(api: Any, spring: None) -> None:
    reply = await api("GET", "/v1/usage?from=2026-03-01&to=2026-03-31&by=agent")
    assert reply.json["rows"] == [
        {"agent": "night.acme", "sessions": 1, "seconds": 40.0},
        {"agent": "support.acme", "sessions": 2, "seconds": 30.25},
    ]
    assert reply.json["total"] == {"sessions": 3, "seconds": 70.25}


async def test_an_organisation_sees_its_own(api: Any, spring: None) -> None:
    reply = await api("GET", "/v1/usage?from=2026-02-01&to=2026-03-31", key="sk_globex")
    assert reply.json["total"] == {"sessions": 1, "seconds": 1000.0}


async def test_the_month_so_far_unless_told_otherwise(api: Any) -> None:
    await call(api, time.time() - 5.0, 2.0)
    today = datetime.now(UTC).date()
    reply = await api("GET", "/v1/usage")
    assert reply.json["to"] in (str(today), str(datetime.now(UTC).date()))
    assert reply.json["from"] == reply.json["to"][:8] + "01"
    assert reply.json["total"]["sessions"] in (0, 1)  # the call may have begun last month
    (row,) = (await api("GET", "/v1/usage?from=2026-03-01")).json["rows"]
    assert (row["sessions"], row["seconds"]) == (1, 2.0)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("from=2026-03-02&to=2026-03-01", "from"),
        ("from=1999-01-01&to=2026-03-01", "from"),
        ("from=yesterday", "from"),
        ("from=1772323200", "from"),
        ("to=2026-02-30", "to"),
        ("by=hour", "by"),
        ("agent=support", "agent"),
    ],
)
async def test_what_cannot_be_meant_is_422(api: Any, query: str, param: str) -> None:
    reply = await api("GET", f"/v1/usage?{query}")
    assert reply.status == 422
    assert reply.json["error"]["param"] == param
    assert "Value error" not in reply.json["error"]["message"]


@pytest.mark.parametrize("key", [None, "pk_acme", "sk_wrong"])
async def test_usage_and_audit_want_a_private_key(api: Any, key: str | None) -> None:
    for path in ("/v1/usage", "/v1/audit"):
        assert (await api("GET", path, key=key)).status in (401, 403)
