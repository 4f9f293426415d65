# SPDX-License-Identifier: BSD-2-Clause
"""Sessions that run as `POST /bot` held open, against agents on real sockets (agent-container.md)."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.agents.readiness import Readiness
from gateway.bots import Bots, NotReady, StartedBot
from gateway.errors import CallEnd, Endings, Side
from gateway.sessions.lifecycle import State
from gateway.sessions.session import CallFacts, SessionExtras
from gateway.stops import StopWatch
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot import answer_of, bot_of, holds, never_reads, says
from tests.harness.gateway import eventually
from tests.harness.peer import WAIT_S
from tests.harness.starts import Worker, tables, working

LONG_S = 600.0
SHORT_S = 0.3


@pytest.fixture
def port(agent_port: Callable[[], AgentPort]) -> AgentPort:
    return agent_port()


@pytest.fixture
async def worker(tmp_path: Path, port: AgentPort) -> AsyncIterator[Worker]:
    async with working(tmp_path / "patchbay.db", tables(port.url)) as one:
        yield one


@pytest.fixture
async def agent(agent_at: Callable[..., Any], port: AgentPort) -> Agent:
    """support.acme, at work; it has one place."""
    found: Agent = await agent_at(port, holds)
    return found


async def starts(worker: Worker, **how: Any) -> StartedBot:
    """Starts a session of support.acme."""
    (support,) = worker.services.directory.agents
    facts = CallFacts(
        session_id=how.pop("session_id", str(uuid.uuid4())),
        agent=support.service_host,
        organization=support.organization,
        region=support.region,
        carrier="bot",
        call_id=None,
        stream_id=None,
        from_number=None,
        to_number=None,
    )
    extras = SessionExtras(transport="bot")
    request = {"headers": {}, "body": b"{}", "max_duration_s": LONG_S} | how
    return await worker.bots.start(support, facts, extras, **request)


async def refusal(worker: Worker, **how: Any) -> CallEnd:
    """How a start is refused, which it must be; nothing is left then."""
    with pytest.raises(CallEnd) as caught:
        await starts(worker, **how)
    await eventually(lambda: worker.bots.running == 0, "the session is forgotten")
    await worker.assert_nothing_left()
    return caught.value


# A session, from its start to its end


async def test_the_agent_is_told_the_session_and_what_was_said_with_it(worker: Worker, agent: Agent) -> None:
    started = await starts(
        worker, headers={"x-daily-transport-type": "webrtc"}, body='{"name":"Zoë"}'.encode()
    )

    bot = await bot_of(agent)
    assert bot.session == started.session_id
    assert bot.headers["x-daily-transport-type"] == "webrtc"
    assert bot.headers["content-type"] == "application/json"
    assert bot.json == {"name": "Zoë"}
    assert started.instance == agent.port.url


async def test_the_session_runs_while_the_request_is_open_and_ends_with_it(
    worker: Worker, agent: Agent
) -> None:
    started = await starts(worker)
    bot = await bot_of(agent)
    running = await worker.store.session(started.session_id)
    assert running is not None
    assert running.state is State.RUNNING
    assert worker.bots.running == 1

    bot.end(200)

    record = await worker.over(started.session_id)
    assert (record.state, record.reason, record.side) == (State.ENDED, "agent_ended", Side.AGENT)
    assert record.completion_status == "HTTP_COMPLETED"
    await eventually(lambda: worker.bots.running == 0, "the session is forgotten")


async def test_an_answer_that_begins_early_ends_the_session_when_it_ends(
    worker: Worker, agent: Agent
) -> None:
    started = await starts(worker)
    bot = await bot_of(agent)
    bot.call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    bot.call.send(b"1\r\n}\r\n0\r\n\r\n")
    record = await worker.over(started.session_id)
    assert record.completion_status == "HTTP_COMPLETED"


async def test_the_place_is_free_for_the_next_one(worker: Worker, agent: Agent) -> None:
    for _ in range(3):
        started = await starts(worker)
        (await bot_of(agent)).end(200)
        await worker.over(started.session_id)


@pytest.mark.parametrize("status", [204, 302, 404, 422, 500, 503])
async def test_any_other_answer_is_the_agents_failure(worker: Worker, agent: Agent, status: int) -> None:
    started = await starts(worker)
    (await bot_of(agent)).call.send(answer_of(status, "", "Location: http://127.0.0.1:1/elsewhere"))

    record = await worker.over(started.session_id)
    assert (record.state, record.reason, record.side) == (State.FAILED, "agent_failed", Side.AGENT)
    assert record.completion_status == "HTTP_ERROR"
    assert record.detail == f"/bot answered {status}"


@pytest.mark.parametrize(
    ("raw", "then"),
    [
        (b"", "reset"),
        (b"", "close"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", "close"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{", "reset"),
        (b"I am no HTTP server\r\n\r\n", ""),
    ],
)
async def test_a_request_that_breaks_is_a_lost_agent(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, raw: bytes, then: str
) -> None:
    await agent_at(port, says(raw, then=then))
    started = await starts(worker)
    record = await worker.over(started.session_id)
    assert (record.state, record.reason) == (State.FAILED, "agent_lost")
    assert record.completion_status == "HTTP_ERROR"


# Ending it from here


async def test_to_stop_a_session_is_to_break_off_its_request(worker: Worker, agent: Agent) -> None:
    started = await starts(worker)
    bot = await bot_of(agent)

    assert worker.bots.stop(started.session_id, CallEnd(Endings.stopped))

    await bot.broken_off()
    record = await worker.over(started.session_id)
    assert (record.state, record.reason, record.completion_status) == (State.ENDED, "stopped", None)


async def test_a_second_stop_changes_nothing(worker: Worker, agent: Agent) -> None:
    started = await starts(worker)
    await bot_of(agent)
    worker.bots.stop(started.session_id, CallEnd(Endings.stopped))
    worker.bots.stop(started.session_id, CallEnd(Endings.internal_error))
    assert (await worker.over(started.session_id)).reason == "stopped"


async def test_a_session_that_is_not_here_cannot_be_stopped_here(worker: Worker) -> None:
    assert not worker.bots.stop(str(uuid.uuid4()), CallEnd(Endings.stopped))


async def test_any_worker_may_be_asked_to_stop_a_session(
    worker: Worker, agent: Agent, port: AgentPort, tmp_path: Path
) -> None:
    async def nothing() -> None:
        """There is nothing to read anew."""

    watch = StopWatch(worker.store, worker.bots.stop, nothing)
    watch.start()
    started = await starts(worker)
    bot = await bot_of(agent)
    async with working(tmp_path / "patchbay.db", tables(port.url)) as other:
        assert await other.store.request_stop(started.session_id, time.time())
        await bot.broken_off()
        assert (await other.over(started.session_id)).reason == "stopped"
    await watch.stop()


async def test_a_session_is_ended_after_its_longest_duration(worker: Worker, agent: Agent) -> None:
    started = await starts(worker, max_duration_s=SHORT_S)
    await (await bot_of(agent)).broken_off()
    record = await worker.over(started.session_id)
    assert (record.state, record.reason) == (State.ENDED, "max_duration")


async def test_a_gateway_that_goes_ends_its_sessions_and_starts_no_more(
    agent_at: Callable[..., Any], agent_port: Callable[[], AgentPort], tmp_path: Path
) -> None:
    ports = [agent_port() for _ in range(3)]
    agents = [await agent_at(port, holds) for port in ports]
    async with working(tmp_path / "patchbay.db", tables(*(port.url for port in ports))) as worker:
        sessions = [await starts(worker) for _ in agents]
        held = [await bot_of(agent) for agent in agents]
        assert worker.bots.running == 3

        await worker.bots.end_all(CallEnd(Endings.draining))

        assert worker.bots.running == 0
        for bot in held:
            await bot.broken_off()
        for session in sessions:
            assert (await worker.over(session.session_id)).reason == "draining"
        assert (await refusal(worker)).ending is Endings.draining


# Starts that are refused, and leave nothing


async def test_nobody_listens(worker: Worker, port: AgentPort) -> None:
    end = await refusal(worker)
    assert end.ending is Endings.agent_unreachable
    (record,) = await worker.records()
    assert (record.state, record.completion_status) == (State.FAILED, "HTTP_ERROR")
    assert worker.services.probes.readiness(port.url) is Readiness.UNREACHABLE


async def test_all_places_are_taken(worker: Worker, agent: Agent) -> None:
    started = await starts(worker)
    with pytest.raises(CallEnd) as caught:
        await starts(worker)
    assert caught.value.ending is Endings.at_capacity
    assert caught.value.words == "1 of 1 places are taken"
    assert agent.upgrades == 1
    assert [record.session_id for record in await worker.records()] == [started.session_id]


async def test_no_instance_is_ready(worker: Worker, agent_at: Callable[..., Any], port: AgentPort) -> None:
    await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Readiness.STARTING)
    assert isinstance(await refusal(worker), NotReady)
    assert await worker.records() == []


async def test_an_instance_that_is_not_ready_because_it_is_busy_is_at_capacity(
    worker: Worker, agent: Agent, port: AgentPort
) -> None:
    await starts(worker)
    agent.ready = 503
    await worker.sees(port.url, Readiness.STARTING)
    with pytest.raises(CallEnd) as caught:
        await starts(worker)
    assert caught.value.ending is Endings.at_capacity


async def test_the_instance_that_is_ready_is_taken(
    agent_at: Callable[..., Any], agent_port: Callable[[], AgentPort], tmp_path: Path
) -> None:
    slow, gone, ready = agent_port(), agent_port(), agent_port()
    await agent_at(slow, holds, ready=503)
    agent = await agent_at(ready, holds)
    settings = tables(slow.url, gone.url, ready.url)
    async with working(tmp_path / "patchbay.db", settings) as worker:
        for port, readiness in (
            (slow, Readiness.STARTING),
            (gone, Readiness.UNREACHABLE),
            (ready, Readiness.READY),
        ):
            await worker.sees(port.url, readiness)
        assert (await starts(worker)).instance == agent.port.url


async def test_an_agent_that_does_not_take_the_request_in_time(
    agent_at: Callable[..., Any], port: AgentPort, tmp_path: Path
) -> None:
    agent = await agent_at(port, never_reads, receive_buffer=4096)
    settings = tables(port.url, limits={"agent_connect_timeout": SHORT_S})
    async with working(tmp_path / "patchbay.db", settings) as worker:
        end = await refusal(worker, body=b" " * 8_000_000)
        assert end.ending is Endings.agent_start_timeout
        assert agent.upgrades == 1


async def test_an_agent_that_refuses_before_it_has_read_the_request(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    async def refuses(agent: Agent, call: Any) -> None:
        call._reader._transport.pause_reading()
        call.send(answer_of(413))

    await agent_at(port, refuses, receive_buffer=4096)
    end = await refusal(worker, body=b" " * 8_000_000)
    assert (end.ending, end.words) == (Endings.agent_failed, "/bot answered 413")


async def test_whoever_starts_may_give_up(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    agent = await agent_at(port, never_reads, receive_buffer=4096)
    starting = asyncio.create_task(starts(worker, body=b" " * 8_000_000))
    call = await agent.asks()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(lambda: worker.bots.running == 0, "the session is forgotten")
    await worker.assert_nothing_left()
    call._reader._transport.resume_reading()
    await call.leave()


async def test_a_session_may_be_stopped_while_it_starts(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    agent = await agent_at(port, never_reads, receive_buffer=4096)
    session_id = str(uuid.uuid4())
    starting = asyncio.create_task(starts(worker, session_id=session_id, body=b" " * 8_000_000))
    await agent.asks()
    assert worker.bots.stop(session_id, CallEnd(Endings.stopped))
    with pytest.raises(CallEnd) as caught:
        await starting
    assert caught.value.ending is Endings.stopped
    assert (await worker.over(session_id)).state is State.CANCELED


async def test_the_store_does_not_answer(worker: Worker, agent: Agent) -> None:
    await worker.store.close()
    with pytest.raises(CallEnd) as caught:
        await starts(worker)
    assert caught.value.ending is Endings.store_failed
    assert agent.upgrades == 0
    with pytest.raises(CallEnd) as caught:
        await worker.bots.expect_place(next(iter(worker.services.directory.agents)))
    assert caught.value.ending is Endings.store_failed


async def test_a_client_that_shares_connections_is_none_for_sessions(worker: Worker) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ValueError, match="bots_http"):
            Bots(worker.store, worker.services.probes, http, time.time, connect_timeout_s=WAIT_S)
