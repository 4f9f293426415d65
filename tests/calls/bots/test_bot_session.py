# SPDX-License-Identifier: BSD-2-Clause
"""Sessions that run as one open `POST /bot`, against agents on real sockets
(docs/reference/agent-container.md).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.calls.store_watcher import StoreWatcher
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Party, Reasons
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import answer_of, answers_with, bot_of, holds
from tests.harness.start_api import Worker, refused_start, running_worker, start_bot, tables

SHORT_S = 0.3


# A session, from its start to its end


async def test_the_agent_gets_the_session_id_and_the_request(worker: Worker, agent: Agent) -> None:
    started = await start_bot(
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
    started = await start_bot(worker)
    bot = await bot_of(agent)
    running = await worker.store.session(started.session_id)
    assert running is not None
    assert running.state is SessionState.RUNNING
    assert worker.bots.running == 1

    bot.end(200)

    record = await worker.over(started.session_id)
    assert (record.state, record.reason, record.side) == (SessionState.ENDED, "agent_ended", Party.AGENT)
    assert record.completion_status == "HTTP_COMPLETED"
    await eventually(lambda: worker.bots.running == 0, "the session is forgotten")


async def test_an_answer_that_begins_early_ends_the_session_when_it_ends(
    worker: Worker, agent: Agent
) -> None:
    started = await start_bot(worker)
    bot = await bot_of(agent)
    bot.call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    bot.call.send(b"1\r\n}\r\n0\r\n\r\n")
    record = await worker.over(started.session_id)
    assert record.completion_status == "HTTP_COMPLETED"


async def test_the_slot_is_free_for_the_next_session(worker: Worker, agent: Agent) -> None:
    for _ in range(3):
        started = await start_bot(worker)
        (await bot_of(agent)).end(200)
        await worker.over(started.session_id)


@pytest.mark.parametrize("status", [204, 302, 404, 422, 500, 503])
async def test_any_other_answer_is_the_agents_failure(worker: Worker, agent: Agent, status: int) -> None:
    started = await start_bot(worker)
    (await bot_of(agent)).call.send(answer_of(status, "", "Location: http://127.0.0.1:1/elsewhere"))

    record = await worker.over(started.session_id)
    assert (record.state, record.reason, record.side) == (SessionState.FAILED, "agent_failed", Party.AGENT)
    assert record.completion_status == "HTTP_ERROR"
    assert record.detail == f"/bot answered {status}"


@pytest.mark.parametrize(
    ("raw", "then"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", "close"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{", "reset"),
    ],
)
async def test_a_request_that_breaks_is_a_lost_agent(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, raw: bytes, then: str
) -> None:
    await agent_at(port, answers_with(raw, then=then))
    started = await start_bot(worker)
    record = await worker.over(started.session_id)
    assert (record.state, record.reason) == (SessionState.FAILED, "agent_lost")
    assert record.completion_status == "HTTP_ERROR"


# Ending it from here


async def test_stopping_a_session_aborts_its_request(worker: Worker, agent: Agent) -> None:
    started = await start_bot(worker)
    bot = await bot_of(agent)

    assert worker.bots.stop(started.session_id, CallEnded(Reasons.stopped))

    await bot.broken_off()
    record = await worker.over(started.session_id)
    assert (record.state, record.reason) == (SessionState.ENDED, "stopped")
    assert record.completion_status == "HTTP_COMPLETED"


async def test_a_second_stop_changes_nothing(worker: Worker, agent: Agent) -> None:
    started = await start_bot(worker)
    await bot_of(agent)
    worker.bots.stop(started.session_id, CallEnded(Reasons.stopped))
    worker.bots.stop(started.session_id, CallEnded(Reasons.internal_error))
    assert (await worker.over(started.session_id)).reason == "stopped"


async def test_a_session_that_is_not_here_cannot_be_stopped_here(worker: Worker) -> None:
    assert not worker.bots.stop(str(uuid.uuid4()), CallEnded(Reasons.stopped))


async def test_any_worker_can_stop_a_session(
    worker: Worker, agent: Agent, port: AgentPort, tmp_path: Path
) -> None:
    async def nothing() -> None:
        """Refresh nothing."""

    watch = StoreWatcher(worker.store, worker.bots.stop, nothing)
    watch.start()
    started = await start_bot(worker)
    bot = await bot_of(agent)
    async with running_worker(tmp_path / "patchbay.db", tables(port.url)) as other:
        assert await other.store.request_stop(started.session_id, time.time())
        await bot.broken_off()
        assert (await other.over(started.session_id)).reason == "stopped"
    await watch.stop()


async def test_a_session_is_ended_after_its_longest_duration(worker: Worker, agent: Agent) -> None:
    started = await start_bot(worker, max_duration_s=SHORT_S)
    await (await bot_of(agent)).broken_off()
    record = await worker.over(started.session_id)
    assert (record.state, record.reason) == (SessionState.ENDED, "max_duration")
    assert record.completion_status == "HTTP_COMPLETED"


async def test_a_worker_that_stops_ends_its_sessions_and_starts_no_more(
    agent_at: Callable[..., Any], agent_port: Callable[[], AgentPort], tmp_path: Path
) -> None:
    ports = [agent_port() for _ in range(3)]
    agents = [await agent_at(port, holds) for port in ports]
    async with running_worker(tmp_path / "patchbay.db", tables(*(port.url for port in ports))) as worker:
        sessions = [await start_bot(worker) for _ in agents]
        held = [await bot_of(agent) for agent in agents]
        assert worker.bots.running == 3

        await worker.bots.end_all(CallEnded(Reasons.draining))

        assert worker.bots.running == 0
        for bot in held:
            await bot.broken_off()
        for session in sessions:
            assert (await worker.over(session.session_id)).reason == "draining"
        assert (await refused_start(worker)).reason is Reasons.draining
