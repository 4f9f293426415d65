# SPDX-License-Identifier: BSD-2-Clause
"""Calls to agents that the gateway starts itself, with real processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.gateway import Gateway
from tests.pool.conftest import lines, logged

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def gateway(start_pool: Callable[..., Gateway], pool_agent: Callable[..., dict[str, Any]]) -> Gateway:
    """A gateway whose agents are as different as their names."""
    return start_pool(
        pool_agent("cold", max_agents=2),
        pool_agent("warm", min_agents=2, max_agents=3),
        pool_agent("short", cooldown=0),
        pool_agent("one-shot", "one-shot"),
        pool_agent("broken", "exit=7", min_agents=1),
        pool_agent("lazy", "never-ready", start_limit=0.5),
        pool_agent("single", "deaf", recycle_after_sessions=1, max_agents=1, stop_grace=0.5),
        pool_agent("worn", recycle_after_sessions=1, min_agents=1, max_agents=3),
    )


async def test_a_caller_of_an_agent_that_does_not_run_waits_until_it_does(
    gateway: Gateway, call: Call
) -> None:
    first, port = await call(gateway, "cold")
    second, other = await call(gateway, "cold")
    assert port != other
    third = await gateway.dial("/ws/generic/cold.acme")
    assert third.refusal == (429, "at_capacity")
    await first.hang_up()
    await eventually(lambda: any(end["event"] == "call ended" for end in gateway.ends()), "its call ends")
    _, again = await call(gateway, "cold")
    assert again == port
    await second.hang_up()


async def test_instances_run_before_anybody_calls(gateway: Gateway, call: Call) -> None:
    await logged(gateway, "instance is ready", "warm", 2)
    await call(gateway, "warm")
    await call(gateway, "warm")
    assert len(lines(gateway, "instance is started", "warm")) == 2


async def test_an_instance_that_is_not_needed_any_more_is_stopped(gateway: Gateway, call: Call) -> None:
    caller, port = await call(gateway, "short")
    assert lines(gateway, "instance leaves", "short") == []
    await caller.hang_up()
    (stopped,) = await logged(gateway, "instance is stopped", "short")
    assert stopped["instance"].endswith(port)


async def test_an_agent_that_ends_after_one_session_is_no_failure(gateway: Gateway, call: Call) -> None:
    caller, port = await call(gateway, "one-shot")
    await caller.hang_up()
    await logged(gateway, "instance ended", "one-shot")
    _, other = await call(gateway, "one-shot")
    assert port != other
    assert lines(gateway, "instance failed", "one-shot") == []


async def test_an_agent_that_ends_as_it_starts_is_tried_less_and_less_often(gateway: Gateway) -> None:
    failed = await logged(gateway, "instance failed", "broken", 2)
    assert [line["failures"] for line in failed[:2]] == [1, 2]
    assert [line["seconds"] for line in failed[:2]] == [1.0, 2.0]
    assert failed[0]["error"] == "exit status 7, before it was ready"


async def test_an_agent_that_is_never_ready_is_stopped_and_its_caller_learns_it(gateway: Gateway) -> None:
    caller = await gateway.dial("/ws/generic/lazy.acme")
    assert caller.status in (429, 502, 504), caller.body
    assert "not ready in time" not in caller.body.decode(), "the caller's side learns nothing of the agent"
    failed = await logged(gateway, "instance failed", "lazy")
    assert failed[0]["error"] == "it was not ready in time"
    await logged(gateway, "instance is stopped", "lazy")


async def test_an_instance_is_replaced_after_its_sessions(gateway: Gateway, call: Call) -> None:
    await logged(gateway, "instance is ready", "worn", 1)
    caller, port = await call(gateway, "worn")
    (leaving, *_) = await logged(gateway, "instance leaves", "worn")
    assert leaving["instance"].endswith(port)
    _, other = await call(gateway, "worn")
    assert other != port
    await caller.hang_up()
    (stopped, *_) = await logged(gateway, "instance is stopped", "worn")
    assert stopped["instance"].endswith(port)


async def test_a_caller_waits_while_the_only_instance_is_replaced(gateway: Gateway, call: Call) -> None:
    for _ in range(3):  # each finds the one before in use, on its way out, or gone
        caller, _ = await call(gateway, "single")
        await caller.hang_up()
    assert not [line for line in gateway.ends() if line["reason"] == "at_capacity" and "single" in str(line)]
