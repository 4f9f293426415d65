# SPDX-License-Identifier: BSD-2-Clause
"""Composition: the one place that knows everybody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.agents.directory import AgentDirectory
from gateway.agents.http_client import open_client
from gateway.agents.instance_health import InstanceHealth
from gateway.agents.stored_agents import StoredAgents
from gateway.api.framework.dispatch import routes
from gateway.api.framework.docs_page import reading_operations
from gateway.api.framework.health import health_routes
from gateway.api.framework.middleware import ApiMiddleware, http_exception
from gateway.api.framework.services import Services
from gateway.api.routes import OPERATIONS
from gateway.auth.media_tokens import NONCES, MediaTokens, load_secret
from gateway.calls.active import ActiveCalls
from gateway.calls.bot_session import BotServices, BotSessions, bot_http_client
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.outbound.outbound_calls import OutboundCalls
from gateway.calls.remote_call import StreamHandovers
from gateway.calls.services import make_call_services
from gateway.calls.store_watcher import StoreWatcher
from gateway.calls.stream_history import CALL_NONCES, CALL_SOCKETS
from gateway.config import Settings
from gateway.media.accept import SERVE_CALL, Upgrade
from gateway.media.direct_transport import epoll_set_of
from gateway.media.loop_batcher import LoopBatcher
from gateway.media.relay_timers import scheduler_of
from gateway.model.reasons import CallEnded, Reasons
from gateway.store.connect import open_store
from gateway.store.interface import Store, StoreFailed
from gateway.store.worker_id import STALE_S, WorkerId

log = structlog.get_logger(__name__)

COLLECTED_EVERY = 20_000, 20, 20
"""New objects until the collector looks for cycles among the young, and how often it goes on to older ones.

A call leaves next to none, and setting one up makes hundreds of objects: by default every call or two would
be paid for with a look.
"""

SINGLE_USE_KINDS = frozenset({NONCES, CALL_NONCES, CALL_SOCKETS})
"""The kinds of stored values that are written once, and without which a caller with a token is refused."""

HEARTBEAT_S = STALE_S / 4
"""How often a worker records that it is alive, and looks for workers that are not."""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Starlette, Services]]:
    """One worker's application and what it works with, at work.

    Raises StoreFailed where the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        owner = WorkerId.of_this_process(uuid.uuid4().hex)
        store = open_store(
            settings.store.url,
            owner,
            admits_on_failure=settings.store.on_failure == "admit",
            single_use_kinds=SINGLE_USE_KINDS,
            calls_per_organization=settings.limits.calls_per_organization,
        )
        await store.open()
        stack.push_async_callback(store.close)
        services = await _services(settings, store, stack)
        handovers = StreamHandovers(services.calls, services.active, owner.id)
        handovers.start()
        stack.push_async_callback(handovers.stop)
        keeper = asyncio.create_task(_keep(store))
        stack.push_async_callback(_cancelled, keeper)
        turns = _turns(settings.server.relay_batch_ms / 1000)
        turns.start()
        stack.callback(turns.stop)
        application = _application(services, turns)
        # What lives by now lives on: the collector need not look at it again while calls are carried.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTED_EVERY)
        yield application, services


def _turns(rest_s: float) -> LoopBatcher:
    loop = asyncio.get_running_loop()
    return LoopBatcher(rest_s, stay=epoll_set_of(loop).stay, can_poll=scheduler_of(loop).all_direct)


async def _services(settings: Settings, store: Store, stack: AsyncExitStack) -> Services:
    """Makes and starts everything that handlers and calls use; the stack ends it, the last first."""
    await _beat(store)
    directory = AgentDirectory(settings)
    health = InstanceHealth(
        (instance for agent in directory.agents for instance in agent.instances),
        max_failures=settings.limits.instance_failures,
    )
    tokens = MediaTokens(await load_secret(store, time.time), store, time.time)
    calls = make_call_services(settings, store, directory, health, tokens)
    active = ActiveCalls()
    outbound = OutboundCalls(calls, active)
    kept = StoredAgents(settings, store.key_values)

    async def refresh() -> None:
        await kept.refresh(directory, health, time.time())

    await refresh()
    await health.start()
    stack.push_async_callback(health.stop)
    http = await stack.enter_async_context(open_client(settings.limits.session_api_timeout))
    bots = BotSessions(
        BotServices(
            store,
            health,
            calls.capacity,
            http=await stack.enter_async_context(bot_http_client()),
            now=time.time,
            connect_timeout_s=settings.limits.agent_connect_timeout,
        )
    )
    stack.push_async_callback(bots.end_all, CallEnded(Reasons.draining, "the gateway stops"))

    dispatcher = Dispatcher(calls, active, outbound)

    def end_session(session_id: str, end: CallEnded) -> bool:
        return dispatcher.terminate(session_id, end) or bots.stop(session_id, end)

    stack.push_async_callback(calls.clients.close)
    stack.push_async_callback(outbound.end_all, CallEnded(Reasons.draining, "the gateway stops"))
    stops = StoreWatcher(store, end_session, refresh, calls.commands.poll)
    stops.start()
    stack.push_async_callback(stops.stop)
    return Services(
        settings=settings,
        store=store,
        agents=directory,
        calls=calls,
        active=active,
        outbound=outbound,
        dispatcher=dispatcher,
        health=health,
        api_keys=calls.api_keys,
        tokens=tokens,
        bots=bots,
        http=http,
        now=time.time,
        new_id=calls.new_id,
    )


def _application(services: Services, turns: LoopBatcher) -> Starlette:
    def serve(upgrade: Upgrade) -> Coroutine[Any, Any, None]:
        turns.pause()
        return services.dispatcher.serve(upgrade)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {SERVE_CALL: serve}

    operations = [
        *OPERATIONS,
        *reading_operations(OPERATIONS, url=services.settings.server.public_url),
    ]
    application = Starlette(
        routes=[
            *health_routes(services.calls, services.active),
            Route("/ws/{target:path}", _no_upgrade),
            *routes(operations, services),
        ],
        middleware=[Middleware(ApiMiddleware, on_request=turns.pause)],
        exception_handlers={HTTPException: http_exception},
        lifespan=lifespan,
    )
    application.router.redirect_slashes = False  # it would send a client where the Host header says
    return application


async def _no_upgrade(_: Request) -> JSONResponse:
    answer = {"error": "media sockets want a WebSocket upgrade", "code": Reasons.bad_request.code}
    return JSONResponse(answer, HTTPStatus.UPGRADE_REQUIRED, {"Upgrade": "websocket"})


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _keep(store: Store) -> None:
    """Says at an interval that this worker lives, and ends the sessions of those that died."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        await _beat(store)


async def _beat(store: Store) -> None:
    try:
        await store.heartbeat(time.time())
        await store.reap(time.time())
    except StoreFailed as error:
        log.warning("store", error=str(error))
