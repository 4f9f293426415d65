# SPDX-License-Identifier: BSD-2-Clause
"""The session that a request reaches: by id, organisation and state."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest

from gateway.model.lifecycle import SessionState
from gateway.model.session_ids import ulid_of


@pytest.fixture
def limits() -> dict[str, float]:
    return {"agent_connect_timeout": 0.3, "session_api_timeout": 10}


@pytest.mark.parametrize("key", [None, "pk_nobody", "sk_nobody", ""])
async def test_no_key_of_ours(door: Any, key: str | None) -> None:
    session = await door.session()
    reply = await door.ask("GET", door.path(session), key=key)
    assert reply.status == 401
    assert reply.json == {
        "error": "Unauthorized / token expired",
        "info": "Unauthorized / token expired",
        "code": "401",
    }
    assert door.instance.connections == 0


async def test_a_key_in_the_query_is_none(door: Any) -> None:
    session = await door.session()
    assert (
        await door.ask("GET", door.path(session, "/x?api_key=pk_acme&token=pk_acme"), key=None)
    ).status == 401


@pytest.mark.parametrize("session", [str(uuid.UUID(int=7)), "no-uuid", "%00", "'; DROP TABLE session; --"])
async def test_a_session_that_is_unknown(door: Any, session: str) -> None:
    reply = await door.ask("GET", door.path(session.replace(" ", "%20")))
    assert reply.refusal == (404, "404")


@pytest.mark.parametrize("spelling", [lambda session: session.upper(), ulid_of])
async def test_either_spelling_of_the_id_reaches_the_instance(door: Any, spelling: Any) -> None:
    session = await door.session()
    reply = await door.ask("GET", door.path(spelling(session)))
    assert reply.status == 200
    heard = await door.instance.next()
    assert heard.header("x-daily-session-id") == session, "an instance gets the UUID"


async def test_another_organizations_session_looks_unknown(door: Any) -> None:
    session = await door.session()
    theirs = await door.ask("GET", door.path(session), key="pk_globex")
    unknown = await door.ask("GET", door.path(str(uuid.uuid4())), key="pk_globex")
    assert theirs.refusal == (404, "404")
    assert theirs.json == unknown.json
    assert door.instance.connections == 0


async def test_another_agents_session(door: Any) -> None:
    session = await door.session(agent="sales.acme")
    assert (await door.ask("GET", door.path(session))).refusal == (404, "404")
    assert (await door.ask("GET", door.path(session, agent="sales"))).status == 200


async def test_a_session_that_is_over(door: Any) -> None:
    session = await door.session()
    assert (await door.ask("GET", door.path(session))).status == 200
    await door.end(session)
    assert (await door.ask("GET", door.path(session))).refusal == (404, "404")
    assert door.instance.connections == 1


async def test_only_the_sessions_own_instance(door: Any) -> None:
    """The agent's configuration names another; what counts is where the session runs."""
    listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    where = listening.sockets[0].getsockname()[1]
    session = await door.session(instance=f"http://127.0.0.1:{where}")
    reply = await door.ask("GET", door.path(session))
    assert reply.refusal == (502, "agent_unreachable")
    assert reply.json["error"] == "the agent closed the connection without an answer"
    assert door.instance.connections == 0
    listening.close()
    await listening.wait_closed()


async def waits(door: Any, session: str) -> Any:
    """A request for a session that does not run, once it has been looked for."""
    looked, find = asyncio.Event(), door.store.session

    async def session_of(wanted: str) -> Any:
        found = await find(wanted)
        looked.set()
        return found

    door.store.session = session_of
    client = await door.begin("POST", door.path(session), "Content-Length: 2", body=b"ok")
    await looked.wait()
    assert door.instance.connections == 0
    return client


class TestWaiting:
    @pytest.fixture
    def limits(self) -> dict[str, float]:
        return {"agent_connect_timeout": 20, "session_api_timeout": 20}

    async def test_a_session_that_is_starting_is_waited_for(self, door: Any) -> None:
        session = await door.session(SessionState.STARTING)
        client = await waits(door, session)
        await door.store.mark_running(session, time.time())
        reply = await client.answer()
        assert (reply.status, reply.raw) == (200, b"ok")

    @pytest.mark.parametrize("state", [SessionState.STARTING, SessionState.CREATED])
    async def test_a_session_that_never_runs(self, door: Any, state: SessionState) -> None:
        session = await door.session(state)
        client = await waits(door, session)
        if state is SessionState.CREATED:
            await door.store.request_stop(session, time.time())
        else:
            await door.end(session)
        assert (await client.answer()).refusal == (404, "404")

    async def test_who_does_not_wait_so_long(self, door: Any) -> None:
        session = await door.session(SessionState.STARTING)
        client = await waits(door, session)
        client.writer.close()
        await door.nothing_is_left()
        assert door.instance.connections == 0


async def test_a_session_that_takes_too_long_to_start(door: Any) -> None:
    session = await door.session(SessionState.STARTING)
    reply = await door.ask("GET", door.path(session))
    assert reply.refusal == (504, "agent_start_timeout")
    assert reply.json["error"] == "the session does not run yet after 0.3 s"
