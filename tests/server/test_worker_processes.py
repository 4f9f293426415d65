# SPDX-License-Identifier: BSD-2-Clause
"""Several workers: if one dies, only its own calls end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import (
    Call,
    assert_agent_heard,
    assert_caller_heard,
    assert_ended,
    assert_refused,
    connect,
    hang_up,
)
from tests.harness.gateway import Gateway
from tests.harness.transcripts import replies, talk


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    agent |= {"sessions_per_instance": 2, "max_agents": 1}
    return start_gateway(server={"workers": 2}, agents=[agent], limits={"close_timeout": 0.5})


def owner_of(gateway: Gateway, call: Call) -> Any:
    return gateway.sessions(call.session)[0]["owner"]


async def one_call_on_each(gateway: Gateway, support: Agent) -> tuple[Call, Call]:
    """Connect two calls that different workers carry; they take both slots."""
    first = await connect(gateway, support)
    while True:
        second = await connect(gateway, support)
        if owner_of(gateway, second) != owner_of(gateway, first):
            return first, second
        await hang_up(second)
        await assert_ended(gateway, second.session, "caller_hangup", "caller")


async def test_a_killed_worker_loses_only_its_own_calls_and_is_restarted(
    gateway: Gateway, support: Agent
) -> None:
    doomed, lucky = await one_call_on_each(gateway, support)
    before = len(gateway.ends())
    full = await gateway.dial("/ws/generic/support.acme")
    assert full.refusal == (429, "at_capacity")
    await assert_refused(
        gateway, before, "at_capacity"
    )  # logged before the worker that logs it may be killed
    pids = {worker["id"]: worker["pid"] for worker in gateway.workers()}
    victim = pids[owner_of(gateway, doomed)]
    assert victim != gateway.process.pid
    os.kill(victim, signal.SIGKILL)
    gateway.upgrades -= 1  # it cannot log the end of its call any more

    assert await doomed.caller.closed() == (1006, "")
    assert await doomed.agent.closed() == (1006, "")
    # The call of the other worker continues.
    await assert_agent_heard(lucky.agent, [lucky.caller.say(message) for message in talk("twilio")])
    await assert_caller_heard(lucky.caller, [lucky.agent.say(message) for message in replies("twilio")])

    def lost_sessions() -> list[dict[str, Any]]:
        return [row for row in gateway.sessions(doomed.session) if row["ended_at"] is not None]

    (record,) = await eventually(lost_sessions, "the session of the dead worker is closed")
    assert (record["reason"], record["side"], record["state"]) == ("gateway_lost", "gateway", "failed")
    assert str(victim) in record["detail"]

    def lost_lines() -> list[dict[str, Any]]:
        return [line for line in gateway.log_lines() if line["event"] == "session_lost"]

    (line,) = await eventually(lost_lines, "it is logged")
    assert (line["session"], line["detail"]) == (doomed.session, record["detail"])

    # Its slot is free, and a new worker has taken its place.
    third = await connect(gateway, support)
    await eventually(lambda: len(gateway.workers()) == 2, "a worker is started again")
    assert victim not in [worker["pid"] for worker in gateway.workers()]

    def dead_workers() -> list[int]:
        return [line["pid"] for line in gateway.log_lines() if line["event"].startswith("a worker died")]

    assert await eventually(dead_workers, "its death is logged") == [victim]
    for call in (lucky, third):
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_a_worker_that_is_restarted_makes_no_store_beside_that_of_the_others(gateway: Gateway) -> None:
    pids = [worker["pid"] for worker in gateway.workers()]
    files = [gateway.store.with_name(f"{gateway.store.name}{suffix}") for suffix in ("", "-wal", "-shm")]
    away = [file.rename(file.with_name(f"away{file.name}")) for file in files]
    os.kill(pids[0], signal.SIGKILL)

    def refused() -> bool:
        errors = [line["error"] for line in gateway.log_lines() if line["event"] == "cannot start"]
        return any("is missing, and other workers may have it open" in error for error in errors)

    await eventually(refused, "the restarted worker refuses to start")
    assert not any(file.exists() for file in files)
    for file, moved in zip(files, away, strict=True):
        moved.rename(file)
    await eventually(lambda: gateway.listening() == 2, "it starts once the store is back")
    await eventually(lambda: pids[0] not in {worker["pid"] for worker in gateway.workers()}, "as a new one")


async def test_status_counts_the_calls_of_all_workers(gateway: Gateway, support: Agent) -> None:
    first, second = await one_call_on_each(gateway, support)
    await eventually(lambda: gateway.status()["sessions"]["by_state"]["running"] == 2, "both run")
    status = gateway.status()
    assert status["sessions"]["active"] == 2
    assert status["calls"] == 1, "those of the worker that answered"
    for call in (first, second):
        await hang_up(call)
        await assert_ended(gateway, call.session, "caller_hangup", "caller")


async def test_workers_drain_after_their_parent_was_killed(
    start_gateway: Callable[..., Gateway], support_port: AgentPort, support: Agent
) -> None:
    """They notice it, let their calls finish, and end."""
    agent = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    gateway = start_gateway(server={"workers": 2, "drain_timeout": 60}, agents=[agent])
    call = await connect(gateway, support)
    gateway.process.kill()
    await eventually(lambda: len(gateway.workers()) == 1, "the idle worker ends")
    await assert_agent_heard(call.agent, [call.caller.say(talk("twilio")[0])])
    await hang_up(call)
    await assert_ended(gateway, call.session, "caller_hangup", "caller")
    await eventually(lambda: gateway.workers() == [], "the last worker ends")
