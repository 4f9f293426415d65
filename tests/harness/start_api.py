# SPDX-License-Identifier: BSD-2-Clause
"""A worker of the start API in the test's process: real HTTP, a real store, the test's agents."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway.agents.directory import AgentDirectory
from gateway.agents.instance_health import Health, InstanceHealth
from gateway.api.framework.dispatch import routes
from gateway.api.framework.handler_services import Services
from gateway.api.framework.middleware import ApiMiddleware
from gateway.api.pipecat_cloud.start import START
from gateway.auth.media_tokens import MediaTokens, load_secret
from gateway.calls.bot_client import bot_http_client
from gateway.calls.bot_session import BotRequest, BotServices, BotSessions, StartedBot
from gateway.config import AgentSettings, Settings
from gateway.model.reasons import CallEnded, Reasons
from gateway.model.session import CallDetails, SessionOptions, SessionRecord
from gateway.simulator.waiting import POLL_S, WAIT_S, eventually
from gateway.store.sqlite.sqlite_store import SqliteStore
from gateway.store.worker_id import WorkerId
from tests.harness.wiring import wire

LONGEST_S = 600.0
CLOSING = CallEnded(Reasons.draining)


@dataclass
class Reply:
    """An HTTP answer. `body`: its JSON."""

    status: int
    headers: Any
    body: Any


@dataclass
class Worker:
    """A running worker. `http`: a client for it."""

    port: int
    services: Services
    store: SqliteStore
    bots: BotSessions
    http: aiohttp.ClientSession

    async def start(
        self,
        agent: str = "support",
        wanted: Any = None,
        *,
        key: str | None = "pk_acme",
        raw: bytes | None = None,
        **headers: str,
    ) -> Reply:
        """`POST /v1/public/{agent}/start`; header names with underscores. `raw`: the body as it is."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        async with self.http.post(
            f"http://127.0.0.1:{self.port}/v1/public/{agent}/start",
            data=io.BytesIO(json.dumps(wanted or {}).encode() if raw is None else raw),
            headers={"Content-Type": "application/json", **given},
            timeout=aiohttp.ClientTimeout(total=WAIT_S * 2),
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.json())

    async def over(self, session_id: str) -> SessionRecord:
        """Wait until a session is over; return its record."""
        async with asyncio.timeout(WAIT_S):
            while True:
                record = await self.store.session(session_id)
                assert record is not None, "there is no such session"
                if record.ended_at is not None:
                    return record
                await asyncio.sleep(POLL_S)

    async def records(self) -> list[SessionRecord]:
        """Return all sessions, newest first."""
        found, _ = await self.store.sessions()
        return found

    async def assert_nothing_left(self) -> None:
        """Assert that no session holds a slot, and that this worker runs none."""
        assert [record.session_id for record in await self.records() if record.active] == []
        assert self.bots.running == 0

    async def sees(self, instance: str, readiness: Health) -> None:
        """Probe an instance; assert that it has this health."""
        await self.services.calls.health.probe(instance)
        assert self.services.calls.health.of(instance) is readiness


def tables(*instances: str, agent: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Settings with the agent support.acme on these instances, one session each; another organisation too.

    A slot is free when its session is over, whatever the agent does (`stop_timeout` 0).
    """
    acme = {"name": "acme", "public_keys": ["pk_acme"], "private_keys": ["sk_acme"], **more.pop("acme", {})}
    globex = {"name": "globex", "public_keys": ["pk_globex"]}
    support = {"name": "support", "organization": "acme", "instances": list(instances), "stop_timeout": 0}
    support |= agent or {}
    return {"organizations": [acme, globex], "agents": [support], **more}


@asynccontextmanager
async def running_worker(
    file: Path, tables: dict[str, Any], name: str = "worker", clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Worker]:
    """A worker with these settings, on the store in this file. `clock`: of its instances' circuits."""
    settings = Settings.model_validate(tables)
    async with AsyncExitStack() as stack:
        store = SqliteStore(file, WorkerId.of_this_process(f"{name}-{uuid.uuid4().hex}"))
        await store.open()
        stack.push_async_callback(store.close)
        directory = AgentDirectory(settings)
        health = InstanceHealth(
            (instance for agent in directory.agents for instance in agent.instances),
            max_failures=settings.limits.instance_failures,
            now=clock,
        )
        await health.start()
        stack.push_async_callback(health.stop)
        bot_http = await stack.enter_async_context(bot_http_client())
        http = await stack.enter_async_context(aiohttp.ClientSession())
        tokens = MediaTokens(await load_secret(store, time.time), store, time.time)
        wiring = wire(settings, store, directory, health, tokens)
        timeout_s = settings.limits.agent_connect_timeout
        bots = BotSessions(BotServices(store, health, wiring.calls.capacity, bot_http, time.time, timeout_s))
        stack.push_async_callback(wiring.calls.capacity.releases.close)
        stack.push_async_callback(bots.end_all, CLOSING)
        services = Services(*wiring, bots, http)
        app = Starlette(routes=routes(START, services), middleware=[Middleware(ApiMiddleware)])
        # asyncio sends at once only where the protocol is said to be TCP.
        listening = stack.enter_context(socket.socket(proto=socket.IPPROTO_TCP))
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listening])
        stack.push_async_callback(server.shutdown, [listening])
        yield Worker(listening.getsockname()[1], services, store, bots, http)


def bot_details(worker: Worker, session_id: str) -> tuple[AgentSettings, CallDetails]:
    """Return support.acme, and the details of a session that is started with no carrier's call."""
    (support,) = worker.services.calls.agents.agents
    return support, CallDetails(
        session_id=session_id,
        agent=support.service_host,
        organization=support.organization,
        region=support.region,
        carrier="bot",
        call_id=None,
        stream_id=None,
        from_number=None,
        to_number=None,
    )


async def start_bot(worker: Worker, **how: Any) -> StartedBot:
    """Start a session of support.acme."""
    support, details = bot_details(worker, how.pop("session_id", str(uuid.uuid4())))
    options = SessionOptions(transport="bot")
    request = {"headers": {}, "body": b"{}", "max_duration_s": LONGEST_S, "stop_timeout_s": 0.0} | how
    return await worker.bots.start(support, details, options, BotRequest(**request))


async def refused_start(worker: Worker, **how: Any) -> CallEnded:
    """Start a session that is refused; assert that nothing is left of it, and return why."""
    with pytest.raises(CallEnded) as caught:
        await start_bot(worker, **how)
    await eventually(lambda: worker.bots.running == 0, "the session is forgotten")
    await worker.assert_nothing_left()
    return caught.value


def gives_up_after(worker: Worker, seconds: float) -> None:
    """Let the worker's starts wait no longer for a cold agent."""
    object.__setattr__(worker.bots._services, "connect_timeout_s", seconds)
