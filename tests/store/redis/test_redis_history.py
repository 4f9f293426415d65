# SPDX-License-Identifier: BSD-2-Clause
"""The history on Redis is in memory, so it has an end: `[store] max_history`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.model.session import CallDetails, SessionOptions, SessionResult, SlotLimits
from gateway.store.history import ManagementCall, Removed
from gateway.store.interface import SessionFilter
from gateway.store.redis.redis_store import RedisStore

NOW = 1000.0


async def test_the_oldest_calls_above_the_bound_are_removed(
    open_node: Callable[..., Any],
    new_call: Callable[..., CallDetails],
    many_slots: SlotLimits,
    hung_up: SessionResult,
    browser_options: SessionOptions,
) -> None:
    store: RedisStore = await open_node(max_history=3)
    calls = [new_call() for _ in range(6)]
    for number, call in enumerate(calls):
        await store.admit(call, many_slots, NOW + number)
    for number, call in enumerate(calls[:5]):
        await store.end(call.session_id, replace(hung_up, ended_at=NOW + 10 + number))
    unused = new_call()
    await store.create_pending(unused, browser_options, NOW, NOW + 300)
    await store.request_stop(unused.session_id, NOW + 20)

    # One is old enough to be blanked, which is what would be removed first anyway.
    assert await store.history.prune(NOW + 11, 0.0, 2) == Removed(1, 2, 0)
    assert await store.history.prune(0.0, 0.0, 2) == Removed(0, 1, 0)
    assert await store.history.prune(0.0, 0.0, 2) == Removed(0, 0, 0)
    kept, total = await store.sessions(SessionFilter(organization="acme"))
    assert {each.session_id for each in kept} == {
        *(call.session_id for call in calls[3:]),
        unused.session_id,
    }
    assert total == 4
    (used,) = await store.history.usage("acme", 0, 0, NOW + 30)
    assert used.sessions == 6


async def test_the_oldest_management_calls_above_the_bound_are_removed(open_node: Callable[..., Any]) -> None:
    store: RedisStore = await open_node(max_history=2)
    at = itertools.count(NOW)
    for organization in ("acme", "globex"):
        for number in range(5):
            await store.history.record_call(
                ManagementCall(next(at), organization, "sk-1", "PUT", "/v1", 200, f"r{number}", "::1")
            )
    assert (await store.history.prune(0.0, NOW + 1, 4)).management_calls == 4
    assert (await store.history.prune(0.0, 0.0, 4)).management_calls == 2
    assert (await store.history.prune(0.0, 0.0, 4)).management_calls == 0
    found, total = await store.history.management_calls("acme", 0.0, NOW * 2, limit=9, offset=0)
    assert ([each.request_id for each in found], total) == (["r4", "r3"], 2)
