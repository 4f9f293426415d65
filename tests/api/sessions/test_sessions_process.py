# SPDX-License-Identifier: BSD-2-Clause
"""The session resource of the real gateway with two workers: pending session, report, stop."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.call_assertions import assert_each_end_logged, assert_no_slots_taken
from tests.harness.gateway import Gateway
from tests.harness.transcripts import opening

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., Gateway], support_port: AgentPort) -> Gateway:
    support = {"name": "support", "organization": "acme", "instances": [support_port.url]}
    support |= {"sessions_per_instance": 2, "max_agents": 1, "websocket_auth": "token"}
    support |= {"queue_size": 1, "hold": "none"}
    return start_gateway(
        server={"workers": 2},
        organizations=[{"name": "acme", "private_keys": ["sk_acme"]}],
        agents=[support],
        limits={"close_timeout": 0.5},
    )


@pytest.fixture(autouse=True)
async def nobody_holds_the_line(gateway: Gateway) -> AsyncIterator[None]:
    yield
    await gateway.callers_leave()
    await assert_no_slots_taken(gateway)
    await assert_each_end_logged(gateway)


@pytest.fixture
async def ask(gateway: Gateway) -> AsyncIterator[Ask]:
    """One request on a connection of its own, so that any worker may get it; status and JSON."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, headers={"Authorization": "Bearer sk_acme"}
    ) as client:

        async def send(method: str, path: str, value: Any = None) -> tuple[int, Any]:
            url = f"http://127.0.0.1:{gateway.port}/v1/sessions{path}"
            async with client.request(method, url, json=value) as answer:
                return answer.status, await answer.json()

        yield send


async def promised(ask: Ask, **fields: Any) -> Any:
    wanted = {"agent": "support", "transport": {"type": "websocket"}, **fields}
    status, session = await ask("POST", "", wanted)
    assert status == 201, session
    return session


def target(session: Any) -> str:
    """Where its socket goes, with the token in the path."""
    url = urlsplit(session["transport"]["url"])
    query = f"?{url.query}" if url.query else ""
    return f"{url.path}/{session['transport']['token']}{query}"


async def shown(ask: Ask, session_id: str) -> Any:
    status, session = await ask("GET", f"/{session_id}")
    assert status == 200, session
    return session


async def once_over(ask: Ask, session_id: str) -> dict[str, Any]:
    """The session when its end is written: the legs are closed a moment before."""
    status, over = await ask("GET", f"/{session_id}?wait_for_completion=true&timeout_seconds=30")
    assert status == 200
    return over


async def test_the_socket_runs_the_pending_session(gateway: Gateway, support: Agent, ask: Ask) -> None:
    session = await promised(ask, metadata={"ticket": "4711"}, body={"name": "Ada"})
    session_id = session["id"]
    caller = await gateway.dial(target(session))
    agent = await support.call()
    assert agent.session == session_id
    assert agent.path.startswith("/ws?body=")
    caller.say("hello")
    assert (await agent.hear()).payload == b"hello"
    await eventually(lambda: gateway.sessions(session_id)[0]["state"] == "running", "it is written down")

    status, reported = await ask("POST", f"/{session_id}/complete", {"results": {"resolved": True}})
    assert (status, reported["status"]) == (200, "running")
    waiting = [
        asyncio.create_task(ask("GET", f"/{session_id}?wait_for_completion=true&timeout_seconds=120"))
        for _ in range(6)
    ]
    assert (await ask("POST", f"/{session_id}/stop"))[0] == 200
    assert (await caller.closed())[0] == 1000
    assert (await agent.closed())[0] == 1000
    for status, over in await asyncio.gather(*waiting):
        assert (status, over["status"], over["end_reason"]) == (200, "ended", "stopped")
        assert (over["metadata"], over["results"]) == ({"ticket": "4711"}, {"resolved": True})
        assert over["usage"]["frames_in"] == 1
    assert session["transport"]["token"] not in json.dumps(over)
    assert (await ask("POST", f"/{session_id}/complete", {"results": 1}))[0] == 409


async def test_any_worker_tells_what_a_running_call_has_passed(
    gateway: Gateway, support: Agent, ask: Ask
) -> None:
    caller = await gateway.dial(target(await promised(ask)))
    silent = await support.call()
    speaking = await gateway.dial(target(await promised(ask)))
    agent = await support.call()
    for words in ("one", "two", "three"):
        speaking.say(words)
        await agent.hear()
    agent.say("hello")
    await speaking.hear()

    async def passed() -> bool:
        views = [await shown(ask, agent.session) for _ in range(6)]  # by chance at both workers
        figures = [(view["usage"]["frames_in"], view["usage"]["frames_out"]) for view in views]
        return all(view["first_audio_at"] for view in views) and set(figures) == {(3, 1)}

    async with asyncio.timeout(WAIT_S):
        while not await passed():
            await asyncio.sleep(0.1)
    quiet = await shown(ask, silent.session)
    assert (quiet["status"], quiet["first_audio_at"], quiet["usage"]["frames_in"]) == ("running", None, 0)
    await caller.leave()
    await speaking.leave()
    assert (await once_over(ask, agent.session))["usage"]["frames_in"] == 3


async def test_a_call_that_waits_for_a_slot_is_a_queued_session(
    gateway: Gateway, support: Agent, ask: Ask
) -> None:
    callers = [await gateway.dial(target(await promised(ask))) for _ in range(2)]
    for _ in callers:
        await support.call()
    session = await promised(ask)
    waits = await gateway.dial(f"/ws/twilio/support.acme/{session['transport']['token']}")
    for message in opening("twilio"):
        waits.say(message)

    async def status_of_it() -> str:
        return str((await shown(ask, session["id"]))["status"])

    async with asyncio.timeout(WAIT_S):
        while await status_of_it() != "queued":
            await asyncio.sleep(0.02)
        listed = (await ask("GET", "?status=queued"))[1]
        assert [each["id"] for each in listed["data"]] == [session["id"]]
        await callers[0].leave()
        assert (await support.call()).session == session["id"]
        while await status_of_it() != "running":
            await asyncio.sleep(0.02)
    await waits.leave()
    await callers[1].leave()


async def test_any_worker_stops_any_call(gateway: Gateway, support: Agent, ask: Ask) -> None:
    for _ in range(8):  # by chance both workers carry some, and both are asked
        session = await promised(ask)
        caller = await gateway.dial(target(session))
        agent = await support.call()
        assert (await ask("POST", f"/{session['id']}/stop"))[0] == 200
        assert (await caller.closed())[0] == 1000
        await agent.closed()
        await caller.leave()


async def test_a_stopped_pending_session_has_no_socket(gateway: Gateway, support: Agent, ask: Ask) -> None:
    session = await promised(ask)
    status, stopped = await ask("POST", f"/{session['id']}/stop")
    assert (status, stopped["status"]) == (200, "canceled")
    caller = await gateway.dial(target(session))
    assert caller.status == 403
    assert support.upgrades == 0


async def test_a_caller_who_hangs_up_ends_the_wait(gateway: Gateway, support: Agent, ask: Ask) -> None:
    session = await promised(ask)
    caller = await gateway.dial(target(session))
    await support.call()

    def runs() -> bool:
        return bool(gateway.sessions(session["id"])[0]["started_at"])

    await eventually(runs, "the session runs")
    waiting = asyncio.create_task(
        ask("GET", f"/{session['id']}?wait_for_completion=true&timeout_seconds=120")
    )
    await caller.hang_up()
    status, over = await waiting
    assert (status, over["status"], over["end_reason"]) == (200, "ended", "caller_hangup")


async def test_silence_beyond_the_requested_limit_ends_the_session(
    gateway: Gateway, support: Agent, ask: Ask
) -> None:
    session = await promised(ask, idle_timeout_seconds=1)
    caller = await gateway.dial(target(session))
    agent = await support.call()
    assert (await caller.closed())[0] == 1000
    await agent.closed()
    assert (await once_over(ask, session["id"]))["end_reason"] == "idle_timeout"


async def test_the_requested_duration_ends_the_session(gateway: Gateway, support: Agent, ask: Ask) -> None:
    session = await promised(ask, max_duration_seconds=1)
    caller = await gateway.dial(target(session))
    agent = await support.call()
    assert (await caller.closed())[0] == 1000
    await agent.closed()
    assert (await once_over(ask, session["id"]))["end_reason"] == "max_duration"


async def test_an_unknown_session_is_404(gateway: Gateway, ask: Ask) -> None:
    assert (await ask("GET", f"/{uuid.uuid4()}"))[0] == 404
