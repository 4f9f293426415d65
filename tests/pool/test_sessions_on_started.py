# SPDX-License-Identifier: BSD-2-Clause
"""Sessions on agents that the gateway starts: `POST /bot`, a lost agent, what was printed meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.pool.instance_files import InstanceFiles
from gateway.simulator.waiting import eventually
from tests.harness.api_requests import KEY, api_request
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening
from tests.pool.conftest import lines, logged

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("instances")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file without which the agent `slow` is not ready."""
    return tmp_path_factory.mktemp("ready") / "ready"


@pytest.fixture(scope="module")
def gateway(
    start_pool: Callable[..., Gateway],
    pool_agent: Callable[..., dict[str, Any]],
    pool_folder: Path,
    ready: Path,
) -> Gateway:
    return start_pool(
        pool_agent("bot"),
        pool_agent("one-shot", "one-shot"),
        pool_agent("crashing", resume_timeout=60),
        pool_agent("printing", min_agents=1),
        pool_agent("slow", f"ready-after={ready}", max_agents=1),
        organizations=[{"name": "acme", "public_keys": ["pk_acme"], "private_keys": [KEY]}],
        server={"pool_folder": str(pool_folder)},
        limits={"agent_connect_timeout": 3},
    )


async def test_a_session_at_bot_starts_its_agent(gateway: Gateway) -> None:
    status = await asyncio.to_thread(api_request, gateway, "POST", "/v1/public/bot/start", {"body": "{}"})
    assert status == 200
    (record,) = await eventually(
        lambda: [each for each in gateway.sessions() if each["agent"] == "bot.acme"], "it is a session"
    )
    assert record["state"] == "running"
    stop = f"/v1/agents/bot/sessions/{record['id']}"
    assert await asyncio.to_thread(api_request, gateway, "DELETE", stop) == 200


async def test_a_session_does_not_wait_for_an_agent_that_has_just_ended(gateway: Gateway) -> None:
    """An agent may end after each session; the next one begins before anybody has noticed that."""
    start = "/v1/public/one-shot/start"
    for count in (1, 2, 3):
        status = await asyncio.to_thread(api_request, gateway, "POST", start, {"body": "{}"})
        assert status == 200, gateway.log_text()[-3000:]
        records = [each for each in gateway.sessions() if each["agent"] == "one-shot.acme"]
        assert len(records) == count
        session = records[-1]["id"]
        stop = f"/v1/agents/one-shot/sessions/{session}"
        assert await asyncio.to_thread(api_request, gateway, "DELETE", stop) == 200
        await eventually(lambda session=session: gateway.sessions(session)[0]["ended_at"], "it is over")
        await logged(gateway, "instance ended", "one-shot", count)
    assert len({each["instance"] for each in gateway.sessions() if each["agent"] == "one-shot.acme"}) == 3
    assert lines(gateway, "instance failed", "one-shot") == []


async def test_a_caller_whose_agent_is_lost_gets_another_that_is_started_for_the_call(
    gateway: Gateway,
) -> None:
    caller = await gateway.dial("/ws/twilio/crashing.acme")
    for message in opening("twilio"):
        caller.say(message)
    first = (await caller.hear()).payload
    assert first.startswith(b"instance ")
    caller.say('{"event": "media", "media": {"payload": "crash"}}')
    second = (await caller.hear()).payload
    assert second.startswith(b"instance ")
    assert first != second
    (failed,) = await logged(gateway, "instance failed", "crashing")
    assert failed["error"] == "exit status 3"
    await caller.hang_up()


async def test_a_caller_hears_the_holding_sound_while_the_agent_is_started(
    start_pool: Callable[..., Gateway], pool_agent: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    gateway = await asyncio.to_thread(
        lambda: start_pool(pool_agent("cold", f"ready-after={tmp_path}/ready", hold="ringback"))
    )
    caller = await gateway.dial("/ws/twilio/cold.acme")
    for message in opening("twilio"):
        caller.say(message)
    frame = await caller.hear()
    assert b'"media"' in frame.payload
    (tmp_path / "ready").touch()
    while b"instance" not in frame.payload:
        frame = await caller.hear()
    await caller.hang_up()
    await gateway.callers_leave()


async def test_waiting_for_an_agent_that_is_started_is_no_slow_connection(
    gateway: Gateway, ready: Path
) -> None:
    """`agent_connect_timeout` counts from when it is ready."""
    dialing = asyncio.create_task(gateway.dial("/ws/generic/slow.acme"))
    await logged(gateway, "instance is started", "slow")
    await asyncio.sleep(3.3)
    assert not dialing.done()
    ready.touch()
    caller = await dialing
    assert caller.status == 101
    await caller.hang_up()


async def test_what_an_agent_prints_is_found_by_the_times_of_its_session(
    gateway: Gateway, call: Call, pool_folder: Path
) -> None:
    files = InstanceFiles(pool_folder)
    await logged(gateway, "instance is ready", "printing")
    sessions = []
    for _ in range(2):
        caller, _ = await call(gateway, "printing")
        await asyncio.sleep(1.2)  # so that its lines have a time of their own
        await caller.hang_up()
        sessions.append(
            await eventually(
                lambda: next(
                    (
                        each
                        for each in gateway.sessions()
                        if each["agent"] == "printing.acme"
                        and each["ended_at"]
                        and each["id"] not in [one["id"] for one in sessions]
                    ),
                    None,
                ),
                "it is over",
            )
        )
        await asyncio.sleep(1.2)
    for session in sessions:
        assert session is not None
        printed = [
            line.text
            for line in files.lines(session["instance"], session["admitted_at"], session["ended_at"])
        ]
        assert printed == [f"session {session['id']} {what}" for what in ("begins", "ends")]
    assert lines(gateway, "instance failed", "printing") == []
