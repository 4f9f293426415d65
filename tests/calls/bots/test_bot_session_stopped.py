# SPDX-License-Identifier: BSD-2-Clause
"""A bot that is stopped keeps its slot until its instance is seen to be free (docs/api.md)."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.agents.instance_health import Health
from gateway.calls import slot_release
from gateway.model.lifecycle import SessionState
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import SessionRecord
from gateway.simulator.waiting import eventually
from tests.harness.agent import Agent, AgentPort
from tests.harness.bot_requests import BotCall, bot_of, holds, never_reads
from tests.harness.start_api import Worker, running_worker, start_bot, tables

LONG_S = 600.0
SHORT_S = 0.3
STOPPED = CallEnded(Reasons.stopped)
PAGE = Path(__file__).parents[3] / "docs" / "api.md"


@pytest.fixture(autouse=True)
def probes_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often whether an instance is free."""
    monkeypatch.setattr(slot_release, "PROBE_S", 0.05)


async def record_of(worker: Worker, session_id: str) -> SessionRecord:
    record = await worker.store.session(session_id)
    assert record is not None
    return record


async def assert_ending(worker: Worker, session_id: str, reason: str) -> None:
    """Assert that the session is ending, and that nobody gets its slot."""
    record = await record_of(worker, session_id)
    assert (record.state, record.reason, record.ended_at) == (SessionState.ENDING, reason, None)
    with pytest.raises(CallEnded) as caught:
        await start_bot(worker)
    assert caught.value.reason is Reasons.at_capacity


async def assert_released(worker: Worker, session_id: str, by: str, reason: str = "stopped") -> None:
    """Assert that the session is over, how its instance was seen to be free, and that its slot is free."""
    record = await worker.over(session_id)
    assert (record.reason, record.released_by) == (reason, by)
    assert record.ending_at == record.ended_at
    assert record.released_at is not None
    assert record.ended_at is not None
    assert record.released_at >= record.ended_at
    await worker.assert_nothing_left()
    assert worker.services.calls.capacity.releases.held == 0


async def stopped_bot(worker: Worker, agent: Agent, timeout_s: float = LONG_S) -> tuple[str, BotCall]:
    """Start a bot and stop it; return its session, and the request that it holds still."""
    started = await start_bot(worker, stop_timeout_s=timeout_s)
    bot = await bot_of(agent)
    assert worker.bots.stop(started.session_id, STOPPED)
    await bot.broken_off()
    return started.session_id, bot


async def test_the_slot_is_free_when_the_request_is_answered(worker: Worker, agent: Agent) -> None:
    session_id, bot = await stopped_bot(worker, agent)
    await assert_ending(worker, session_id, "stopped")
    bot.end(200)
    await assert_released(worker, session_id, "answered")
    assert (await record_of(worker, session_id)).state is SessionState.ENDED
    await start_bot(worker)


async def test_a_failure_is_an_answer_too(worker: Worker, agent: Agent) -> None:
    session_id, bot = await stopped_bot(worker, agent)
    bot.end(500)
    await assert_released(worker, session_id, "answered")


async def test_the_slot_is_free_when_the_instance_says_so_that_said_it_was_busy(
    worker: Worker, agent: Agent, port: AgentPort
) -> None:
    started = await start_bot(worker, stop_timeout_s=LONG_S)
    bot = await bot_of(agent)
    agent.ready = 503
    await worker.sees(port.url, Health.STARTING)
    worker.bots.stop(started.session_id, STOPPED)
    await bot.broken_off()
    await bot.call.leave()  # as servers do whose client has left
    await assert_ending(worker, started.session_id, "stopped")
    agent.ready = 200
    await assert_released(worker, started.session_id, "ready")


async def test_an_instance_that_always_says_it_is_ready_says_nothing(worker: Worker, agent: Agent) -> None:
    session_id, bot = await stopped_bot(worker, agent, timeout_s=1.0)
    asked = agent.health
    await bot.call.leave()
    await eventually(lambda: agent.health > asked + 3, "it is asked")
    await assert_released(worker, session_id, "timeout")


async def test_the_slot_is_free_when_the_process_is_gone(worker: Worker, agent: Agent) -> None:
    session_id, _ = await stopped_bot(worker, agent)
    await agent.stop()
    await assert_released(worker, session_id, "gone")


async def test_a_request_that_stays_open_is_waited_for_no_longer_than_stop_timeout(
    worker: Worker, agent: Agent
) -> None:
    session_id, bot = await stopped_bot(worker, agent, timeout_s=SHORT_S)
    await assert_released(worker, session_id, "timeout")
    await bot.call.ended()


async def test_without_a_stop_timeout_the_slot_is_free_at_once(worker: Worker, agent: Agent) -> None:
    session_id, _ = await stopped_bot(worker, agent, timeout_s=0)
    record = await worker.over(session_id)
    assert (record.reason, record.released_by, record.ending_at) == ("stopped", None, None)
    await worker.assert_nothing_left()


async def test_the_longest_duration_frees_no_slot_by_itself(worker: Worker, agent: Agent) -> None:
    started = await start_bot(worker, max_duration_s=SHORT_S, stop_timeout_s=LONG_S)
    bot = await bot_of(agent)
    await bot.broken_off()
    await assert_ending(worker, started.session_id, "max_duration")
    bot.end()
    await assert_released(worker, started.session_id, "answered", "max_duration")


async def test_a_request_that_breaks_off_frees_no_slot_by_itself(worker: Worker, agent: Agent) -> None:
    started = await start_bot(worker, stop_timeout_s=SHORT_S)
    (await bot_of(agent)).call.reset()
    await eventually(lambda: worker.services.calls.capacity.releases.held, "it is ending")
    await assert_released(worker, started.session_id, "timeout", "agent_lost")
    assert (await record_of(worker, started.session_id)).state is SessionState.FAILED


async def test_a_start_that_is_given_up_after_the_agent_was_asked(
    worker: Worker, agent_at: Callable[..., Any], port: AgentPort
) -> None:
    agent = await agent_at(port, never_reads, receive_buffer=4096)
    starting = asyncio.create_task(start_bot(worker, body=b" " * 8_000_000, stop_timeout_s=SHORT_S))
    call = await agent.next_other_call()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    record = (await worker.records())[0]
    await assert_released(worker, record.session_id, "timeout")
    assert (await record_of(worker, record.session_id)).state is SessionState.CANCELED
    await call.leave()


async def test_an_answer_that_comes_by_itself_leaves_nothing_to_wait_for(
    worker: Worker, agent: Agent
) -> None:
    started = await start_bot(worker, stop_timeout_s=LONG_S)
    (await bot_of(agent)).end()
    record = await worker.over(started.session_id)
    assert (record.reason, record.ending_at, record.released_by) == ("agent_ended", None, None)


async def test_a_worker_that_stops_waits_for_no_bot_and_leaves_its_slot_taken(
    agent_at: Callable[..., Any], port: AgentPort, tmp_path: Path
) -> None:
    agent = await agent_at(port, holds)
    async with running_worker(tmp_path / "patchbay.db", tables(port.url)) as worker:
        running = await start_bot(worker, stop_timeout_s=LONG_S)
        await bot_of(agent)
        await worker.bots.end_all(CallEnded(Reasons.draining))
        record = await record_of(worker, running.session_id)
        assert (record.state, record.reason) == (SessionState.ENDING, "draining")
        assert worker.bots.running == 0


async def test_a_bot_that_was_stopped_is_not_waited_for_by_a_worker_that_stops(
    agent_at: Callable[..., Any], port: AgentPort, tmp_path: Path
) -> None:
    agent = await agent_at(port, holds)
    async with running_worker(tmp_path / "patchbay.db", tables(port.url)) as worker:
        session_id, _ = await stopped_bot(worker, agent)
        await worker.bots.end_all(CallEnded(Reasons.draining))
        record = await record_of(worker, session_id)
        assert (record.state, record.reason) == (SessionState.ENDING, "stopped")


async def test_another_worker_sees_to_what_a_dead_one_has_left(
    agent_at: Callable[..., Any], port: AgentPort, tmp_path: Path
) -> None:
    agent = await agent_at(port, holds)
    async with running_worker(
        tmp_path / "patchbay.db", tables(port.url, agent={"stop_timeout": LONG_S})
    ) as worker:
        session_id, _ = await stopped_bot(worker, agent)
        await worker.bots.end_all(CallEnded(Reasons.draining))  # its own watch is over
        releases, agents = worker.services.calls.capacity.releases, worker.services.calls.agents
        await releases.close()
        await releases.take_over(agents)
        await releases.take_over(agents)
        assert releases.held == 1
        assert (await record_of(worker, session_id)).state is SessionState.ENDING
        await agent.stop()
        record = await worker.over(session_id)
        assert (record.reason, record.released_by) == ("stopped", "gone")


# A bot made as those on Pipecat Cloud's base image are: FastAPI's handler awaits it, and nothing asks whether
# the client is still there.


class Bots:
    """What runs in the agent's process."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.most = 0
        self.may_end = asyncio.Event()

    async def bot(self, request: Request) -> JSONResponse:
        await request.json()
        session = request.headers["x-daily-session-id"]
        self.running.add(session)
        self.most = max(self.most, len(self.running))
        try:
            await self.may_end.wait()
        finally:
            self.running.discard(session)
        return JSONResponse({})


@asynccontextmanager
async def base_image(bots: Bots, port: AgentPort, readyz: Callable[[], bool]) -> AsyncIterator[Starlette]:
    """Serve bots; yield the application, which is served once the block has changed it."""

    async def ready(_: Request) -> JSONResponse:
        return JSONResponse({}, 200 if readyz() else 503)

    app = Starlette(routes=[Route("/bot", bots.bot, methods=["POST"]), Route("/readyz", ready)])
    yield app


@asynccontextmanager
async def served(app: Starlette, port: AgentPort) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    listening = port.listen()
    serving = asyncio.create_task(server.serve([listening]))
    await eventually(lambda: server.started, "the agent listens")
    try:
        yield
    finally:
        server.force_exit = server.should_exit = True
        await serving
        listening.close()


async def test_a_bot_that_nobody_tells_keeps_its_process_to_itself(worker: Worker, port: AgentPort) -> None:
    bots = Bots()
    async with base_image(bots, port, lambda: True) as app, served(app, port):
        started = await start_bot(worker, stop_timeout_s=1.0)
        await eventually(lambda: bots.running, "it runs")
        worker.bots.stop(started.session_id, STOPPED)
        await eventually(lambda: worker.services.calls.capacity.releases.held, "it is ending")
        await assert_ending(worker, started.session_id, "stopped")
        assert bots.running == {started.session_id}, "its handler goes on"
        await assert_released(worker, started.session_id, "timeout")
        assert bots.most == 1
        bots.may_end.set()


async def test_a_bot_made_stoppable_as_the_page_says(
    worker: Worker, port: AgentPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = re.findall(r"<!-- file: stoppable.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    bots, names = Bots(), dict[str, Any]()
    async with base_image(bots, port, lambda: bool(names["readyz"]())) as app:
        monkeypatch.setitem(sys.modules, "pipecatcloud_system", types.SimpleNamespace(app=app))
        exec(compile(text, "stoppable.py", "exec"), names)
        async with served(app, port):
            started = await start_bot(worker, stop_timeout_s=LONG_S)
            await eventually(lambda: bots.running, "it runs")
            await worker.sees(port.url, Health.STARTING)
            worker.bots.stop(started.session_id, STOPPED)
            await eventually(lambda: not bots.running, "it is cancelled")
            await assert_released(worker, started.session_id, "ready")
