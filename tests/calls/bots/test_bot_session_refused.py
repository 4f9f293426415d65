# SPDX-License-Identifier: BSD-2-Clause
"""Bot sessions that cannot start: each is refused with its reason, and leaves nothing."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.agents.instance_health import Health
from gateway.calls import bot_session
from gateway.calls.bot_session import BotServices, BotSessions, NotReady
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.simulator.waiting import WAIT_S, eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import answer_of, answers_with, bot_of, holds, never_reads
from tests.harness.start_api import (
    Worker,
    gives_up_after,
    refused_start,
    running_worker,
    start_bot,
    tables,
)

SHORT_S = 1.0
"""Seconds until an agent is given up; the request must have reached it before."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept a refusal as immediate, however slow the machine is."""
    monkeypatch.setattr(bot_session, "REJECT_S", WAIT_S)


# Starts that are refused, and leave nothing


async def test_no_agent_listens(worker: Worker, port: AgentPort) -> None:
    gives_up_after(worker, SHORT_S)
    end = await refused_start(worker)
    assert end.reason is Reasons.agent_unreachable
    assert end.detail == "connecting to the agent failed: connection refused"
    (record,) = await worker.records()
    assert (record.state, record.completion_status) == (SessionState.FAILED, "HTTP_ERROR")
    assert worker.services.calls.health.of(port.url) is Health.UNREACHABLE


async def test_an_instance_without_the_tls_that_its_url_promises(port: AgentPort, tmp_path: Path) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    settings = tables(port.url.replace("http:", "https:"))
    server = await asyncio.start_server(plain, sock=port.listen())
    async with server, running_worker(tmp_path / "patchbay.db", settings) as worker:
        end = await refused_start(worker)
        assert end.reason is Reasons.agent_unreachable
        assert "TLS" in end.detail


async def test_all_slots_are_taken(worker: Worker, agent: Agent) -> None:
    started = await start_bot(worker)
    with pytest.raises(CallEnded) as caught:
        await start_bot(worker)
    assert caught.value.reason is Reasons.at_capacity
    assert caught.value.detail == "1 of 1 places are taken"
    await bot_of(agent)
    assert agent.upgrades == 1
    assert [record.session_id for record in await worker.records()] == [started.session_id]


async def test_no_instance_is_ready(worker: Worker, agent_at: Callable[..., Any], port: AgentPort) -> None:
    await agent_at(port, holds, ready=503)
    await worker.sees(port.url, Health.STARTING)
    gives_up_after(worker, SHORT_S)
    assert isinstance(await refused_start(worker), NotReady)
    (record,) = await worker.records()
    assert (record.state, record.reason) == (SessionState.FAILED, "agent_start_timeout")


async def test_an_instance_that_is_not_ready_because_it_is_busy_is_at_capacity(
    worker: Worker, agent: Agent, port: AgentPort
) -> None:
    await start_bot(worker)
    agent.ready = 503
    await worker.sees(port.url, Health.STARTING)
    with pytest.raises(CallEnded) as caught:
        await start_bot(worker)
    assert caught.value.reason is Reasons.at_capacity


async def test_the_instance_that_is_ready_gets_the_session(
    agent_at: Callable[..., Any], agent_port: Callable[[], AgentPort], tmp_path: Path
) -> None:
    slow, gone, ready = agent_port(), agent_port(), agent_port()
    await agent_at(slow, holds, ready=503)
    agent = await agent_at(ready, holds)
    settings = tables(slow.url, gone.url, ready.url)
    async with running_worker(tmp_path / "patchbay.db", settings) as worker:
        for port, readiness in (
            (slow, Health.STARTING),
            (gone, Health.UNREACHABLE),
            (ready, Health.READY),
        ):
            await worker.sees(port.url, readiness)
        assert (await start_bot(worker)).instance == agent.port.url


async def test_an_agent_that_does_not_accept_the_request_in_time(
    agent_at: Callable[..., Any], port: AgentPort, tmp_path: Path
) -> None:
    agent = await agent_at(port, never_reads, receive_buffer=4096)
    settings = tables(port.url, limits={"agent_connect_timeout": SHORT_S})
    async with running_worker(tmp_path / "patchbay.db", settings) as worker:
        starting = asyncio.create_task(refused_start(worker, body=b" " * 8_000_000))
        await agent.next_other_call()
        assert (await starting).reason is Reasons.agent_start_timeout
        assert agent.upgrades == 1


async def test_an_agent_that_refuses_before_it_has_read_the_request(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    async def refuses(agent: Agent, call: Any) -> None:
        call._reader._transport.pause_reading()
        call.send(answer_of(413))

    await agent_at(port, refuses, receive_buffer=4096)
    end = await refused_start(worker, body=b" " * 8_000_000)
    assert (end.reason, end.detail) == (Reasons.agent_failed, "/bot answered 413")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("status", [204, 302, 404, 405, 422, 500, 503])
async def test_an_agent_that_refuses_the_request_at_once(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, status: int
) -> None:
    await agent_at(port, answers_with(answer_of(status, "", "Location: http://127.0.0.1:1/elsewhere")))
    end = await refused_start(worker)
    assert (end.reason, end.detail) == (Reasons.agent_failed, f"/bot answered {status}")
    (record,) = await worker.records()
    assert (record.state, record.completion_status) == (SessionState.FAILED, "HTTP_ERROR")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("raw", "then"), [(b"", "reset"), (b"", "close"), (b"I am no HTTP server\r\n\r\n", "")]
)
async def test_an_agent_that_breaks_the_request_off_at_once(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort, raw: bytes, then: str
) -> None:
    await agent_at(port, answers_with(raw, then=then))
    assert (await refused_start(worker)).reason is Reasons.agent_lost
    (record,) = await worker.records()
    assert (record.state, record.reason) == (SessionState.FAILED, "agent_lost")


async def test_a_client_may_give_up_its_start(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    agent = await agent_at(port, never_reads, receive_buffer=4096)
    starting = asyncio.create_task(start_bot(worker, body=b" " * 8_000_000))
    call = await agent.next_other_call()
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
    starting = asyncio.create_task(start_bot(worker, session_id=session_id, body=b" " * 8_000_000))
    await agent.next_other_call()
    assert worker.bots.stop(session_id, CallEnded(Reasons.stopped))
    with pytest.raises(CallEnded) as caught:
        await starting
    assert caught.value.reason is Reasons.stopped
    assert (await worker.over(session_id)).state is SessionState.CANCELED


async def test_the_store_does_not_answer(worker: Worker, agent: Agent) -> None:
    await worker.store.close()
    with pytest.raises(CallEnded) as caught:
        await start_bot(worker)
    assert caught.value.reason is Reasons.store_failed
    assert agent.upgrades == 0
    with pytest.raises(CallEnded) as caught:
        await worker.bots.check(next(iter(worker.services.calls.agents.agents)))
    assert caught.value.reason is Reasons.store_failed


async def test_an_http_client_that_reuses_connections_is_refused(worker: Worker) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ValueError, match="bot_http_client"):
            BotSessions(
                BotServices(
                    worker.store,
                    worker.services.calls.health,
                    worker.services.calls.capacity,
                    http,
                    time.time,
                    WAIT_S,
                )
            )
