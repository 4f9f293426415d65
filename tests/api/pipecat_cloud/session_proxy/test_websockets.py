# SPDX-License-Identifier: BSD-2-Clause
"""WebSockets under the Session API: relayed to the session's instance while the session lasts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from gateway.model.lifecycle import SessionState
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentCall, AgentPort, answers, upgrade_response
from tests.harness.caller import Caller, dial
from tests.harness.frames import BINARY, CONTINUATION, PING, TEXT

KEY: dict[str, str | None] = {"Authorization": "Bearer pk_acme"}


@pytest.fixture
def limits() -> dict[str, float]:
    return {"agent_connect_timeout": 5, "close_timeout": 0.2}


@pytest.fixture
def agent_port_of_test() -> Any:
    port = AgentPort()
    yield port
    port.free()


@pytest.fixture
async def agent(agent_at: Callable[..., Any], agent_port_of_test: AgentPort) -> Agent:
    found: Agent = await agent_at(agent_port_of_test)
    return found


@pytest.fixture
def callers() -> list[Caller]:
    """Who has asked for a passage, from its connection on."""
    return []


@pytest.fixture
async def knock(door: Any, agent: Agent, callers: list[Caller]) -> Any:
    """Asks for a passage to a new session, or to the one of this id."""

    async def ask(
        path: str = "/live?of=mine",
        *,
        session: str | None = None,
        headers: dict[str, str | None] | None = None,
    ) -> Caller:
        found = session or await door.session(instance=agent.port.url)
        given = KEY | (headers or {})
        return await dial(door.port, door.path(found, path), headers=given, on_open=callers)

    yield ask
    for caller in callers:
        await caller.leave()
    await door.nothing_is_left()


@pytest.fixture
def ends() -> Any:
    with structlog.testing.capture_logs() as lines:
        yield lambda: [line for line in lines if line["event"].startswith("passage")]


CLAIMS = {
    "Origin": "https://ours.example",
    "Cookie": "a=b",
    "X-Forwarded-For": "192.0.2.1",
    "X-Real-IP": "192.0.2.1",
    "Forwarded": "for=192.0.2.1",
}


async def test_both_ways_untouched(door: Any, agent: Agent, knock: Any) -> None:
    session = await door.session(instance=agent.port.url)
    caller = await knock(session=session, headers=CLAIMS)
    assert caller.status == 101
    taken = await agent.call()
    assert taken.path == "/live?of=mine"
    assert taken.headers["host"] == f"127.0.0.1:{agent.port.number}"
    assert taken.session == session
    assert taken.headers["origin"] == "https://ours.example"
    assert (taken.headers["x-forwarded-for"], taken.headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert not {"cookie", "x-real-ip", "forwarded"} & set(taken.headers)
    assert "authorization" not in taken.headers
    said = [
        caller.frame(TEXT, b"hello"),
        caller.frame(BINARY, bytes(100_000)),
        caller.frame(TEXT, b"in ", fin=False),
        caller.frame(PING, b"there?"),
        caller.frame(CONTINUATION, b"parts"),
    ]
    caller.send(b"".join(said))
    assert await taken.hear_bytes(len(b"".join(said))) == b"".join(said)
    answer = taken.say("and back")
    assert await caller.hear_bytes(len(answer)) == answer


@pytest.mark.parametrize(
    "path", ["/ws", "/WS/", "/ws/token", "//ws", "/./ws", "/%77s", "/%2577s", "/%252e/ws", "/ws;x", "/bot"]
)
async def test_a_reserved_path_of_the_agent_is_not_found(agent: Agent, knock: Any, path: str) -> None:
    assert (await knock(path)).status == 404
    assert agent.calls.empty()


async def test_only_the_gateway_names_the_session(door: Any, agent: Agent, knock: Any) -> None:
    session = await door.session(instance=agent.port.url)
    spellings = {"x_daily_session_id": "another", "x-daily-session-id": "another", "sec_websocket_key": "k"}
    assert (await knock(session=session, headers=spellings)).status == 101
    call = await agent.call()
    assert call.session == session
    assert not {"x_daily_session_id", "sec_websocket_key"} & set(call.headers)


@pytest.mark.parametrize("offered", ["chat.v2, chat.v1", "chat.v1"])
async def test_the_instance_chooses_the_subprotocol(agent: Agent, knock: Any, offered: str) -> None:
    async def chooses(agent: Agent, call: AgentCall) -> None:
        assert call.headers["sec-websocket-protocol"] == offered
        call.send(upgrade_response(call).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat.v1\r\n\r\n"))
        agent.calls.put_nowait(call)

    agent.answer = chooses
    caller = await knock(headers={"Sec-WebSocket-Protocol": offered})
    assert (caller.status, caller.headers["sec-websocket-protocol"]) == (101, "chat.v1")


async def test_no_subprotocol_is_chosen_for_the_instance(agent: Agent, knock: Any) -> None:
    caller = await knock(headers={"Sec-WebSocket-Protocol": "chat.v1"})
    assert caller.status == 101
    assert "sec-websocket-protocol" not in caller.headers


async def test_a_greeting_is_heard(agent: Agent, knock: Any) -> None:
    async def greets(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call) + call.frame(TEXT, b"welcome"))

    agent.answer = greets
    caller = await knock()
    assert (await caller.hear()).text == "welcome"


class TestClosing:
    @pytest.fixture
    def limits(self) -> dict[str, float]:
        """Both ends close here, each as slowly as it must."""
        return {"agent_connect_timeout": 5, "close_timeout": 20}

    @pytest.mark.parametrize("by", ["client", "instance"])
    async def test_a_close_is_passed_on(self, agent: Agent, knock: Any, ends: Any, by: str) -> None:
        caller = await knock()
        taken = await agent.call()
        one, other = (caller, taken) if by == "client" else (taken, caller)
        one.send(one.close_frame(4321, "enough"))
        assert await other.closed() == (4321, "enough")
        assert await one.closed() == (4321, "")
        [line] = await eventually(ends, "its one line")
        assert line["event"] == "passage ended"
        assert line["side"] == ("carrier" if by == "client" else "agent")


async def test_a_client_that_is_lost(agent: Agent, knock: Any, ends: Any) -> None:
    caller = await knock()
    taken = await agent.call()
    caller.reset()
    assert (await taken.closed())[0] in (1011, 1000)
    assert (await eventually(ends, "its one line"))[0]["reason"] == "carrier_lost"


async def test_it_ends_with_its_session(door: Any, agent: Agent, knock: Any, ends: Any) -> None:
    session = await door.session(instance=agent.port.url)
    caller = await knock(session=session)
    taken = await agent.call()
    await door.end(session)
    assert await caller.closed() == (1000, "the session is over")
    assert await taken.closed() == (1000, "the session is over")
    assert (await eventually(ends, "its one line"))[0]["words"] == "the session is over"


async def test_it_waits_for_a_session_that_is_starting(door: Any, agent: Agent, knock: Any) -> None:
    session = await door.session(SessionState.STARTING, instance=agent.port.url)
    looked, find = asyncio.Event(), door.store.session

    async def session_of(wanted: str) -> Any:
        found = await find(wanted)
        looked.set()
        return found

    door.store.session = session_of
    knocking = asyncio.create_task(knock(session=session))
    await eventually(looked.is_set, "the session is looked for")
    await door.store.mark_running(session, time.time())
    assert (await knocking).status == 101


async def test_it_takes_no_place(door: Any, agent: Agent, knock: Any) -> None:
    session = await door.session(instance=agent.port.url)
    for _ in range(3):
        await knock(session=session)
    assert (await door.store.counts()).total_active == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": None},
        {"Authorization": "Bearer pk_nobody"},
        {"Authorization": "Basic pk_acme"},
        {"Authorization": "Bearer pk_acme, Bearer pk_acme"},
    ],
    ids=str,
)
async def test_no_key_of_ours(agent: Agent, knock: Any, ends: Any, headers: Any) -> None:
    caller = await knock("/live?token=pk_acme&api_key=pk_acme", headers=headers)
    assert caller.refusal == (401, "unauthorized")
    assert agent.upgrades == 0
    assert [line["reason"] for line in ends()] == ["unauthorized"]


class TestFewRequests:
    """A gateway that takes few requests a second."""

    @pytest.fixture
    def limits(self) -> dict[str, float]:
        return {"requests_per_second": 0.01, "requests_burst": 3, "close_timeout": 0.2}

    async def test_unknown_keys_are_counted_by_address(self, agent: Agent, knock: Any) -> None:
        assert (await knock()).status == 101  # so the key is known
        guesses = [await knock(headers={"Authorization": f"Bearer pk_guess{number}"}) for number in range(4)]
        assert [caller.refusal for caller in guesses] == [(401, "unauthorized")] * 3 + [(429, "rate_limited")]
        assert int(guesses[-1].headers["retry-after"]) > 1
        assert (await knock()).status == 101
        assert agent.upgrades == 2

    async def test_guesses_at_either_door_count_at_both(self, door: Any, knock: Any) -> None:
        session = await door.session()
        for number in range(3):
            assert (await door.ask("GET", door.path(session), key=f"pk_guess{number}")).status == 401
        refused = await knock(session=session, headers={"Authorization": "Bearer pk_guess"})
        assert refused.refusal == (429, "rate_limited")

    async def test_a_key_has_its_rate_on_websockets_too(self, door: Any, agent: Agent, knock: Any) -> None:
        session = await door.session(instance=agent.port.url)
        statuses = [(await knock(session=session)).status for _ in range(4)]
        assert statuses == [101, 101, 101, 429]
        assert (await door.ask("GET", door.path(session))).status == 429
        assert agent.upgrades == 3


async def test_very_many_subprotocols(agent: Agent, knock: Any) -> None:
    caller = await knock(headers={"Sec-WebSocket-Protocol": ", ".join(["chat"] * 1000)})
    assert caller.refusal == (400, "bad_request")
    assert agent.upgrades == 0


async def test_a_very_long_path(agent: Agent, knock: Any) -> None:
    assert (await knock("/" + "a/" * 4000)).refusal == (400, "bad_request")
    assert agent.upgrades == 0


async def test_a_session_that_is_not_to_be_reached(door: Any, agent: Agent, knock: Any) -> None:
    over = await door.session(SessionState.ENDED, instance=agent.port.url)
    theirs = await door.session(agent="support.globex", instance=agent.port.url)
    for session in (over, theirs, str(uuid.uuid4())):
        caller = await knock(session=session)
        assert caller.refusal == (404, "not_found")
    assert agent.upgrades == 0


@pytest.mark.parametrize("path", ["/..", "/%2e%2e/x", "/a%2f..%2fx", "/a\\b", "/%zz", "/..;/x"])
async def test_a_path_that_climbs(agent: Agent, knock: Any, path: str) -> None:
    assert (await knock(path)).refusal == (400, "bad_request")
    assert agent.upgrades == 0


@pytest.mark.parametrize("path", ["//evil.example/x", "/http://evil.example/", "/a%2Fb;v=1?x=%2e&&y#"])
async def test_a_path_is_passed_on_as_it_came(agent: Agent, knock: Any, path: str) -> None:
    assert (await knock(path)).status == 101
    assert (await agent.call()).path == path.rstrip("#")


async def test_an_instance_that_is_not_there(door: Any, agent: Agent, knock: Any) -> None:
    gone = AgentPort()
    caller = await knock(session=await door.session(instance=gone.url))
    assert caller.refusal == (502, "agent_unreachable")
    gone.free()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_an_instance_that_does_not_take_it(agent: Agent, knock: Any, raw: bytes) -> None:
    agent.answer = answers(raw, then="close")
    caller = await knock()
    assert caller.refusal == (502, "agent_unreachable")


async def test_an_instance_that_takes_a_subprotocol_nobody_named(agent: Agent, knock: Any) -> None:
    async def chooses(agent: Agent, call: AgentCall) -> None:
        call.send(upgrade_response(call).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: other\r\n\r\n"))

    agent.answer = chooses
    caller = await knock(headers={"Sec-WebSocket-Protocol": "chat.v1"})
    assert caller.refusal == (502, "agent_unreachable")


async def test_who_leaves_before_the_answer(
    agent: Agent, knock: Any, callers: list[Caller], ends: Any
) -> None:
    agent.answer = answers(b"")
    knocking = asyncio.create_task(knock())
    asked = await agent.next_other_call()
    callers[0].reset()
    assert await asked.ended() == b"", "the instance is told at once"
    assert (await knocking).status == 0
    [line] = await eventually(ends, "its one line")
    assert (line["event"], line["reason"]) == ("passage refused", "carrier_lost")


async def test_a_handshake_that_is_none(agent: Agent, knock: Any) -> None:
    caller = await knock(headers={"Sec-WebSocket-Version": "8"})
    assert caller.refusal == (400, "bad_request")
    caller = await knock(headers={"Sec-WebSocket-Protocol": "a b"})
    assert caller.refusal == (400, "bad_request")
    assert agent.upgrades == 0
