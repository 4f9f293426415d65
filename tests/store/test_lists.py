# SPDX-License-Identifier: BSD-2-Clause
"""Lists of sessions: every filter, alone and with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.interface import SessionFilter, Store

NewCall = Callable[..., CallDetails]


@pytest.fixture
async def listed(
    store: Store, new_call: NewCall, many_slots: SlotLimits, hung_up: SessionResult
) -> Callable[..., Any]:
    """Six sessions, "over" the oldest and "pending" the newest; lists their names, and how many match."""
    names = ["over", "canceled", "running", "starting", "other", "pending"]
    calls = {name: new_call("desk.other" if name == "other" else "support.acme") for name in names}
    for second, (name, call) in enumerate(calls.items()):
        options = SessionOptions(start_type="cold" if name in ("over", "running") else "warm")
        if name == "pending":
            await store.create_pending(call, options, 1000.0 + second, 1300.0)
        else:
            await store.admit(call, many_slots, 1000.0 + second, options)
        if name in ("over", "running"):
            await store.mark_running(call.session_id, 1000.5 + second)
        if name in ("over", "canceled"):
            await store.end(call.session_id, hung_up)
    by_id = {call.session_id: name for name, call in calls.items()}

    async def names_of(page: dict[str, int] | None = None, **conditions: Any) -> tuple[str, int]:
        records, total = await store.sessions(SessionFilter(**conditions), **(page or {}))
        return " ".join(by_id[record.session_id] for record in records), total

    return names_of


@pytest.mark.parametrize("whose", [{}, {"agent": "support.acme"}, {"organization": "acme"}])
@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({}, "pending starting running canceled over"),
        ({"active": True}, "starting running"),
        ({"active": False}, "canceled over"),
        ({"state": SessionState.CREATED}, "pending"),
        ({"state": SessionState.RUNNING}, "running"),
        ({"state": SessionState.CANCELED}, "canceled"),
        ({"state": SessionState.RUNNING, "active": True}, "running"),
        ({"state": SessionState.RUNNING, "active": False}, ""),
        ({"state": SessionState.CREATED, "active": True}, ""),
        ({"state": SessionState.ENDED, "active": False}, "over"),
        ({"start_type": "cold"}, "running over"),
        ({"start_type": "warm", "active": True}, "starting"),
        ({"start_type": "'; DROP TABLE session; --"}, ""),
        ({"created_from": 1002.0}, "pending starting running"),
        ({"created_before": 1002.0}, "canceled over"),
        ({"created_from": 1001.0, "created_before": 1003.0}, "running canceled"),
        ({"created_from": 1003.0, "created_before": 1001.0}, ""),
        ({"created_from": 1001.0, "active": False}, "canceled"),
    ],
)
async def test_a_list_has_the_sessions_that_match(
    whose: dict[str, str], conditions: dict[str, Any], names: str, listed: Callable[..., Any]
) -> None:
    found, total = await listed(**whose, **conditions)
    mine = [name for name in found.split() if name != "other"]
    assert " ".join(mine) == names
    assert total == len(found.split())
    if whose:
        assert "other" not in found


async def test_a_page_has_the_number_of_all_that_match(listed: Callable[..., Any]) -> None:
    assert await listed({"limit": 2, "offset": 1}, organization="acme") == ("starting running", 5)
    assert await listed({"limit": 1, "offset": 1}, organization="acme", active=False) == ("over", 2)
    assert await listed({"limit": 1, "offset": 9}, organization="acme", active=True) == ("", 2)


async def test_an_agent_and_its_organization_together(listed: Callable[..., Any]) -> None:
    assert await listed(agent="desk.other", organization="other") == ("other", 1)
    assert await listed(agent="desk.other", organization="acme") == ("", 0)
    assert await listed(agent="desk.other", organization="acme", active=True) == ("", 0)


async def test_sessions_of_the_same_moment_are_in_the_order_of_arrival(
    store: Store, new_call: NewCall, many_slots: SlotLimits
) -> None:
    calls = [new_call() for _ in range(5)]
    for call in calls:
        await store.admit(call, many_slots, 1000.0)
    records, _ = await store.sessions(SessionFilter(agent="support.acme"))
    assert [record.session_id for record in records] == [call.session_id for call in reversed(calls)]
